"""From the name of a reward function to something that can be called."""

import ast
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import pathlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_jax.handed import handed, is_handed
from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.rewards.limits import POOL_OPTIONS, cpu_seconds, is_builtin
from rlhf_jax.rewards.registry import LIMITED, REWARDS
from rlhf_jax.rewards.verl import from_verl, is_verl

GRADED = ("prompts", "completions", "completion_ids")
"""Arguments that every reward function may take, and a factory takes none of."""
GIVEN = (*GRADED, "trainer_state", "log_extra", "log_metric")
"""Arguments that are neither data columns nor options."""
_STANDARD = (
    "rewards.function {name!r} belongs to Python's standard library, which holds no reward "
    "functions: write one in a file of your own, 'file.py:function'"
)


@dataclasses.dataclass(frozen=True)
class LoadedReward:
    """A reward function with its options bound."""

    function: Callable[..., Any]
    options: Mapping[str, Any]
    takes: frozenset[str] | None
    """Names of the arguments it takes; None: any (it has ``**kwargs``)."""
    required: tuple[str, ...]
    """Data columns that it cannot be called without."""
    is_async: bool
    is_builtin: bool
    cpu_seconds: float | None
    """Processor time after which the answer is wrong; None: no such limit."""
    own: frozenset[str]
    """Options of a built-in: a data column of such a name ("answer", "reasoning") is no value for
    them."""

    def arguments(
        self, given: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
    ) -> dict[str, Any]:
        """Keyword arguments of a call, as the function takes them: `GIVEN`, columns, options."""
        columns = {name: values for name, values in columns.items() if name not in self.own}
        every = {**columns, **given, **self.options}
        return (
            every
            if self.takes is None
            else {name: value for name, value in every.items() if name in self.takes}
        )


def check_name(config: RewardConfig) -> None:
    """Raises ValueError when `config.function` cannot be a reward function; imports nothing."""
    name = config.function
    if is_handed(name):
        return
    if name in REWARDS:
        if config.batched:
            raise ValueError(
                f"rewards.batched true of {name!r}: built-ins grade each completion by itself; "
                "leave it out"
            )
        return
    place, colon, attribute = name.rpartition(":")
    if not colon:
        near = difflib.get_close_matches(name, REWARDS, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"rewards.function {name!r} is unknown: {meant}built-in are {', '.join(REWARDS)}; "
            "one's own are 'module:function' or 'file.py:function'"
        )
    if not place or not attribute:
        raise ValueError(
            f"rewards.function {name!r} must be 'module:function' or 'file.py:function'"
        )
    if place.endswith(".py") and not pathlib.Path(place).is_file():
        raise ValueError(f"rewards.function {name!r}: there is no file {place}")
    if _in_standard_library(place):
        raise ValueError(_STANDARD.format(name=name))
    if place.endswith(".py"):
        _check_written(name, pathlib.Path(place), attribute.partition(".")[0])


def _check_written(name: str, path: pathlib.Path, wanted: str) -> None:
    """Raises ValueError when a file cannot be compiled, or binds the name nowhere."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, OSError) as error:
        raise ValueError(
            f"rewards.function {name!r} cannot be imported: {_one_line(error)}"
        ) from error
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    # A file may also make names as it runs: these are seen when it is imported.
    dynamic = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if wanted in bound or "*" in bound or "__getattr__" in bound or dynamic & _MAKERS:
        return
    raise ValueError(_absent(name, str(path), wanted, bound))


_MAKERS = frozenset({"globals", "vars", "locals", "setattr", "exec"})


def _absent(name: str, place: str, wanted: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"rewards.function {name!r}: {place} has no {wanted!r}{meant}"


def load_reward(config: RewardConfig) -> LoadedReward:
    """Imports a reward function and binds its options.

    A function (or class) without any parameter of `GRADED` and without ``**kwargs`` is a factory:
    called once with the options, it must return the reward function.

    Raises:
      ValueError: one line; no such module, attribute or option.
    """
    check_name(config)
    function = REWARDS.get(config.function) or _found(config.function)
    options = dict(config.options)
    if config.function in LIMITED:
        options = {option: value for option, value in options.items() if option not in POOL_OPTIONS}
    if is_verl(function):
        function = from_verl(function)
    elif _is_factory(function):
        function = _made(config, function)
        options = {}
    if reserved := sorted(set(options) & set(GIVEN)):
        raise ValueError(
            f"rewards.options of {config.function!r}: {reserved[0]!r} is what is graded, not an "
            "option"
        )
    parameters = inspect.signature(function).parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if config.function in REWARDS or not anything:
        own = POOL_OPTIONS if config.function in LIMITED else ()
        _check_options(config, options, [*(p.name for p in named if p.name not in GIVEN), *own])
    required = tuple(
        p.name
        for p in named
        if p.default is p.empty and p.name not in GIVEN and p.name not in options
    )
    if config.function in REWARDS and required:
        raise ValueError(f"rewards.options of {config.function!r} lack {', '.join(required)}")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )
    takes = None if anything else frozenset(p.name for p in named)
    own = (
        frozenset(p.name for p in named if p.kind is p.KEYWORD_ONLY)
        if config.function in REWARDS
        else frozenset()
    )
    return LoadedReward(
        function, options, takes, required, is_async, is_builtin(config), cpu_seconds(config), own
    )


def _found(name: str) -> Callable[..., Any]:
    """A function of one's own, handed over or imported."""
    if is_handed(name):
        function: Callable[..., Any] = handed("rewards.function", name, "rewards=[...]")
        return function
    return _import(name)


def _import(name: str) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    try:
        module = (
            _import_file(pathlib.Path(place))
            if place.endswith(".py")
            else importlib.import_module(place)
        )
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises becomes one line
        raise ValueError(
            f"rewards.function {name!r} cannot be imported: {_one_line(error)}"
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(_absent(name, place, part, dir(found)))
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"rewards.function {name!r} is {type(found).__name__}, not a function")
    # reached through another module's imports
    if not place.endswith(".py") and _in_standard_library(_home(found)):
        raise ValueError(_STANDARD.format(name=name))
    return found


def _home(found: Any) -> str:
    """The module that a function comes from."""
    while isinstance(found, functools.partial):
        found = found.func
    return str(getattr(found, "__module__", None) or type(found).__module__)


def _in_standard_library(place: str) -> bool:
    """Whether a module, or a Python file, is Python's own: those run programs and move files."""
    if not place.endswith(".py"):
        return place.partition(".")[0] in sys.stdlib_module_names
    path = pathlib.Path(place).resolve()
    libraries = [
        pathlib.Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")
    ]
    inside = any(library in path.parents for library in libraries)
    return inside and not {"site-packages", "dist-packages"} & set(path.parts)


def _import_file(path: pathlib.Path) -> Any:
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # as when the file is run: it may import its neighbours
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _is_factory(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return not any(p.name in GRADED or p.kind is p.VAR_KEYWORD for p in parameters)


def _made(config: RewardConfig, factory: Callable[..., Any]) -> Callable[..., Any]:
    try:
        made = factory(**config.options)
    except Exception as error:  # a stranger's code
        raise ValueError(
            f"rewards.function {config.function!r} with options {dict(config.options)}: "
            f"{_one_line(error)}"
        ) from error
    if not callable(made):
        raise ValueError(
            f"rewards.function {config.function!r} takes neither prompts nor completions, and "
            f"returned {type(made).__name__}, not a reward function"
        )
    return from_verl(made) if is_verl(made) else made


def _check_options(config: RewardConfig, options: Mapping[str, Any], known: Sequence[str]) -> None:
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"rewards.options of {config.function!r} have no {option!r}: {meant}known are "
                f"{', '.join(known) or 'none'}"
            )


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
