"""YAML text to plain trees and back, with the line of every key.

Scalars follow the YAML 1.2 core schema (what people expect), not YAML 1.1 (what PyYAML reads):
`1e-5` is a number, `on` and `no` are text, `010` is ten, there are no dates. In addition `None` is
null. The text of an unquoted scalar is kept beside its reading, so that the type of the field can
decide later (`run_dir=2024` is text because `run_dir` is text).
"""

import contextlib
import dataclasses
import json
import pathlib
import re
from typing import Any, NamedTuple

import yaml

from rlhf_jax.config.errors import ConfigError, nearest, one_line
from rlhf_jax.config.fields import plain

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
    trees = _Trees(name)
    return Document({} if node is None else trees.build(node, ""), trees.lines)


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
    return _Trees(name).build(_compose(text, name), "")


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
        said = one_line(error.problem or error.context or "unreadable")
        raise ConfigError(f"{name}: not valid YAML: {line}{said}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {one_line(error)}") from None


class _Trees:
    """Nodes to trees, aliases written out, within the budgets."""

    def __init__(self, name: str):
        self.name = name
        self.lines: dict[str, int] = {}
        self._open: list[yaml.Node] = []
        self._values = 0

    def build(self, node: yaml.Node, path: str) -> Any:
        """The tree of a node that stands at a dotted key."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise ConfigError(
                f"{self.name}: more than {MAX_VALUES:,} values once its aliases are written out"
            )
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else read_scalar(node.value)
        if node in self._open:
            raise _fault(self.name, node, "an alias refers to a value that contains it")
        if len(self._open) == MAX_DEPTH:  # through aliases: the text itself is no deeper
            raise _fault(self.name, node, f"nested more than {MAX_DEPTH} deep")
        self._open.append(node)
        if isinstance(node, yaml.MappingNode):
            tree: Any = self._mapping(node, path)
        else:
            tree = [self.build(item, f"{path}[{place}]") for place, item in enumerate(node.value)]
        self._open.pop()
        return tree

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault(self.name, key, f"a key must be plain text, not a {_kind(key)}")
            dotted = f"{path}.{key.value}" if path else key.value
            if key.value in tree:
                first = f"(first on line {self.lines[dotted]}); keep one"
                raise _fault(self.name, key, f"{dotted!r} is given twice {first}")
            self.lines[dotted] = key.start_mark.line + 1
            tree[key.value] = self.build(value, dotted)
        return tree


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
    node = yaml.representer.SafeRepresenter().represent_data(value)
    if isinstance(value, str) and not (read_scalar(value).value == value and value.isprintable()):
        return yaml.ScalarNode(node.tag, value, style='"')
    return node


def _similar_file(path: pathlib.Path) -> str:
    folders = (path.parent, pathlib.Path("configs"), pathlib.Path())
    found = {file.stem: file for folder in folders for file in sorted(folder.glob("*.y*ml"))}
    match = nearest(path.stem, found)
    return f"; did you mean '{found[match]}'?" if match is not None else ""
