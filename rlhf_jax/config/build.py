"""From a parsed tree to a dataclass, strictly: unknown keys, wrong types and refused values are
one-line errors.

pydantic checks the whole tree at once, in strict JSON mode (no truth from `1`, no text from
numbers), and says what is wrong where; the words are ours. The dataclasses stay plain
standard-library ones and may stand in any layer.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.config.document import Plain, settled
from rlhf_jax.config.errors import ELSEWHERE, ConfigError, did_you_mean, one_line
from rlhf_jax.config.fields import (
    REQUIRED,
    all_keys,
    choices,
    describe,
    item_class,
    section_class,
    settable,
)

RANK = {"unexpected_keyword_argument": 0, "missing": 2, "value_error": 3}
"""Which of several mistakes is told: unknown keys, wrong types (1), what is missing, what a class
refuses."""


class Context(NamedTuple):
    """What errors need beside the value."""

    sources: Mapping[str, str] = {}
    """Dotted key -> where it was given (`configs/dpo.yaml line 7`, `override 'seed=x'`)."""

    def error(self, key: str, text: str) -> ConfigError:
        """What is wrong, and where the key or else the section around it was given."""
        while key and key not in self.sources:
            key = re.sub(r"\.?[^.[]*$|\[\d+\]$", "", key)
        return ConfigError(f"{text} ({self.sources[key]})" if key else text)


def build(
    cls: type,
    tree: dict[str, Any],
    *,
    context: Context | None = None,
    chosen: Mapping[str, type] | None = None,
) -> Any:
    """Build a dataclass from a tree of parsed YAML.

    Args:
        cls: a standard-library dataclass; its fields may be dataclasses again, or lists, tuples and
          dicts of them.
        tree: mapping of field names to values, leaves as `document.parse_document` gives them. An
          unquoted scalar gets the reading that its field takes, in place.
        context: where keys were given, for errors.
        chosen: field -> class, where only this run says which one it is (the algorithm's).

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, or a value that the class
          refuses.
    """
    import pydantic  # heavy: only when a configuration is read

    context = context or Context()
    chosen = chosen or {}
    required = {name for name, key in settable(cls).items() if key.default is REQUIRED}
    types = {**_types(cls), **chosen}
    whole = dataclasses.make_dataclass(
        cls.__name__,
        [(name, tp) if name in required else (name, tp, None) for name, tp in types.items()],
        kw_only=True,
        namespace={
            "__pydantic_config__": pydantic.ConfigDict(
                strict=True, extra="forbid", arbitrary_types_allowed=True
            )
        },
    )
    adapter = pydantic.TypeAdapter[Any](whole)
    while True:
        try:
            checked = adapter.validate_json(json.dumps(settled(tree)))
            return cls(**{name: getattr(checked, name) for name in tree})
        except pydantic.ValidationError as error:
            mistakes = error.errors()
        except ValueError as error:
            raise _refused(error, "", types, context) from error
        if not any([_read_anew(tree, mistake) for mistake in mistakes]):
            mistake = min(mistakes, key=lambda mistake: RANK.get(mistake["type"], 1))
            known = [key.key for key in all_keys(cls)]
            for name, tp in chosen.items():
                known += [key.key for key in all_keys(tp, f"{name}.")]
            raise _explained(mistake, tree, types, known, context)


def _read_anew(tree: dict[str, Any], mistake: Mapping[str, Any]) -> bool:
    """Gives an unquoted scalar the reading that its field takes instead, if there is one."""
    holder: Any = tree
    place: Any = ""
    value: Any = tree
    for part in mistake["loc"]:
        if _has(value, part):  # if not, it names a member of a union
            holder = value
            place = part
            value = value[part]
    if not isinstance(value, Plain):
        return False
    kind = mistake["type"]
    reading = value.value
    if kind == "literal_error" and repr(value.text) in mistake["ctx"]["expected"]:
        kind = "string_type"
    if kind == "dataclass_type" and reading is None:
        holder[place] = {}  # a section with nothing in it
    elif kind == "string_type" and not isinstance(reading, str | None):
        holder[place] = Plain(value.text, value.text)
    elif kind == "int_type" and isinstance(reading, float) and reading.is_integer():
        holder[place] = Plain(value.text, int(reading))
    else:
        return False
    return True


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _explained(
    mistake: Mapping[str, Any],
    value: Any,
    types: Mapping[str, Any],
    known: Sequence[str],
    context: Context,
) -> ConfigError:
    """What pydantic found, with the key as the user knows it and in a user's words."""
    kind = mistake["type"]
    key = ""
    tp = None
    inside = list(mistake["loc"])
    while inside:
        part = inside[0]
        child = types.get(part, item_class(tp) if _has(value, part) else None)
        if child is None:
            break  # into a value that is no section, or no such key
        tp = child
        types = _types(section_class(child))
        key = f"{key}[{part}]" if isinstance(part, int) else _dotted(key, part)
        value = value[part] if _has(value, part) else None
        inside.pop(0)
    section = section_class(tp)
    if kind == "unexpected_keyword_argument" and len(inside) == 1:
        return _unknown(_dotted(key, inside[0]), types, known, context)
    if kind == "value_error":
        return _refused(mistake["ctx"]["error"], key, {} if inside else types, context)
    if kind == "missing" and not inside:
        # a section: the first key in it that is required
        while section and (
            needed := [k for k in settable(section).values() if k.default is REQUIRED]
        ):
            key = f"{key}.{needed[0].key}"
            tp = needed[0].type
            section = section_class(tp)
        text = "required and not given"
    else:
        text = repr(value.text if isinstance(value, Plain) else settled(value))
        text += " is not allowed" if section is None else " is not a section"
    hint = did_you_mean(str(settled(value)), choices(tp))
    return context.error(key, f"{key}: {text}; allowed: {describe(section or tp)}{hint}")


def _unknown(
    key: str, types: Mapping[str, Any], known: Sequence[str], context: Context
) -> ConfigError:
    section, _, name = key.rpartition(".")
    name = name.lower()
    same = [other for other in known if other.rpartition(".")[2] == name and "[]" not in other]
    # before a sibling that merely looks alike
    if ELSEWHERE.get(name) in known or len(same) == 1:
        hint = did_you_mean(name, same if len(same) == 1 else known)
    else:
        hint = did_you_mean(key, [_dotted(section, other) for other in types])
        hint = hint or did_you_mean(key, known)
    place = f"in {section}" if section else "at the top level"
    return context.error(key, f"{key}: unknown key; allowed {place}: {', '.join(types)}{hint}")


def _refused(
    error: ValueError, section: str, types: Mapping[str, Any], context: Context
) -> ConfigError:
    """What a class says of its own values; it begins with a field's name or `section.name`."""
    text = one_line(error)
    word = re.sub(r"[^\w.].*", "", text)
    around = re.sub(r"\[\d+\]", "", section)
    name = word.removeprefix(f"{around}.").removeprefix(f"{around.rpartition('.')[2]}.")
    key = _dotted(section, name) if name.partition(".")[0] in types else section
    return context.error(key, text if text.startswith(key) else f"{key}: {text}")


def _types(cls: type | None) -> dict[str, Any]:
    return {} if cls is None else {name: key.type for name, key in settable(cls).items()}


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
