r"""Final answers in texts: what a completion answers with, as one expression and without prose, or
nothing."""

import collections
import re

from rlhf_jax.rewards.sentences import reduced, standing_out
from rlhf_jax.rewards.wording import CHANGES_BOX, denies

_PHRASE = re.compile(
    r"\banswers?(?:\s+(?:to|of|for)\s[^.:\n]{1,60}?)?\s{0,8}(?:\*\*)?\s{0,8}(?:\b(?:is|are)\b|:|=)(?:\*\*)?\s{0,8}:?\s{0,8}([^\n]+)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\bfinal answer(?:\*\*)?:?(?:\*\*)?\s*\n\s*([^\n]+)", re.IGNORECASE)
_FINAL = re.compile(r"\bfinal answer\b", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|[{}]")
_BARE = re.compile(
    r"\\(boxed|fbox)\s{0,3}(-?(?:\\[dt]?frac\{[^{}]*\}\{[^{}]*\}"
    r"|[0-9][0-9.,]*(?<![.,])(?![A-Za-z^!/])|[A-Za-z](?![A-Za-z{])))"
)
"""A box without braces."""
_WRONG = re.compile(
    r"(?<![A-Za-z])(?:wrong|incorrect|false|invalid|not (?:the|an?))\s(?:final\s)?\Z",
    re.IGNORECASE,
)
"""Before "answer": what follows is none."""
_DENIED = re.compile(
    r"[\s$.)\]\\*]{0,6}(?:,?\s?(?:which|but\s(?:this|that|it))\s)?"
    r"(?:is|was|are|were|seems?|looks?|would be|must be|cannot be|can['’]t be)"
    r"(?:n['’]t)?(?![A-Za-z])([^.,;:\n]{0,40})"
)
_DENYING = re.compile(
    r"(?:(?<![A-Za-z])(?:not|never|cannot be|neither|nor|rather than|instead of)|n['’]t(?: be)?)"
    r"\s(?:equal to\s)?[\s$\\(\[*]{0,6}\Z"
)
_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[^|<>\n]{1,40}\|>.*", re.DOTALL)
_JOINT = re.compile(
    r"(?:[\s$,;.&]|\\[\[\]()]|\\[,;:! ]|\\(?:quad|qquad)|\\text\s?\{\s*(?P<text>[^{}]{0,40})\}|(?P<word>[A-Za-z]{1,20})"
    r"|(?P<name>\\?[A-Za-z]+(?:_\{?\w\}?)?\s*=)|[()])*"
)
_MINUS = re.compile(r"(?:^|[=$(\[:>#]|\\[(\[])\s*[-−]\s*\$?$|[A-Za-z]{2}[:*]*\s[-−]\$?$|\bminus\s+\$?$")
_BEHIND = re.compile(r"(?P<mark>!+|\^\{?[0-9A-Za-z]+\}?|[\s$]*\\?%)|(?:[\s$]|\\[)\] ])*(?P<word>[A-Za-z]+)")
_MOST_WRONG = 20
"""Of "wrong answer: .." on one line, so many are looked behind: each takes the whole line."""
_LONGEST_JOINT = 70
_MOST_BOXES = 24
_CONCLUDING = frozenset(
    "so thus therefore hence answer answers is final no not wait then but total is equals gives actually".split()
)


def after_reasoning(text: str, *, opened: bool = False) -> str | None:
    """The text behind the last ``</think>``; None when the reasoning was never closed.

    Args:
      text: a completion.
      opened: the prompt ends inside a block ``<think>``, so that the completion starts in it.
    """
    tags = list(_THINK.finditer(text))
    if not tags:
        return None if opened else text
    return text[tags[-1].end() :] if tags[-1][1] else None


def marked_answer(text: str, *, opened: bool = False) -> str | None:
    r"""The final answer that a text marks as such, without the prose around it; None when nothing
    is marked, or nothing is said.

    Behind the reasoning (`after_reasoning`), the last ``<answer>..</answer>``; without one the last
    of ``\boxed{..}`` and ``#### ..``,
    unless "final answer is" follows; without those the last "answer is .." or "answer: ..". Boxes
    side by side are a list.
    What is marked is cut down to the expression in its first sentence (`sentences.reduced`).
    """
    rest = after_reasoning(text, opened=opened)
    return None if rest is None else _marked(_CONTROL.sub("", rest))[1]


def final_answer(text: str, *, strict: bool = False, opened: bool = False) -> str | None:
    """The marked answer of a text or, unless `strict`, what stands out in one that marks none
    (`unmarked_answer`)."""
    rest = after_reasoning(text, opened=opened)
    if rest is None:
        return None
    rest = _CONTROL.sub("", rest)
    is_marked, answer = _marked(rest)
    return answer if is_marked or strict else unmarked_answer(rest)


def unmarked_answer(text: str) -> str | None:
    """What a text without a mark most likely answers: itself when it is one line without prose or
    without numbers; else the
    last expression of its last sentence that has one."""
    rest = after_reasoning(text)
    rest = rest.strip() if rest else ""
    found = standing_out(rest)
    if found is None and "\n" not in rest and not re.search(r"[0-9]", rest):
        return reduced(rest)
    return found


def _marked(text: str) -> tuple[bool, str | None]:
    """(whether a text marks an answer, the answer if it can be read)."""
    text = _BARE.sub(r"\\\1{\2}", text)
    if (tagged := _last_tagged(text)) is not None:
        is_marked, inner = _marked(tagged)
        return True, inner if is_marked else reduced(tagged)
    place, boxed = _boxes(text)
    for hashes in collections.deque(_HASHES.finditer(text, max(place, 0)), maxlen=1):
        place, boxed = hashes.start(), reduced(hashes[1])
    phrase = _last_phrase(text, max(place, 0))
    if phrase is None:
        return place >= 0, boxed
    if place < 0 or _FINAL.search(text, max(phrase.start() - 20, place), phrase.start(1)):
        said = _said(phrase[1])
        if place < 0 or said is not None:
            return True, said
    return True, boxed


def _last_phrase(text: str, place: int) -> re.Match[str] | None:
    found, again = None, _MOST_WRONG
    for pattern in (_PHRASE, _HEADING):
        at = place
        while match := pattern.search(text, at):
            wrong = _WRONG.search(text, max(match.start() - 20, 0), match.start()) is not None
            again -= wrong
            at = match.start(1) if wrong and again > 0 else match.end()
            if not wrong and (found is None or match.start(1) >= found.start(1)):
                found = match
    return found


def _said(text: str) -> str | None:
    """What follows "answer is"; of "final answer: the answer is 5" the innermost."""
    for _ in range(3):
        inner = _PHRASE.search(text[:200])
        if inner is None:
            break
        text = text[inner.start(1) :]
    return reduced(text)


def _last_tagged(text: str) -> str | None:
    found, start = None, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()], None
    return found


def _boxes(text: str) -> tuple[int, str | None]:
    """(end, content) of the last box; of several that are joined by commas, "and" or nothing, their
    contents as a list."""
    boxes: list[tuple[int, int, str]] = []  # start, end, content of those that are not in another
    opened: list[tuple[int, int] | None] = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append((brace.start(), brace.end()) if len(brace[0]) > 1 else None)
        elif opened and (start := opened.pop()) is not None:
            while boxes and boxes[-1][0] > start[0]:
                boxes.pop()
            boxes.append((start[0], brace.end(), text[start[1] : brace.start()].strip()))
    boxes = [box for box in boxes if not _is_denied(text, *box[:2])]
    if not boxes or not boxes[-1][2]:
        return -1, None
    group = [_with_outside(text, *boxes[-1])]
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        if len(group) > _MOST_BOXES or not _joined(text[before[1] : after[0]]):
            break
        if before[2] not in group:
            group.insert(0, before[2])
    return boxes[-1][1], ", ".join(group)


def _is_denied(text: str, start: int, end: int) -> bool:
    """Whether a text says of a box that it is not the answer: "not [5]", "[5] is wrong"."""
    if _DENYING.search(text[max(start - 40, 0) : start]):
        return True
    behind = _DENIED.match(text[end : end + 100])
    return behind is not None and ("n't" in behind[0].replace("’", "'") or denies(behind[1].split()[:3]))


def _with_outside(text: str, start: int, end: int, content: str) -> str:
    r"""The content of a box with what stands beside it and changes its value: ``-\boxed{5}``,
    ``\boxed{2} million``."""
    sign = "-" if _MINUS.search(text[max(start - 12, 0) : start]) else ""
    behind = _BEHIND.match(text[end : end + 40])
    if behind is None:
        return sign + content
    word = behind["word"]
    if word is None:
        return f"{sign}{content}{behind['mark'].strip(' $')}"
    return f"{sign}{content} {word}" if word.lower() in CHANGES_BOX else sign + content


def _joined(between: str) -> bool:
    """Whether what stands between two boxes makes one list of them."""
    if len(between) > _LONGEST_JOINT or re.search(r"\.\s|\n\s*\n", between):
        return False
    found = _JOINT.fullmatch(between)
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\(?:text|quad|qquad)", " ", between))
    if found is None or any(word.lower() in _CONCLUDING for word in words):
        return False
    return not words or "," in between or ";" in between or words[-1].lower() in ("and", "or")
