r"""Final answers in texts: what a completion answers, as one expression without prose."""

import collections
import re

from rlhf_jax.rewards.boxes import boxes, retraction
from rlhf_jax.rewards.quantities import quantity_of
from rlhf_jax.rewards.sentences import reduced, standing_out

_PHRASE = re.compile(
    r"\banswers?(?:\s+(?:to|of|for)\s[^.:\n]{1,60}?)?\s{0,8}\*{0,3}\s{0,8}(?:\b(?:is|are)\b|:|=)"
    r"(?:\*{1,3}(?=\s)|\*\*(?!\*))?\s{0,8}:?\s{0,8}([^\n]+)",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    r"答案\s{0,8}\*{0,3}\s{0,8}(?:(?:应该|應該|应|應)?[是为為]|[：:=])"
    r"\*{0,3}\s{0,8}[：:]?\s{0,8}([^\n。；]+)"
)
_HEADING = re.compile(r"\bfinal answer(?:\*\*)?:?(?:\*\*)?\s*\n\s*([^\n]+)", re.IGNORECASE)
_FINAL = re.compile(r"\bfinal answer\b", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_TAG = re.compile(r"<(/?)answer>|\[(/?)answer\]", re.IGNORECASE)
_MARKUP = re.compile(r"<(b|i|u|em|strong|mark|code|span)>([^<>]*)</\1>", re.IGNORECASE)
_FENCED = re.compile(r"```[a-z]{0,10}\n([^\n`]{1,200})\n```")
"""A block of one line."""
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
_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[^|<>\n]{1,40}\|>.*", re.DOTALL)
_MOST_WRONG = 20
"""Of "wrong answer: .." on one line, so many are looked behind: each takes the whole line."""
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")


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
    r"""The answer that a text marks as such, without prose; None: nothing marked, nothing said.

    Behind the reasoning (`after_reasoning`), the last ``<answer>..</answer>``; without one the last
    of ``\boxed{..}`` and ``#### ..``, unless "final answer is" follows; without those the last
    "answer is .." or "answer: ..". Boxes side by side are a list. What is marked is cut down to the
    expression in its first sentence (`sentences.reduced`).
    """
    rest = after_reasoning(text, opened=opened)
    return None if rest is None else _marked(_CONTROL.sub("", rest))[1]


def final_answer(text: str, *, strict: bool = False, opened: bool = False) -> str | None:
    """The marked answer of a text; unless `strict`, else what stands out (`unmarked_answer`)."""
    rest = after_reasoning(text, opened=opened)
    if rest is None:
        return None
    rest = _CONTROL.sub("", rest)
    is_marked, answer = _marked(rest)
    return answer if is_marked or strict else unmarked_answer(rest)


def unmarked_answer(text: str) -> str | None:
    """What a text without a mark most likely answers.

    Itself when it is one line without prose or without numbers; else the last expression of its
    last sentence that has one.
    """
    rest = after_reasoning(text)
    rest = rest.strip() if rest else ""
    found = standing_out(rest)
    if found is None and "\n" not in rest and not re.search(r"[0-9]", rest):
        return reduced(rest)
    return found


def _marked(text: str) -> tuple[bool, str | None]:
    """(whether a text marks an answer, the answer if it can be read)."""
    text = _FENCED.sub(r"\1", _MARKUP.sub(r"\2", _BARE.sub(r"\\\1{\2}", text)))
    if (tagged := _last_tagged(text)) is not None:
        is_marked, inner = _marked(tagged)
        return True, inner if is_marked else _of_lines(tagged)
    place, boxed, denied = boxes(text)
    if boxed is not None and (words := _PHRASE.search(_TEXT.sub(r"\1", boxed))) is not None:
        boxed = reduced(words[1])
    for hashes in collections.deque(_HASHES.finditer(text, max(place, 0)), maxlen=1):
        place = hashes.start()
        boxed = _not_taken_back(reduced(hashes[1]), text[hashes.start(1) :])
    phrase = _last_phrase(text, max(place, 0))
    if phrase is None:
        return place >= 0 or denied, boxed
    if place < 0 or _FINAL.search(text, max(phrase.start() - 20, place), phrase.start(1)):
        said = _not_taken_back(_said(_without_bold(text, phrase)), text[phrase.start(1) :])
        if place < 0 or said is not None:
            return True, said
    return True, boxed


def _last_phrase(text: str, place: int) -> re.Match[str] | None:
    found = None
    again = _MOST_WRONG
    for pattern in (_PHRASE, _HEADING, _CHINESE):
        at = place
        while match := pattern.search(text, at):
            wrong = _WRONG.search(text, max(match.start() - 20, 0), match.start()) is not None
            again -= wrong
            at = match.start(1) if wrong and again > 0 else match.end()
            if not wrong and (found is None or match.start(1) >= found.start(1)):
                found = match
    return found


def _without_bold(text: str, phrase: re.Match[str]) -> str:
    """What a phrase says, without stars of an earlier bold mark: "**The answer is 2**3**": 2**3."""
    line = text[max(text.rfind("\n", 0, phrase.start()) + 1, phrase.start() - 200) : phrase.start()]
    said = phrase[1].rstrip()
    inside = line.count("**") % 2 and said.endswith("**") and said.count("**") % 2 == 0
    return said[:-2] if inside else phrase[1]


def _said(text: str) -> str | None:
    """What follows "answer is"; of "final answer: the answer is 5" the innermost."""
    for _ in range(3):
        inner = _PHRASE.search(text[:200])
        if inner is None:
            break
        text = text[inner.start(1) :]
    return reduced(text)


def _not_taken_back(answer: str | None, text: str) -> str | None:
    """An answer, unless the sentence behind takes it back; then what that says, or nothing."""
    place = -1 if answer is None else text.find(answer)
    if answer is None or place < 0:
        return answer
    found = retraction(text[place + len(answer) :][:400])
    if found is None:
        return answer
    return None if found["value"] is None else reduced(found["value"])


def _of_lines(text: str) -> str | None:
    """What an unmarked text in a tag answers; several numbers on lines of their own are a list."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(set(lines)) > 1 and all(quantity_of(line) is not None for line in lines):
        return ", ".join(lines)
    return reduced(text)


def _last_tagged(text: str) -> str | None:
    found = None
    start = None
    for tag in _TAG.finditer(text):
        if not (tag[1] or tag[2]):
            start = tag.end()
        elif start is not None:
            found = text[start : tag.start()]
            start = None
    return found
