"""Options that are checked when they are made in Python, by the rules that YAML has.

`checked` stands above the `@dataclass` of every section and every algorithm's configuration:
``GRPOConfig(group_size="two")`` is one line that names the field, the value and what is allowed.
"""

import difflib
import functools
import os
from collections.abc import Mapping
from typing import Any, TypeVar, cast, get_origin

import numpy as np

from rlhf_jax.fields import choices, describe, documented, section_class, settable, union_args

T = TypeVar("T", bound=type)
LONGEST = 80
"""Characters of a refused value that are shown."""


def checked(cls: T) -> T:
    """Makes a dataclass refuse values that are not of its fields' types, and show the documentation
    of its fields (`fields.documented`).

    Lists become tuples where the field is one, paths text, NumPy scalars Python numbers, whole
    numbers floats. What `object.__setattr__` puts in later (`fused.with_traced`) is not looked at.

    Args:
      cls: a standard-library dataclass.
    """
    made: Any = cls
    # `__post_init__` compares and computes: it must find what the types promise.
    after = made.__dict__.get("__post_init__")
    if after is None:
        initialise = made.__init__

        @functools.wraps(initialise)
        def __init__(self: Any, *values: Any, **named: Any) -> None:
            initialise(self, *values, **named)
            check_types(self)

        made.__init__ = __init__
    else:

        @functools.wraps(after)
        def __post_init__(self: Any) -> None:
            check_types(self)
            after(self)

        made.__post_init__ = __post_init__
    return documented(cls)


def check_types(options: Any) -> None:
    """Refuses values of other types than their fields'.

    Args:
      options: an instance of a dataclass, any: an algorithm's configuration need not be `checked`.

    Raises:
      ValueError: one line with the field, the value and what is allowed.
    """
    cls = cast(Any, type(options))
    for name, tp in _types(cls).items():
        value = vars(options)[name]
        if value is not _defaults(cls)[name] and not _is_plainly(value, tp):
            object.__setattr__(options, name, _validated(cls, name, tp, value))


@functools.cache
def _types(cls: type) -> dict[str, Any]:
    return {name: key.type for name, key in settable(cls).items()}


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    return {name: key.field.default for name, key in settable(cls).items()}


def _is_plainly(value: Any, tp: Any) -> bool:
    """Whether a value is exactly of a type that needs no further look: most are, and pydantic takes
    as long to import as everything else here."""
    return any(member is Any or member is type(value) for member in union_args(tp))


def _validated(cls: type, name: str, tp: Any, value: Any) -> Any:
    import pydantic  # heavy: only where something unusual is given

    origins = [get_origin(member) or member for member in union_args(tp)]
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, os.PathLike) and str in origins:
        value = os.fspath(value)
    elif isinstance(value, list) and tuple in origins and list not in origins:
        value = tuple(item.item() if isinstance(item, np.generic) else item for item in value)
    section = section_class(tp)
    try:
        if section is None:
            return _adapter(cls, name).validate_python(value)
    except pydantic.ValidationError:
        pass
    wanted = describe(tp) if section is None else f"a {section.__name__}"
    if section is not None and isinstance(value, Mapping):
        wanted += " (rlhf_jax.make_config takes nested dicts)"
    near = difflib.get_close_matches(str(value), choices(tp), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"{name}={shown(value)} of {cls.__name__} is not allowed; allowed: "
        f"{wanted.replace(' or null', ' or None')}{hint}"
    )


@functools.cache
def _adapter(cls: type, name: str) -> Any:
    import pydantic  # as above

    config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)
    return pydantic.TypeAdapter[Any](_types(cls)[name], config=config)


def shown(value: Any) -> str:
    """A value in an error: one line, not too long; a function by its name."""
    if callable(value) and hasattr(value, "__name__"):
        kind = "class" if isinstance(value, type) else "function"
        return f"the {kind} {cast(Any, value).__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
