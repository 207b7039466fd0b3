"""Looking at dataclasses: keys, types in words, defaults and documentation. Nothing here knows a
particular section."""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

REQUIRED = "(required)"
MAPPINGS = (dict, Mapping)


class FieldDoc(NamedTuple):
    """One key as the help shows it."""

    key: str
    type: str
    default: str
    doc: str


def section_class(tp: Any) -> type | None:
    """The dataclass in `tp` when `tp` is a dataclass or `dataclass | None`, else None."""
    options = [arg for arg in union_args(tp) if arg is not type(None)]
    if len(options) == 1 and isinstance(options[0], type) and dataclasses.is_dataclass(options[0]):
        return options[0]
    return None


def item_class(tp: Any) -> type | None:
    """The dataclass that `tp` is a list or tuple of (`tuple[RewardConfig, ...]`), else None."""
    args = typing.get_args(tp)
    return section_class(args[0]) if args and typing.get_origin(tp) in (list, tuple) else None


def union_args(tp: Any) -> tuple[Any, ...]:
    """Members of a union; a type that is no union is its own only member."""
    if typing.get_origin(tp) in (typing.Union, types.UnionType):
        return typing.get_args(tp)
    return (tp,)


def settable(cls: type) -> dict[str, tuple[dataclasses.Field, Any]]:
    """Name -> (field, resolved type) of the fields that a configuration can set."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: (field, hints[field.name]) for field in dataclasses.fields(cls) if field.init
    }


def dotted_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Every key below `cls`, dotted, sections before their keys; `name[].key` inside a list of
    sections."""
    for name, (_, tp) in settable(cls).items():
        key = f"{prefix}{name}"
        yield key
        section = section_class(tp)
        item = item_class(tp)
        if section is not None:
            yield from dotted_keys(section, f"{key}.")
        elif item is not None:
            yield from dotted_keys(item, f"{key}[].")


def describe(tp: Any) -> str:
    """A type in a user's words: `a whole number`, `one of: auto, scan, unroll`, `text or null`."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if origin in (typing.Union, types.UnionType):
        words = (describe(arg) for arg in sorted(args, key=lambda arg: arg is type(None)))
        return " or ".join(dict.fromkeys(words))  # lists and tuples are one to a user
    if origin is typing.Annotated:
        return describe(args[0])
    if origin is Literal:
        return "one of: " + ", ".join(str(arg) for arg in args)
    if origin in (list, tuple) or tp in (list, tuple):
        items = [arg for arg in args if arg is not Ellipsis]
        if origin is tuple and items and Ellipsis not in args:
            return "a list of " + ", ".join(describe(item) for item in items)
        return f"a list ({describe(items[0])} each)" if items else "a list"
    if origin in MAPPINGS or tp in MAPPINGS:
        return "a mapping"
    if isinstance(tp, type) and dataclasses.is_dataclass(tp):
        return "a mapping with " + ", ".join(settable(tp))
    plain_types = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        Any: "any value",
    }
    return plain_types.get(tp, str(tp))


def choices(tp: Any) -> list[str]:
    """The text options of the `Literal`s in a type."""
    return [
        str(arg)
        for member in union_args(tp)
        if typing.get_origin(member) is Literal
        for arg in typing.get_args(member)
    ]


def describe_section(cls: type, prefix: str = "") -> list[FieldDoc]:
    """The keys of a section with type, default and documentation, nested sections and items of
    lists in place.

    The documentation of a field is the string below it, or else the comment behind it, or else its
    entry in the class docstring's `Attributes:` or `Args:`.
    """
    docs = field_docs(cls)
    rows: list[FieldDoc] = []
    for name, (field, tp) in settable(cls).items():
        section = section_class(tp)
        if section is not None:
            rows += describe_section(section, f"{prefix}{name}.")
        else:
            rows.append(
                FieldDoc(prefix + name, describe(tp), default_text(field), docs.get(name, ""))
            )
            item = item_class(tp)
            rows += [] if item is None else describe_section(item, f"{prefix}{name}[].")
    return rows


def default_text(field: dataclasses.Field) -> str:
    """A field's default as YAML shows it; `(required)` when there is none."""
    value = field.default
    if value is dataclasses.MISSING:
        value = (
            field.default_factory()
            if field.default_factory is not dataclasses.MISSING
            else REQUIRED
        )
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as nested dicts and lists."""
    if dataclasses.is_dataclass(value):
        return {name: plain(value.__dict__[name]) for name in settable(type(value))}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> leaf of nested mappings and lists of mappings (`name[0].key`); empty ones are
    leaves."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(item, Mapping) and item for item in value)
        ):
            for index, item in enumerate(value):
                leaves |= flat(item, f"{prefix}{key}[{index}].")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def defaults(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> default of the fields that have one, nested sections in place, `name[].key`
    inside lists of sections."""
    found: dict[str, Any] = {}
    for name, (field, tp) in settable(cls).items():
        section = section_class(tp)
        if section is not None:
            found |= defaults(section, f"{prefix}{name}.")
            continue
        item = item_class(tp)
        found |= {} if item is None else defaults(item, f"{prefix}{name}[].")
        if field.default is not dataclasses.MISSING:
            found[prefix + name] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[prefix + name] = plain(field.default_factory())
    return found


def field_docs(cls: type) -> dict[str, str]:
    """Field name -> its documentation, read from the source of the class (see
    `describe_section`)."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        source = ""
    docs = _docs_from_docstring(cls.__doc__ or "")
    if source:
        docs |= _docs_from_comments(source)
        docs |= _docs_from_strings(source)
    return {name: " ".join(text.split()) for name, text in docs.items()}


def _docs_from_strings(source: str) -> dict[str, str]:
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    return {
        field.target.id: below.value.value
        for field, below in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _docs_from_comments(source: str) -> dict[str, str]:
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    names = {
        node.end_lineno: node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    comments = {
        token.start[0]: token.string.lstrip("#: ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return {name: comments[line] for line, name in names.items() if line in comments}


def _docs_from_docstring(docstring: str) -> dict[str, str]:
    match = re.search(
        r"^(?:Attributes|Args):\n((?:[ \t]+.*\n?|\n)+)",
        inspect.cleandoc(docstring) + "\n",
        re.MULTILINE,
    )
    if match is None:
        return {}
    entries = re.findall(
        r"^(\w+)(?: \([^)]*\))?:[ \t]*(.*(?:\n[ \t]+.*)*)", textwrap.dedent(match[1]), re.MULTILINE
    )
    return dict(entries)
