"""Which algorithms there are: by name, by their configuration, or by the file that defines them."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, get_type_hints

from rlhf_jax.algorithms.named import load_module
from rlhf_jax.checked import shown
from rlhf_jax.ops.checks import check_choice
from rlhf_jax.types import Algorithm, Models, Sampling

Make: TypeAlias = Callable[[Any, Any], Algorithm]
"""(configuration, model) -> algorithm."""

ALGORITHMS: dict[str, Make] = {}
"""Name -> `make`. Filled by `register`."""

_CONFIGS: dict[str, tuple[Make, type]] = {}
"""Name -> (`make`, its configuration)."""
KINDS = ("text", "pairs", "unpaired", "prompts")


def register(name: str, config: Any, make: Any) -> None:
    """Adds an algorithm, under a name that configurations may use from now on.

    Args:
      name: such as "reinforce"; registering it again replaces the one before (a notebook's cell
        that is run twice).
      config: frozen dataclass with `data`, `summary`, `models` and `sampling`
        (`types.AlgorithmConfig`).
      make: (config, model) -> `Algorithm`.

    Raises:
      ValueError: in one line, what the configuration does not say, or why `make` cannot work.
    """
    cls: Any = config
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise ValueError(f"{name}: {config!r} is no dataclass, whose fields are options")
    missing = [field for field in ("data", "models", "sampling") if not hasattr(cls, field)]
    if missing:
        raise ValueError(
            f"{name}: {cls.__name__}.{missing[0]} is missing; a configuration says what it trains "
            "on (data), which trees (models) and what it wants sampled (sampling)"
        )
    if cls.data not in KINDS:
        raise ValueError(f"{name}: {cls.__name__}.data={cls.data!r} is none of {KINDS}")
    _check_make(name, make)
    ALGORITHMS[name] = make
    _CONFIGS[name] = (make, cls)


def _check_make(name: str, make: Any) -> None:
    """Refuses what cannot be called as `make(config, model)`."""
    wanted = f"{name}: make is called as make(config, model) and returns an Algorithm"
    if not callable(make) or isinstance(make, type) and issubclass(make, Algorithm):
        raise ValueError(f"{wanted}; {shown(make)} is no such function")
    try:
        inspect.signature(make).bind(None, None)
    except TypeError as error:
        raise ValueError(f"{wanted}; {shown(make)} cannot be called so: {error}") from None


def find_algorithm(name: str) -> str:
    """The registered name of what a configuration calls its algorithm.

    Args:
      name: a registered name; or ``FILE.py:NAME`` or ``MODULE:NAME``, whose import registers NAME.

    Returns:
      A key of `ALGORITHMS`: the given one.

    Raises:
      ValueError: nothing of that name, in one line.
    """
    if ":" not in name:
        check_choice("algorithm", name, tuple(ALGORITHMS))
        return name
    if name in ALGORITHMS:
        return name
    where, _, own = name.rpartition(":")
    before = (ALGORITHMS.get(own), _CONFIGS.get(own))
    load_module("algorithm", where)
    if own not in ALGORITHMS:
        raise ValueError(
            f"algorithm={name!r}: importing {where} registers no {own!r}; call "
            f"rlhf_jax.algorithms.register({own!r}, Config, make) in it"
        )
    # Kept under the whole name too: a run's config.yaml must lead back to the file.
    config = algorithm_config(own)
    make = ALGORITHMS[own]
    # The bare name means what it meant before: a file may not replace an algorithm of the library.
    tables: tuple[dict[str, Any], ...] = (ALGORITHMS, _CONFIGS)
    for table, entry in zip(tables, before, strict=True):
        table.pop(own, None)
        if entry is not None:
            table[own] = entry
    register(name, config, make)
    return name


def algorithm_config(name: str) -> type:
    """The configuration class of an algorithm.

    Args:
      name: a key of `ALGORITHMS`.

    Raises:
      ValueError: unknown name.
    """
    check_choice("algorithm", name, tuple(ALGORITHMS))
    config = _registered().get(name)
    if config is None:
        raise ValueError(
            f"algorithm={name!r} was put into ALGORITHMS by hand, where nothing says what its "
            f"configuration is: call rlhf_jax.register({name!r}, Config, make)"
        )
    return config


def _registered() -> dict[str, type]:
    """Name -> configuration; of what was put into `ALGORITHMS` by hand where its signature says
    it, so that one that says nothing harms no other."""
    found = {}
    for name, make in ALGORITHMS.items():
        registered, cls = _CONFIGS.get(name, (None, None))
        if registered is not make:
            cls = get_type_hints(make).get("config")
        if cls is not None:
            found[name] = cls
    return found


def algorithm_name(config: Any) -> str:
    """The registered name of a configuration's class: a file's rather than a bare one.

    Args:
      config: an instance of a registered class.

    Raises:
      ValueError: no registered algorithm has this class.
    """
    classes = _registered()
    names = [name for name, cls in classes.items() if type(config) is cls]
    if not names:
        known = ", ".join(cls.__name__ for cls in classes.values())
        raise ValueError(
            f"algorithm: {type(config).__name__} is not the configuration of an algorithm; known: "
            f"{known} (rlhf_jax.make_config takes nested dicts)"
        )
    return next((name for name in names if ":" in name), names[0])


def default_learning_rate(cls: type) -> float | None:
    """What `optimizer.learning_rate` is when a run does not give one.

    Args:
      cls: the configuration class of an algorithm.

    Returns:
      Its class variable `learning_rate`; None: it has none.
    """
    rate = vars(cls).get("learning_rate")
    return None if rate is None else float(rate)


def try_functions(config: Any) -> None:
    """Loads the functions of one's own that an algorithm's configuration names, and tries them on
    shapes (metadata "tried" of a field): a mistake in them need not wait for data and model.

    Args:
      config: of the algorithm, with its defaults worked out.

    Raises:
      ValueError: in one line, why one of them cannot be used.
    """
    for option in dataclasses.fields(config):
        attempt = option.metadata.get("tried")
        if attempt is not None:
            attempt(config)


def make_algorithm(config: Any, model: Any) -> Algorithm:
    """The algorithm of a configuration, checked against what the configuration says of itself.

    Args:
      config: of the algorithm, registered.
      model: functions of all roles.

    Raises:
      ValueError: in one line, what the algorithm needs and the run does not have.
    """
    name = algorithm_name(config)
    algorithm = ALGORITHMS[name](config, model)
    if not isinstance(algorithm, Algorithm):
        raise ValueError(
            f"{name}: make returned {shown(algorithm)}, not a rlhf_jax.Algorithm (is a `return` "
            "missing?)"
        )
    _check(name, algorithm, config.models, config.sampling)
    return algorithm


def _check(name: str, algorithm: Algorithm, models: Models, sampling: Sampling | None) -> None:
    if algorithm.sampling != sampling:
        raise ValueError(
            f"{name}: its algorithm has sampling={algorithm.sampling}, its configuration says "
            f"{sampling}; hand config.sampling on"
        )
    reads = {**dict.fromkeys(algorithm.needs, "always"), **dict.fromkeys(algorithm.cached, "once")}
    if "ref_logps" in reads and models.reference == "none":
        raise ValueError(f"{name}: needs ref_logps; this run has no reference (models.reference)")
    if reads.get("ref_logps") == "always" and models.reference == "once":
        raise ValueError(
            f"{name}: needs ref_logps before every step; its reference is read once "
            "(models.reference='always', or cached instead of needs)"
        )
    if "policy" not in models.trained:
        raise ValueError(f"{name}: trains {', '.join(models.trained)}, and no policy")
