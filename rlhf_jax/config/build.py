"""From a parsed tree to a dataclass, strictly: unknown keys, wrong types and refused values are
one-line errors.

pydantic checks the whole tree at once, in strict JSON mode (no truth from `1`, no text from
numbers), and says what is wrong where; the words are ours. The dataclasses stay plain
standard-library ones and may stand in any layer.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rlhf_jax.checked import shown
from rlhf_jax.config.document import Plain, settled
from rlhf_jax.config.errors import LEAST_ELSEWHERE, ConfigError, did_you_mean, one_line
from rlhf_jax.config.other_names import KEYS, REASONS, SECTIONS
from rlhf_jax.fields import (
    REQUIRED,
    Key,
    all_keys,
    choices,
    describe,
    section_class,
    settable,
)

RANK = {"unexpected_keyword_argument": 0, "missing": 2, "value_error": 3}
"""Which of several mistakes is told: unknown keys, wrong types (1), what is missing, what a class
refuses."""


class Context(NamedTuple):
    """Mistakes in a user's words: key, value, what is allowed, nearest match, place."""

    sources: Mapping[str, str] = {}
    """Dotted key -> where it was given (`configs/dpo.yaml line 7`, `override 'seed=x'`)."""

    def error(self, key: str, text: str) -> ConfigError:
        """What is wrong, and where the key or else the section around it was given."""
        while key and key not in self.sources:
            item = re.fullmatch(r"(.*)\[\d+\]", key)
            key = item[1] if item else key.rpartition(".")[0]
        return ConfigError(f"{text} ({self.sources[key]})" if key else text)

    def explained(self, mistake: Mapping[str, Any], value: Any, top: dict[str, Key]) -> ConfigError:
        """What pydantic found in a tree."""
        known = {key.key: key for key in all_keys(top)}
        key = place = ""
        tp: Any = None
        rest = list(mistake["loc"])
        while rest:
            below = [name for name in (_dotted(place, rest[0]), f"{place}[]") if name in known]
            if not below:
                break  # into a value that is no section, or to a key that does not exist
            part = rest.pop(0)
            place = below[0]
            tp = known[place].type
            key = f"{key}[{part}]" if isinstance(part, int) else _dotted(key, part)
            value = value[part] if isinstance(value, list) else value.get(part)
        kind = mistake["type"]
        fields = _fields(tp) if key else top
        if kind == "unexpected_keyword_argument" and len(rest) == 1:
            return self.unknown(_dotted(key, rest[0]), fields, known)
        if kind == "value_error":
            return self.refused(mistake["ctx"]["error"], key, {} if rest else fields)
        if kind == "missing" and not rest:
            # in a section the first key that is required
            while needed := [field for field in _fields(tp).values() if field.default is REQUIRED]:
                key = f"{key}.{needed[0].key}"
                tp = needed[0].type
            return self.error(key, f"{key}: required and not given; allowed: {describe(tp)}")
        given = shown(value.text if isinstance(value, Plain) else settled(value))
        section = section_class(tp)
        if section is not None:
            text = f"{given} is not a section; allowed: {describe(section)}"
        else:
            hint = did_you_mean(str(settled(value)), choices(tp))
            text = f"{given} is not allowed; allowed: {describe(tp)}{hint}"
        return self.error(key, f"{key}: {text}")

    def unknown(self, key: str, fields: Mapping[str, Key], known: Mapping[str, Key]) -> ConfigError:
        """A key that does not exist."""
        section, _, name = key.rpartition(".")
        siblings = [_dotted(section, other) for other in fields]
        # itself, or a key below it that an override gave
        given = [other for other in self.sources if f"{other}.".startswith(f"{key}.")]
        deepest = max(given, key=len, default=key).rpartition(".")[2]
        hint = _elsewhere(name, known) or (_elsewhere(deepest, known) if name in SECTIONS else "")
        hint = hint or did_you_mean(key, siblings) or _elsewhere(deepest, known)
        hint = hint or did_you_mean(key, known, least=LEAST_ELSEWHERE)
        place = f"in {section}" if section else "at the top level"
        text = f"{key}: unknown key; allowed {place}: {', '.join(fields)}{hint}"
        return self.error(given[0] if given else key, text)

    def refused(self, error: ValueError, section: str, fields: Mapping[str, Key]) -> ConfigError:
        """What a class says of its own values; it begins with a field's name or `section.name`."""
        text = one_line(error)
        word = re.sub(r"[^\w.].*", "", text)
        around = re.sub(r"\[\d+\]", "", section)
        name = word.removeprefix(f"{around}.").removeprefix(f"{around.rpartition('.')[2]}.")
        key = _dotted(section, name) if name.partition(".")[0] in fields else section
        return self.error(key, text if text.startswith(key) else f"{key}: {text}")


def build(
    cls: type, tree: dict[str, Any], *, context: Context | None = None, **chosen: type
) -> Any:
    """Build a dataclass from a tree of parsed YAML.

    Args:
        cls: a standard-library dataclass; its fields may be dataclasses again, or lists, tuples and
          dicts of them.
        tree: mapping of field names to values, leaves as `document.parse_document` gives them. An
          unquoted scalar gets the reading that its field takes, in place.
        context: where keys were given, for errors.
        **chosen: class of a field, where only this run says which one it is (the algorithm's).

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, or a value that the class
          refuses.
    """
    import pydantic  # heavy: only when a configuration is read

    told = context or Context()
    keys = settable(cls, **chosen)
    whole = dataclasses.make_dataclass(
        cls.__name__,
        [
            (name, key.type) if key.default is REQUIRED else (name, key.type, None)
            for name, key in keys.items()
        ],
        kw_only=True,
    )
    rules = pydantic.with_config(strict=True, extra="forbid", arbitrary_types_allowed=True)
    adapter = pydantic.TypeAdapter[Any](rules(whole))
    while True:
        try:
            checked = adapter.validate_json(json.dumps(settled(tree)))
            return cls(**{name: getattr(checked, name) for name in tree})
        except pydantic.ValidationError as error:
            mistakes = error.errors()
        except ValueError as error:
            raise told.refused(error, "", keys) from error
        if not any([_read_anew(tree, mistake) for mistake in mistakes]):
            first = min(mistakes, key=lambda mistake: RANK.get(mistake["type"], 1))
            raise told.explained(first, tree, keys)


def _read_anew(tree: dict[str, Any], mistake: Mapping[str, Any]) -> bool:
    """Gives an unquoted scalar the reading that its field takes instead, if there is one."""
    holder: Any = tree
    value: Any = tree
    place: Any = None
    for part in mistake["loc"]:
        with contextlib.suppress(LookupError, TypeError):  # the others name members of unions
            inner = value[part]
            holder = value
            place = part
            value = inner
    match mistake["type"], value:
        case "dataclass_type", Plain(value=None) if place == mistake["loc"][-1]:
            holder[place] = {}  # a section with nothing in it
        case "string_type", Plain(text, int() | float()):
            holder[place] = Plain(text, text)
        case "literal_error", Plain(text, int() | float()) if (
            repr(text) in mistake["ctx"]["expected"]
        ):
            holder[place] = Plain(text, text)
        case "int_type", Plain(text, float(number)) if number.is_integer():
            holder[place] = Plain(text, int(number))
        case _:
            return False
    return True


def _elsewhere(name: str, known: Iterable[str]) -> str:
    """Where a key of that name stands: in another section, or in other words; or why nowhere.

    In front of a sibling that merely looks alike.
    """
    name = name.lower()
    same = [key for key in known if key.rpartition(".")[2] == name and "[]" not in key]
    other = [key for key in KEYS.get(name, ()) if key in known]
    if len(same) == 1 or other:
        return f"; did you mean {(same if len(same) == 1 else other)[0]!r}?"
    return f"; {REASONS[name]}" if name in REASONS else ""


def _dotted(section: str, name: Any) -> str:
    return f"{section}.{name}" if section else name


def _fields(tp: Any) -> dict[str, Key]:
    section = section_class(tp)
    return {} if section is None else settable(section)
