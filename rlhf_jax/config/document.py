"""YAML text to plain trees and back, with the line of every key.

Scalars follow the YAML 1.2 core schema (what people expect), not YAML 1.1 (what PyYAML reads):
`1e-5` is a number, `on` and `no` are text, `010` is ten, there are no dates. In addition `None` is
null. The text of an unquoted scalar is kept beside its reading, so that the type of the field can
decide later (`run_dir=2024` is text because `run_dir` is text).
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import yaml

from rlhf_jax.config.errors import ConfigError, nearest, one_line
from rlhf_jax.fields import plain

WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL", "None"))
WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
NUMBER = re.compile(r"[-+]?\.?([0-9][-+.\w]*|inf|nan)", re.ASCII | re.IGNORECASE)
"""What may be a number; Python's own reading decides."""
MAX_DEPTH = 50
"""Brackets and indentations inside each other: deeper ones would end in the interpreter's recursion
limit."""
MAX_VALUES = 100_000
"""Values after aliases are written out: a kilobyte of aliases of aliases stands for billions."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """An unquoted scalar: its text and its reading (None, bool, int, float or the text itself)."""

    text: str
    value: None | bool | int | float | str


class Document(NamedTuple):
    """A parsed YAML mapping. Leaves are `Plain` (unquoted) or `str` (quoted)."""

    tree: dict[str, Any]
    lines: dict[str, int]
    """Dotted key -> line, counted from 1."""

    def places(self, path: str | os.PathLike[str]) -> dict[str, str]:
        """Dotted key -> where it stands, for errors: FILE line N."""
        return {key: f"{path} line {line}" for key, line in self.lines.items()}


def read_scalar(text: str) -> Plain:
    """Read an unquoted scalar by the rules of this module."""
    text = text.strip()
    if text in WORDS:
        return Plain(text, WORDS[text])
    if NUMBER.fullmatch(text):
        for kind in (int, float):
            # of thousands of digits: no int (Python refuses), but a float
            with contextlib.suppress(ValueError):
                return Plain(text, kind(re.sub(r"\.(?=[in])", "", text, flags=re.IGNORECASE)))
    return Plain(text, text)


def parse_document(text: str, name: str) -> Document:
    """Parse a configuration file.

    Args:
        text: YAML text whose top level is a mapping; an empty text is an empty mapping.
        name: the file's name, for errors.

    Raises:
        ConfigError: invalid YAML, a top level that is no mapping, a key given twice, an alias
          inside itself, or more than `MAX_DEPTH` and `MAX_VALUES` allow.
    """
    node = _compose(text, name)
    if not isinstance(node, yaml.MappingNode | None):
        raise ConfigError(
            f"{name}: the top level must be a mapping of sections (key: value), not a {_kind(node)}"
        )
    lines: dict[str, int] = {}
    return Document({} if node is None else _construct(node, name, lines), lines)


def read_document(path: pathlib.Path) -> Document:
    """`parse_document` of a file.

    Raises:
        ConfigError: no such file (the nearest existing name is offered), or no readable text, or
          see `parse_document`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file{_similar_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    return parse_document(text, str(path))


def parse_value(text: str, name: str) -> Any:
    """Parse the right side of an override: flow syntax when it opens with a bracket, brace or
    quote; else one plain scalar."""
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        return read_scalar(text)
    return _construct(_compose(text, name), name, {})


def text_of(scalar: Any) -> str:
    """The text of a scalar as it stands in the file."""
    return scalar.text if isinstance(scalar, Plain) else str(settled(scalar))


def settled(tree: Any) -> Any:
    """A tree of readings: every `Plain` replaced by its value."""
    return json.loads(json.dumps(tree, default=lambda scalar: scalar.value))


def render(tree: Any) -> str:
    """YAML text of nested dicts, lists and scalars, such that `parse_document` gives the same
    values back."""
    node = _represent(plain(tree))
    return yaml.serialize(node, Dumper=yaml.SafeDumper, width=2**20, allow_unicode=True)


def _compose(text: str, name: str) -> Any:
    """YAML text as a graph of nodes (an alias is the node it names)."""
    depth = 0
    try:
        # does not recurse, as composing does
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _fault(name, event, f"nested more than {MAX_DEPTH} deep")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        said = line + one_line(error.problem or error.context or "unreadable")
    except yaml.YAMLError as error:
        said = one_line(error)
    raise ConfigError(f"{name}: not valid YAML: {said}")


def _construct(node: Any, name: str, lines: dict[str, int]) -> Any:
    """A node as a tree, aliases written out, and the line of each key."""
    open_nodes: list[yaml.Node] = []
    values = itertools.count(1)

    def build(node: Any, path: str) -> Any:
        if next(values) > MAX_VALUES:
            text = f"more than {MAX_VALUES:,} values once its aliases are written out"
            raise ConfigError(f"{name}: {text}")
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else read_scalar(node.value)
        if node in open_nodes:
            raise _fault(name, node, "an alias refers to a value that contains it")
        if len(open_nodes) == MAX_DEPTH:
            raise _fault(name, node, f"nested more than {MAX_DEPTH} deep")
        open_nodes.append(node)
        tree: Any = {}
        if isinstance(node, yaml.SequenceNode):
            tree = [build(item, f"{path}[{place}]") for place, item in enumerate(node.value)]
        else:
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _fault(name, key, f"a key must be plain text, not a {_kind(key)}")
                dotted = f"{path}.{key.value}" if path else key.value
                if key.value in tree:
                    first = f"(first on line {lines[dotted]})"
                    raise _fault(name, key, f"{dotted!r} is given twice {first}; keep one")
                lines[dotted] = key.start_mark.line + 1
                tree[key.value] = build(value, dotted)
        open_nodes.pop()
        return tree

    return build(node, "")


def _fault(name: str, place: Any, text: str) -> ConfigError:
    return ConfigError(f"{name}: line {place.start_mark.line + 1}: {text}")


def _kind(node: yaml.Node) -> str:
    return type(node).__name__.removesuffix("Node").lower()


def _represent(value: Any) -> yaml.Node:
    if isinstance(value, dict):
        pairs = [(_represent(key), _represent(item)) for key, item in value.items()]
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=not pairs)
    if isinstance(value, list):
        flow = not any(isinstance(item, dict | list) for item in value)
        nodes = [_represent(item) for item in value]
        return yaml.SequenceNode("tag:yaml.org,2002:seq", nodes, flow_style=flow)
    if isinstance(value, str) and not (read_scalar(value).value == value and value.isprintable()):
        return yaml.ScalarNode("tag:yaml.org,2002:str", value, style='"')
    return yaml.representer.SafeRepresenter().represent_data(value)


def _similar_file(path: pathlib.Path) -> str:
    folders = (pathlib.Path(), pathlib.Path("configs"), path.parent)  # the last one wins
    found = {file.stem: file for folder in folders for file in sorted(folder.glob("*.y*ml"))}
    match = nearest(path.stem, found)
    return f"; did you mean '{found[match]}'?" if match is not None else ""
