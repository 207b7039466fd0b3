"""What the repository's Markdown promises: its blocks of code, and how they are tried.

A fence below a line that ends in "`NAME`:" is the file NAME. A fence in Python without a name is
run with what the ones before it on the page have defined. A line `rlhf-jax ...` in a fence in bash
is run where its configuration is a file of the page, and read by the argument parser elsewhere.
"""

import html.parser
import pathlib
import re
import shlex
import urllib.parse
from typing import NamedTuple

REPO = pathlib.Path(__file__).resolve().parents[2]
DOCS = REPO / "docs"
PAGES = {
    "README": REPO / "README.md",
    **{
        str(path.relative_to(DOCS).with_suffix("")): path
        for path in sorted(DOCS.rglob("*.md"))
        if "_build" not in path.parts  # a site that somebody built holds copies
    },
}
FENCE = re.compile(r"(?:`([\w./-]+\.\w+)`:\n\n)?^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INCLUDED = re.compile(r"\{literalinclude\} (\S+)")


class Block(NamedTuple):
    """A fence."""

    language: str
    text: str
    name: str | None
    """The file that it is; None: no file."""


def blocks(page: pathlib.Path) -> list[Block]:
    """The fences of a page, in order."""
    found = []
    for name, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        included = INCLUDED.match(language)
        if included:
            text = (page.parent / included[1]).read_text(encoding="utf-8")
        found.append(Block(language, text, name or None))
    return found


def shell_lines(block: Block) -> list[str]:
    """Commands of the library in a block of bash."""
    if block.language != "bash":
        return []
    lines = [line.split("  #")[0].strip() for line in block.text.splitlines()]
    return [line for line in lines if line.startswith("rlhf-jax ")]


def commands(page: pathlib.Path) -> list[tuple[str, bool]]:
    """(line, whether it can be run here), in order. Run is what trains, shows or samples by files
    and runs of the page itself."""
    made = {block.name for block in blocks(page) if block.name}
    runs: set[str] = set()
    found = []
    for block in blocks(page):
        for line in shell_lines(block):
            words = shlex.split(line)
            own = len(words) > 2 and words[2] in made | runs
            can_run = own and words[1] in ("train", "data", "generate", "export", "evaluate")
            found.append((line, can_run))
            if can_run and words[1] == "train":
                runs |= set(re.findall(r"^run_dir: (\S+)$", _text(page, words[2]), re.MULTILINE))
    return found


def _text(page: pathlib.Path, name: str) -> str:
    return next(block.text for block in blocks(page) if block.name == name)


class _Page(html.parser.HTMLParser):
    """Where a page leads, and where one may come in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]


def links(site: pathlib.Path) -> tuple[int, list[str]]:
    """How many links inside of a built site there are, and those that lead nowhere."""
    files = [file for file in site.rglob("*.html") if "_static" not in file.parts]
    pages = {file.resolve(): _Page(file.read_text(encoding="utf-8")) for file in files}
    count = 0
    dead = []
    for file, page in pages.items():
        for target in page.targets:
            parts = urllib.parse.urlparse(target)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            path = urllib.parse.unquote(parts.path)
            place = (file.parent / path).resolve() if path else file
            anchor = urllib.parse.unquote(parts.fragment)
            is_there = place.exists() and (
                not anchor or place not in pages or anchor in pages[place].ids
            )
            if not is_there:
                dead.append(f"{file.relative_to(site.resolve())}: {target}")
    return count, dead
