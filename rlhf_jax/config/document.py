"""YAML text to plain trees and back, with the line of every key.

Scalars follow the YAML 1.2 core schema (what people expect), not YAML 1.1 (what PyYAML reads):
`1e-5` is a number, `on` and `no` are text, `010` is ten, there are no dates. In addition `None` is
null. The text of an unquoted scalar is kept beside its reading, so that the type of the field can
decide later (`run_dir=2024` is text because `run_dir` is text).
"""

import math
import pathlib
import re
from typing import Any, NamedTuple

import yaml

from rlhf_jax.config.errors import ConfigError, nearest, one_line

NULLS = frozenset({"", "~", "null", "Null", "NULL", "None"})
BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?[0-9][0-9_]*")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"([-+]?)\.?(inf|Inf|INF)")
NAN = frozenset({".nan", ".NaN", ".NAN", "nan", "NaN"})
TAG = "tag:yaml.org,2002:"
MAX_DIGITS = 100
"""Of an integer; a longer one is read as a float, as Python refuses to convert thousands of
digits."""
MAX_DEPTH = 50
"""Brackets and indentations inside each other: deeper ones would end in the interpreter's recursion
limit."""
MAX_VALUES = 100_000
"""Values after aliases are written out: a kilobyte of aliases of aliases stands for billions."""


class Plain(NamedTuple):
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
    value: None | bool | int | float | str = text
    if text in NULLS:
        value = None
    elif text in BOOLS:
        value = BOOLS[text]
    elif INT.fullmatch(text) and len(text) <= MAX_DIGITS:
        value = int(text.replace("_", ""))
    elif FLOAT.fullmatch(text):
        value = float(text.replace("_", ""))
    elif match := SPECIAL.fullmatch(text):
        value = -math.inf if match[1] == "-" else math.inf
    elif text in NAN:
        value = math.nan
    return Plain(text, value)


def parse_document(text: str, name: str) -> Document:
    """Parse a configuration file.

    Args:
        text: YAML text whose top level is a mapping; an empty text is an empty mapping.
        name: the file's name, for errors.

    Returns:
        The tree and the line of each key.

    Raises:
        ConfigError: invalid YAML, a top level that is no mapping, a key given twice, an alias
          inside itself.
    """
    node = _compose(text, name)
    if node is None:
        return Document({}, {})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{name}: the top level must be a mapping of sections (key: value), not a {_kind(node)}"
        )
    lines: dict[str, int] = {}
    return Document(_construct(node, name, "", lines, ()), lines)


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
    node = _compose(text, name)
    assert node is not None, "the text opens with a bracket, brace or quote"
    return _construct(node, name, "", {}, ())


def settled(value: Any) -> Any:
    """A tree of readings: every `Plain` replaced by its value."""
    if isinstance(value, Plain):
        return value.value
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [settled(item) for item in value]
    return value


def render(tree: Any) -> str:
    """YAML text of nested dicts, lists and scalars, such that `parse_document` gives the same
    values back."""
    node = _represent(tree)
    return yaml.serialize(node, Dumper=yaml.SafeDumper, width=2**20, allow_unicode=True)


def _compose(text: str, name: str) -> yaml.Node | None:
    """YAML text as a graph of nodes (an alias is the node it names), within the budgets."""
    try:
        depth = 0
        # does not recurse, as composing does
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                where = "" if event.start_mark is None else f"line {event.start_mark.line + 1}: "
                raise ConfigError(f"{name}: {where}nested more than {MAX_DEPTH} deep")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {_describe_yaml_error(error)}") from None
    if node is not None and _num_values(node, {}, ()) > MAX_VALUES:
        raise ConfigError(
            f"{name}: more than {MAX_VALUES:,} values once its aliases are written out"
        )
    return node


def _num_values(node: yaml.Node, counted: dict[int, int], open_nodes: tuple[int, ...]) -> int:
    """Values that a node stands for; every node is looked at once, however many aliases name it."""
    # one inside itself is refused by `_construct`
    if isinstance(node, yaml.ScalarNode) or id(node) in open_nodes:
        return 1
    if id(node) not in counted:
        inside = (*open_nodes, id(node))
        if len(inside) > MAX_DEPTH:  # through aliases; `_construct` names the line
            return 1
        children = node.value if isinstance(node, yaml.SequenceNode) else [v for _, v in node.value]
        counted[id(node)] = 1 + sum(_num_values(child, counted, inside) for child in children)
    return counted[id(node)]


def _construct(
    node: yaml.Node, name: str, path: str, lines: dict[str, int], open_nodes: tuple[int, ...]
) -> Any:
    if id(node) in open_nodes:
        raise ConfigError(
            f"{name}: line {node.start_mark.line + 1}: an alias refers to a value that contains it"
        )
    inside = (*open_nodes, id(node))
    if len(inside) > MAX_DEPTH + 1:  # through aliases: the text itself is no deeper
        raise ConfigError(
            f"{name}: line {node.start_mark.line + 1}: nested more than {MAX_DEPTH} deep"
        )
    if isinstance(node, yaml.ScalarNode):
        return read_scalar(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(item, name, f"{path}[{index}]", lines, inside)
            for index, item in enumerate(node.value)
        ]
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(
                f"{name}: line {line}: a key must be plain text, not a {_kind(key_node)}"
            )
        key = key_node.value
        dotted = f"{path}.{key}" if path else key
        if key in tree:
            raise ConfigError(
                f"{name}: line {line}: {dotted!r} is given twice (first on line {lines[dotted]}); "
                "keep one"
            )
        lines[dotted] = line
        tree[key] = _construct(value_node, name, dotted, lines, inside)
    return tree


def _represent(value: Any) -> yaml.Node:
    if isinstance(value, dict):
        pairs = [(_represent(str(key)), _represent(item)) for key, item in value.items()]
        return yaml.MappingNode(TAG + "map", pairs, flow_style=not pairs)
    if isinstance(value, list | tuple):
        flow = all(not isinstance(item, dict | list | tuple) for item in value)
        return yaml.SequenceNode(TAG + "seq", [_represent(item) for item in value], flow_style=flow)
    if value is None:
        return yaml.ScalarNode(TAG + "null", "null")
    if isinstance(value, bool):
        return yaml.ScalarNode(TAG + "bool", str(value).lower())
    if isinstance(value, int):
        return yaml.ScalarNode(TAG + "int", str(value))
    if isinstance(value, float):
        return yaml.ScalarNode(TAG + "float", _float_text(value))
    text = str(value)
    plain = read_scalar(text).value == text and text.isprintable()
    return yaml.ScalarNode(TAG + "str", text, style=None if plain else '"')


def _float_text(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    mantissa, exponent, power = repr(value).partition("e")
    return (
        repr(value)
        if not exponent
        else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{power}"
    )


def _kind(node: yaml.Node) -> str:
    return type(node).__name__.removesuffix("Node").lower()


def _describe_yaml_error(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {one_line(error.problem or error.context or 'unreadable')}"
    return one_line(error)


def _similar_file(path: pathlib.Path) -> str:
    folders = (path.parent, pathlib.Path("configs"), pathlib.Path())
    found = [
        file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.y*ml"))
    ]
    match = nearest(path.stem, [file.stem for file in found])
    return (
        f"; did you mean '{next(file for file in found if file.stem == match)}'?"
        if match is not None
        else ""
    )
