"""From a parsed tree to a dataclass, strictly: unknown keys, wrong types and refused values are
one-line errors.

Types are checked by pydantic in strict JSON mode (no truth from `1`, no text from numbers), field
by field, so that every error names its key. The dataclasses stay plain standard-library ones and
may stand in any layer.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from rlhf_jax.config.document import Plain, settled
from rlhf_jax.config.errors import ELSEWHERE, ConfigError, did_you_mean, one_line
from rlhf_jax.config.fields import (
    MAPPINGS,
    choices,
    describe,
    dotted_keys,
    section_class,
    settable,
    union_args,
)


class Context(NamedTuple):
    """What errors need beside the value."""

    sources: Mapping[str, str] = {}
    """Dotted key -> where it was given (`configs/dpo.yaml line 7`, `override 'seed=x'`)."""
    known: tuple[str, ...] = ()
    """Every dotted key of the whole configuration, for nearest matches."""

    def where(self, key: str) -> str:
        while key:
            if key in self.sources:
                return f" ({self.sources[key]})"
            key = re.sub(r"\.?[^.[]*$|\[\d+\]$", "", key)
        return ""


def build(cls: type, tree: Any, *, prefix: str = "", context: Context | None = None) -> Any:
    """Build a dataclass from a tree of parsed YAML.

    Args:
        cls: a standard-library dataclass; its fields may be dataclasses again, or lists, tuples and
          dicts of them.
        tree: mapping of field names to values, leaves as `document.parse_document` gives them.
        prefix: dotted key of this section, empty at the top.
        context: where keys were given and what else exists, for errors.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, or a value that the class
          refuses.
    """
    context = context or Context(known=tuple(dotted_keys(cls, f"{prefix}." if prefix else "")))
    if not isinstance(tree, dict):
        shown = _show(tree)
        raise ConfigError(
            f"{prefix}: {shown} is not a section; allowed: {describe(cls)}{context.where(prefix)}"
        )
    fields = settable(cls)
    for name in tree:
        if name not in fields:
            raise unknown_key(f"{prefix}.{name}" if prefix else name, tuple(fields), context)
    values = {}
    for name, value in tree.items():
        values[name] = _value(
            fields[name][1], value, f"{prefix}.{name}" if prefix else name, context
        )
    for name, (field, tp) in fields.items():
        missing = dataclasses.MISSING
        if name not in values and field.default is missing and field.default_factory is missing:
            key = f"{prefix}.{name}" if prefix else name
            if section_class(tp) is not None:
                _value(tp, {}, key, context)  # names the key inside that is required
            raise ConfigError(
                f"{key}: required and not given; allowed: {describe(tp)}{context.where(prefix)}"
            )
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise _refused(error, prefix, values, context) from error


def unknown_key(key: str, allowed: tuple[str, ...], context: Context) -> ConfigError:
    """The error for a key that does not exist."""
    section = key.rpartition(".")[0]
    place = f"in {section}" if section else "at the top level"
    siblings = [f"{section}.{name}" if section else name for name in allowed]
    name = key.rpartition(".")[2].lower()
    same = [
        known for known in context.known if known.rpartition(".")[2] == name and "[]" not in known
    ]
    # before a sibling that merely looks alike
    if ELSEWHERE.get(name) in context.known or len(same) == 1:
        hint = did_you_mean(name, same if len(same) == 1 else context.known)
    else:
        hint = did_you_mean(key, siblings) or did_you_mean(key, context.known)
    return ConfigError(
        f"{key}: unknown key; allowed {place}: {', '.join(allowed)}{hint}{context.where(key)}"
    )


def _refused(
    error: Exception, prefix: str, values: Mapping[str, Any], context: Context
) -> ConfigError:
    """A class's own refusal, with the key in front when the message names one of the fields."""
    text = one_line(error)
    for word in re.findall(r"[A-Za-z_][\w.]*", text):
        name = word.removeprefix(f"{prefix}.").partition(".")[0]
        if name in values:
            key = f"{prefix}.{name}" if prefix else name
            if not word.startswith(key):
                return ConfigError(f"{key}: {text}{context.where(key)}")
            return ConfigError(f"{text}{context.where(word)}")
    said = not prefix or text.startswith(prefix)
    return ConfigError(
        f"{text}{context.where(prefix)}" if said else f"{prefix}: {text}{context.where(prefix)}"
    )


def _value(tp: Any, value: Any, key: str, context: Context) -> Any:
    if dataclasses.is_dataclass(value):
        return value  # built before (the algorithm, whose class is chosen by name)
    section = section_class(tp)
    if section is not None:
        empty = isinstance(value, Plain) and value.value is None
        if empty and type(None) in union_args(tp):
            return None
        return build(section, {} if empty else value, prefix=key, context=context)
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if args and section_class(args[-1] if origin in MAPPINGS else args[0]) is not None:
        if origin in (list, tuple) and isinstance(value, list):
            return origin(
                _value(args[0], item, f"{key}[{index}]", context)
                for index, item in enumerate(value)
            )
        if origin in MAPPINGS and isinstance(value, dict):
            return {
                name: _value(args[1], item, f"{key}.{name}", context)
                for name, item in value.items()
            }
    return _leaf(tp, value, key, context)


def _leaf(tp: Any, value: Any, key: str, context: Context) -> Any:
    import pydantic  # heavy: only when a configuration is read

    reading = _settle(value, tp)
    adapter = pydantic.TypeAdapter(tp, config=pydantic.ConfigDict(strict=True))
    try:
        return adapter.validate_json(json.dumps(reading))
    except pydantic.ValidationError:
        shown = _show(value)
        hint = did_you_mean(str(reading), choices(tp))
        raise ConfigError(
            f"{key}: {shown} is not allowed; allowed: {describe(tp)}{hint}{context.where(key)}"
        ) from None


def _settle(value: Any, tp: Any) -> Any:
    """Replace each `Plain` by its reading, or by its text where the type takes text and not the
    reading."""
    members = union_args(tp)
    if isinstance(value, Plain):
        if _admits(members, value.value):
            return value.value
        if value.value is not None and _admits(members, value.text):
            return value.text
        if isinstance(value.value, float) and value.value.is_integer() and int in members:
            return int(value.value)
        return value.value
    for member in members:
        origin, args = typing.get_origin(member), typing.get_args(member)
        if isinstance(value, list) and origin in (list, tuple) and args:
            types_ = args if origin is tuple and Ellipsis not in args else (args[0],) * len(value)
            if len(types_) == len(value):
                return [
                    _settle(item, item_type) for item, item_type in zip(value, types_, strict=True)
                ]
        if isinstance(value, dict) and origin in MAPPINGS:
            return {name: _settle(item, args[1]) for name, item in value.items()}
    return settled(value)


def _admits(members: tuple[Any, ...], reading: Any) -> bool:
    for member in members:
        if typing.get_origin(member) is Literal and any(
            reading == arg and type(reading) is type(arg) for arg in typing.get_args(member)
        ):
            return True
        if member is Any or (member is float and type(reading) is int) or type(reading) is member:
            return True
    return False


def _show(value: Any) -> str:
    return repr(value.text if isinstance(value, Plain) else settled(value))
