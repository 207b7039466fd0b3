"""What pages take from the library itself, so that nothing is written down twice.

Directives: ``config-keys SECTION`` (options with type, default and meaning), ``metrics`` (names and
meanings), ``no-such-option`` (options of other libraries that are not here, and why). Docstrings
are plain text with indented equations; `as_restructured` makes them what autodoc expects.
"""

import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rlhf_jax.algorithms import METRICS
from rlhf_jax.cli.keys import algorithm_rows, claims_rows, rows_by_section
from rlhf_jax.config import FieldDoc
from rlhf_jax.config.other_names import REASONS
from rlhf_jax.io.run_metrics import RUN_METRICS

SECTION = re.compile(r"(Args|Returns|Raises|Example|Examples|Attributes|Yields|Note):")
"""Headings that napoleon reads; below them indentation is not an equation."""


class ConfigKeys(SphinxDirective):
    """The keys of a section: `data`, `algorithm.dpo`, `top` for those outside of sections; `claims`
    for those of a file of claims."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A definition list, a key a term."""
        return [
            nodes.definition_list(
                "", *[_definition(row) for row in rows_of(self.arguments[0], self.error)]
            )
        ]


def rows_of(section: str, error: Any) -> list[FieldDoc]:
    """The keys of a section by its name on a page."""
    group, _, name = section.partition(".")
    if group == "algorithm":
        return algorithm_rows(name)
    if section == "claims":
        return claims_rows()
    sections = rows_by_section()
    rows = sections.get("" if section == "top" else section)
    if rows is None:
        raise error(f"config-keys: there is no section {section!r}, only {', '.join(sections)}")
    return rows


def _definition(row: FieldDoc) -> nodes.Node:
    default = "required" if row.default.startswith("(") else f"default {row.default}"
    term = nodes.term("", "", nodes.literal("", row.key), nodes.Text(f"  {row.type}, {default}"))
    meaning = nodes.definition("", nodes.paragraph("", "", *_inline(row.doc)))
    return nodes.definition_list_item("", term, meaning)


class MetricsTable(SphinxDirective):
    """Every metric with its meaning."""

    option_spec = {"of": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """A definition list, a row of the library's tables a term."""
        rows = [((name,), text) for name, text in METRICS.items()]
        if self.options.get("of") == "run":
            rows = list(RUN_METRICS.items())
        items = []
        for names, text in rows:
            parts: list[nodes.Node] = []
            for name in names:
                parts += [nodes.Text(", ")] if parts else []
                parts.append(nodes.literal("", name))
            meaning = nodes.definition("", nodes.paragraph("", "", *_inline(text)))
            items.append(nodes.definition_list_item("", nodes.term("", "", *parts), meaning))
        return [nodes.definition_list("", *items)]


class NoSuchOption(SphinxDirective):
    """Options of other libraries that have no key here, with the reason."""

    def run(self) -> list[nodes.Node]:
        """A definition list, a reason a term."""
        names: dict[str, list[str]] = {}
        for name, reason in REASONS.items():
            names.setdefault(reason, []).append(name)
        items = []
        for reason, options in names.items():
            listed = nodes.paragraph("", "", *_inline(", ".join(f"`{name}`" for name in options)))
            term = nodes.term("", "", *_inline(reason))
            definition = nodes.definition("", listed)
            items.append(nodes.definition_list_item("", term, definition))
        return [nodes.definition_list("", *items)]


def _inline(text: str) -> list[nodes.Node]:
    """Text with `code` in backticks."""
    return [
        nodes.literal("", part) if number % 2 else nodes.Text(part)
        for number, part in enumerate(re.split(r"`+", text))
        if part
    ]


def as_restructured(lines: list[str]) -> list[str]:
    """A docstring of this library as reStructuredText: what is indented behind a blank line, and
    belongs to no section, is an equation and shown as it stands; elsewhere `*`, `|` and a `_` at
    the end of a word mean themselves."""
    made: list[str] = []
    in_section = False
    in_block = False
    for number, line in enumerate(lines):
        is_after_blank = number > 0 and not lines[number - 1].strip()
        if line and not line[0].isspace():
            in_section = SECTION.fullmatch(line.strip()) is not None
            in_block = False
        elif line.strip() and not in_section and is_after_blank and not in_block:
            made += ["::", ""]
            in_block = True
        made.append(line if in_block or ">>>" in line else _plain(line))
    return made


def _plain(line: str) -> str:
    """Markup characters of a line mean themselves, outside of `code`."""
    parts = re.split(r"(`+[^`]*`+)", line)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            is_item = number == 0 and part.startswith("* ")
            rest = part[2:] if is_item else part
            rest = re.sub(r"([*|])", r"\\\1", rest)
            rest = re.sub(r"(\w)_(?!\w)", r"\1\\_", rest)
            parts[number] = ("* " if is_item else "") + rest
    return "".join(parts)


def returned(lines: list[str]) -> list[str]:
    """What napoleon took for the type of a returned value (all up to a colon) is text here."""
    types = [line.removeprefix(":rtype: ") for line in lines if line.startswith(":rtype: ")]
    kept = [line for line in lines if not line.startswith(":rtype: ")]
    if not types:
        return lines
    text = types[0].replace("`", "")
    return [line.replace(":returns: ", f":returns: {text}: ", 1) for line in kept]


def _before(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_restructured(lines)
    # Napoleon takes what stands before a colon in the first line of a field's text for its type: it
    # gets a first line that shows nothing.
    if kind in ("attribute", "data", "property"):
        lines.insert(0, "\\")


def _after(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = returned(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's way in."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("metrics", MetricsTable)
    app.add_directive("no-such-option", NoSuchOption)
    # before and after napoleon, which has 500
    app.connect("autodoc-process-docstring", _before, priority=400)
    app.connect("autodoc-process-docstring", _after, priority=600)
    return {"parallel_read_safe": True}
