"""Answers as lists, sets, tuples and intervals of their members."""

import re

_LEFT_SIDE = re.compile(r"(?:=|\\approx(?![A-Za-z])|\\in(?![A-Za-z]))")
_SEPARATOR = re.compile(r"(?<![A-Za-z])(?:,\s?)?(?:and|or)(?![A-Za-z])|\\cup(?![A-Za-z])|[;,]")
_OPEN = "{(["
_CLOSE = "})]"


class Members:
    """An answer as a list."""

    def __init__(self, kind: str, parts: list[str]) -> None:
        # kind: "one", "list", "set", or the two brackets of a tuple or interval
        self.kind = kind
        self.parts = parts


def read_members(text: str) -> Members | None:
    """What an answer lists; None when its brackets do not match."""
    text = right_side(text)
    parts = split_members(text)
    if parts is None:
        return None
    if len(parts) > 1:
        return Members("list", parts)
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inner = split_members(text[2:-2])
        return None if inner is None else Members("set", inner)
    if text[:1] in tuple("([") and text[-1:] in tuple(")]") and _is_one_group(text):
        inner = split_members(text[1:-1])
        if inner is not None and len(inner) > 1:
            return Members(text[0] + text[-1], inner)
    elif text.startswith("{") and text.endswith("}") and split_members(text[1:-1]) is not None:
        return read_members(text[1:-1])
    return Members("one", [text])


def right_side(text: str) -> str:
    """What follows "name =" or "name in"; the text itself when there is no one such sign."""
    signs = [sign for sign in _LEFT_SIDE.finditer(text) if is_balanced(text[: sign.start()])]
    if len(signs) != 1:
        return text
    left = text[: signs[0].start()]
    if re.search(r"[<>,;]|\\(?:le|ge|ne|lt|gt)", _inside_out(left)) or re.search(
        r"[+*/]|[0-9]\s*[A-Za-z]|\^", left
    ):
        return text
    return text[signs[0].end() :].strip()


def _inside_out(text: str) -> str:
    return re.sub(r"\([^()]*\)", "", text)


def is_balanced(text: str) -> bool:
    """Whether every kind of bracket is opened as often as closed."""
    return all(text.count(a) == text.count(b) for a, b in zip(_OPEN, _CLOSE, strict=True))


def _is_one_group(text: str) -> bool:
    """Whether the first bracket is closed by the last sign; the two may differ: "[0, 1)"."""
    depth = 0
    for sign in text[:-1]:
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if depth == 0:
            return False
    return depth == 1


def split_members(text: str) -> list[str] | None:
    """Parts between commas, semicolons, "and", "or" outside brackets; None: unmatched ones."""
    parts = []
    depth = 0
    start = 0
    marks = {mark.start(): mark for mark in _SEPARATOR.finditer(text) if "cup" not in mark[0]}
    place = 0
    while place < len(text):
        sign = text[place]
        depth += (sign in _OPEN) - (sign in _CLOSE)
        mark = marks.get(place)
        if (
            mark
            and depth == 0
            and not re.fullmatch(
                r"[0-9],[0-9]{3}(?![0-9]).*", text[max(place - 1, 0) : place + 6], re.DOTALL
            )
        ):
            parts.append(text[start:place])
            place = start = mark.end()
            continue
        place += 1
    parts.append(text[start:])
    if len(parts) > 1:
        parts = [part.strip() for part in parts if part.strip()]
    return [one for part in parts for one in _signed(part)] if depth == 0 else None


def _signed(part: str) -> list[str]:
    """Both values of an expression with one "plus or minus"."""
    if part.count(r"\pm") != 1 or r"\mp" in part:
        return [part]
    before, _, after = part.partition(r"\pm")
    plus = "" if before.rstrip().endswith(("{", "(", "[", "=", ",")) or not before.strip() else "+"
    return [f"{before}{plus}{after}".strip(), f"{before}-{after}"]
