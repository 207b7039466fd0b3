"""Looking at dataclasses and named tuples: keys, types in words, defaults and documentation.
Nothing here knows a particular class."""

import ast
import dataclasses
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T", bound=type)

REQUIRED = "(required)"
MAPPINGS = (dict, Mapping)
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Any: "any value",
}


class Key(NamedTuple):
    """One key of a configuration: `section.name`, or `name[].key` inside a list of sections."""

    key: str
    owner: type
    field: dataclasses.Field
    type: Any

    @property
    def default(self) -> Any:
        """Its default; `REQUIRED` when there is none."""
        if self.field.default is not dataclasses.MISSING:
            return self.field.default
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return REQUIRED


class FieldDoc(NamedTuple):
    """One key as the help shows it."""

    key: str
    type: str
    default: str
    doc: str


def union_args(tp: Any) -> tuple[Any, ...]:
    """Members of a union; a type that is no union is its own only member."""
    if typing.get_origin(tp) in (typing.Union, types.UnionType):
        return typing.get_args(tp)
    return (tp,)


def section_class(tp: Any) -> type | None:
    """The dataclass in `tp` when `tp` is a dataclass or `dataclass | None`, else None."""
    options = [arg for arg in union_args(tp) if arg is not type(None)]
    if len(options) == 1 and isinstance(options[0], type) and dataclasses.is_dataclass(options[0]):
        return options[0]
    return None


def item_class(tp: Any) -> type | None:
    """The dataclass that `tp` holds several of (`tuple[RewardConfig, ...]`), else None."""
    origin = typing.get_origin(tp)
    args = typing.get_args(tp)
    if origin in (list, tuple) and args:
        return section_class(args[0])
    return section_class(args[1]) if origin in MAPPINGS and args else None


def settable(cls: type, **chosen: type) -> dict[str, Key]:
    """Name -> key of the fields that a configuration can set.

    Args:
        cls: a dataclass.
        **chosen: types of fields that only a run says, instead of those of the class.
    """
    hints = typing.get_type_hints(cls) | chosen
    return {
        field.name: Key(field.name, cls, field, hints[field.name])
        for field in dataclasses.fields(cls)
        if field.init
    }


def all_keys(keys: Mapping[str, Key], prefix: str = "") -> Iterator[Key]:
    """Keys and every key below them, sections before their keys; `name[]` is any item of a list of
    sections."""
    for name, key in keys.items():
        yield key._replace(key=prefix + name)
        item = item_class(key.type)
        if item is not None:
            name += "[]"
            yield key._replace(key=prefix + name, type=item)
        section = item or section_class(key.type)
        if section is not None:
            yield from all_keys(settable(section), f"{prefix}{name}.")


def describe(tp: Any) -> str:
    """A type in a user's words: `a whole number`, `one of: auto, scan, unroll`, `text or null`."""
    origin = typing.get_origin(tp)
    args = typing.get_args(tp)
    if origin in (typing.Union, types.UnionType):
        words = (describe(arg) for arg in sorted(args, key=lambda arg: arg is type(None)))
        return " or ".join(dict.fromkeys(words))  # lists and tuples are one to a user
    if origin is typing.Annotated:
        return describe(args[0])
    if origin is Literal:
        return "one of: " + ", ".join(map(str, args))
    if origin in (list, tuple) or tp in (list, tuple):
        items = [arg for arg in args if arg is not Ellipsis]
        if origin is tuple and items and Ellipsis not in args:
            return "a list of " + ", ".join(map(describe, items))
        return f"a list ({describe(items[0])} each)" if items else "a list"
    if origin in MAPPINGS or tp in MAPPINGS:
        return "a mapping"
    if isinstance(tp, type) and dataclasses.is_dataclass(tp):
        return "a mapping with " + ", ".join(settable(tp))
    return WORDS.get(tp, str(tp))


def choices(tp: Any) -> list[str]:
    """The text options of the `Literal`s in a type."""
    literals = [member for member in union_args(tp) if typing.get_origin(member) is Literal]
    return [str(arg) for literal in literals for arg in typing.get_args(literal)]


def describe_section(cls: type, prefix: str = "") -> list[FieldDoc]:
    """Key, type, default and documentation of every key below `cls` that is not a section."""
    keys = [key for key in all_keys(settable(cls), prefix) if section_class(key.type) is None]
    docs = {owner: field_docs(owner) for owner in {key.owner for key in keys}}
    return [
        FieldDoc(
            key.key, describe(key.type), default_text(key), docs[key.owner].get(key.field.name, "")
        )
        for key in keys
    ]


def default_text(key: Key) -> str:
    """A key's default as YAML shows it; `(required)` when there is none."""
    return in_yaml(key.default)


def in_yaml(value: Any) -> str:
    """A value as YAML shows it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(list(value) if isinstance(value, tuple) else value)


def defaults(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> default of the keys that have one and are not sections."""
    return {
        key.key: plain(key.default)
        for key in all_keys(settable(cls), prefix)
        if section_class(key.type) is None and key.default is not REQUIRED
    }


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as nested dicts and lists; other objects as their text."""

    def simple(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {name: getattr(value, name) for name in settable(type(value))}
        return dict(value) if isinstance(value, Mapping) else str(value)

    return json.loads(json.dumps(value, default=simple))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> leaf of nested mappings and lists of mappings (`name[0].key`); empty ones are
    leaves."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        items = value if isinstance(value, list) else []
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        elif items and all(isinstance(item, Mapping) and item for item in items):
            for index, item in enumerate(items):
                leaves |= flat(item, f"{prefix}{key}[{index}].")
        else:
            leaves[prefix + key] = value
    return leaves


def texts_of(tree: Any) -> Iterator[str]:
    """All text values of nested mappings and lists, in their order; keys are none of them."""
    if isinstance(tree, str):
        yield tree
        return
    below: Any = ()
    if isinstance(tree, Mapping):
        below = tree.values()
    elif isinstance(tree, list | tuple):
        below = tree
    for value in below:
        yield from texts_of(value)


def field_docs(cls: type) -> dict[str, str]:
    """Field name -> its documentation, the string below it in the source of the class."""
    body = _body(cls)
    docs = {}
    for field, below in zip(body, body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                docs[name] = " ".join(text.split())
    return docs


def documented(cls: T) -> T:
    """Shows the documentation of the fields, the strings below them, in `help(cls)` and wherever
    else `cls.__doc__` is read. It is the only copy: read from the source when somebody asks.

    Args:
        cls: a dataclass or a named tuple.
    """
    typing.cast(Any, cls).__doc__ = _WithFields(cls.__doc__)
    return cls


_LINES = textwrap.TextWrapper(
    96,
    initial_indent=" " * 4,
    subsequent_indent=" " * 8,
    break_on_hyphens=False,
    break_long_words=False,
)


class _WithFields:
    """The docstring of a class with a section "Attributes", made on demand: `type.__doc__` calls
    `__get__`, and reading a source takes milliseconds that an import should not pay for."""

    def __init__(self, text: str | None):
        self._text = inspect.cleandoc(text or "")
        self._whole: str | None = None

    def __get__(self, instance: Any, cls: type) -> str:
        if self._whole is None:
            self._whole = self._made(cls)
        return self._whole

    def _made(self, cls: type) -> str:
        docs = _sections(cls) | field_docs(cls)
        lines = [self._text, "", "Attributes:"]
        for name, annotation in _annotations(cls).items():
            text = f"{name} ({annotation}): {docs.get(name, '')}".rstrip(": ")
            lines += _LINES.wrap(text)
            # of a named tuple, which says "Alias for field number 2" otherwise
            if hasattr(cls, "_fields"):
                typing.cast(Any, vars(cls)[name]).__doc__ = docs.get(name, annotation)
        return "\n".join(lines)


def _sections(cls: type) -> dict[str, str]:
    """Field name -> what its section is for, the first sentence of the section's own docstring."""
    if not dataclasses.is_dataclass(cls):
        return {}
    sections = {name: section_class(tp) for name, tp in typing.get_type_hints(cls).items()}
    return {
        name: str(section.__doc__).partition("\n\n")[0].replace("\n", " ")
        for name, section in sections.items()
        if section is not None
    }


def _annotations(cls: type) -> dict[str, str]:
    """Field name -> its type as the source has it; without class variables."""
    return {
        statement.target.id: ast.unparse(statement.annotation).replace("'", '"')
        for statement in _body(cls)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not ast.unparse(statement.annotation).startswith("ClassVar")
    }


def _body(cls: type) -> list[ast.stmt]:
    """The statements of a class; none where it was made without a file."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return []
    return typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
