r"""Letters of choice: which ones an answer names, and whether they are the right ones.

"B", "(B)", "B) 12", "Option B", "\text{(B)}" name one; "A, C", "(A) and (C)" name two. Whoever
names two where one is right has not answered.
"""

import re

from rlhf_jax.rewards.typography import clean
from rlhf_jax.rewards.wording import denies

_LETTER = r"\(?[A-J]\)?"
_JOINT = r"(?:\s?[,;&]\s?(?:and\s)?|\sand\s)"
_NOUN = r"(?:option|choice|answer|letter|statement)s?"
_LIST = rf"{_LETTER}(?:{_JOINT}(?:{_NOUN}\s)?{_LETTER})*"
_RIGHT = r"(?:the\s)?(?:only\s)?(?:correct|right|best|true|final|valid)"
_LISTED = re.compile(
    rf"(?:both\s)?(?:(?:the\s)?{_NOUN}\s?:?\s?)?(?P<letters>{_LIST})",
    re.IGNORECASE,
)
_ONE = re.compile(r"\(?\s?([A-Ja-j])\s?\)?(?:(?:(?<=\))|[).:])\s?(?P<rest>.*))?", re.DOTALL)
_TOGETHER = re.compile(r"(?=[A-J]{2,})A?B?C?D?E?F?G?H?I?J?")
_ANOTHER = re.compile(
    r"^\s*(?:[,;/&]|\(?[A-J]\)?(?![A-Za-z0-9_^=+*/'(\\-]))"
    r"|(?<![A-Za-z])(?:or|and|either|maybe|not|but)(?![A-Za-z])|\([A-J]\)"
    r"|(?<![A-Za-z\\])[A-J]\s?[).:](?:\s|$)"
    r"|(?<![A-Za-z])(?:is|are|be|option|choice|answer)"
    r"\s(?:option\s|choice\s)?\(?[A-J]\)?(?![A-Za-z0-9_])"
)
"""In what follows a letter of choice: a second one, or a doubt."""
_IS_RIGHT = rf"\s(?:is|are)\s{_RIGHT}(?:\s{_NOUN}|\sone)?"
_STATED = (
    re.compile(
        rf"(?:.*(?<![A-Za-z]))?(?i:{_NOUN})\s?:?\s(?P<letters>{_LIST})(?:{_IS_RIGHT})?",
        re.DOTALL,
    ),
    re.compile(
        rf"(?:(?:so|thus|therefore|hence),?\s)?(?:both\s)?(?P<letters>{_LIST}){_IS_RIGHT}",
        re.DOTALL | re.IGNORECASE,
    ),
    re.compile(
        rf".*(?<![A-Za-z])(?:is|are|[Ii]t['’]s|{_NOUN})\s?:?\s(?:both\s)?(?:{_NOUN}\s)?"
        rf"(?P<letters>{_LIST})",
        re.DOTALL,
    ),
)
"""Sentences that say which letters are right."""
_DESCRIBED = re.compile(
    rf"(?:.*(?<![A-Za-z]))?(?i:option|choice)\s(?P<letters>{_LETTER})\s?[:).](?P<rest>.+)",
    re.DOTALL,
)
_ALSO = re.compile(
    r"[\s,)*]*(?:but|and|or)\s"
    r"(?P<words>[^.\n]*?(?<![A-Za-z\\])(?P<letters>[A-J])(?![A-Za-z'])[^.\n]*)"
)
_AFTER = re.compile(
    rf"[\s.]*(?:it\sis\s|option\s|choice\s|or\s|and\s)?(?P<letters>{_LETTER})\s?[.)]?\s*\Z"
)
_LONGEST = 300
_STARS = re.compile(r"\*\*|__|\\text\s?\{\s?([^{}]*)\}|[{}$]")


def chosen_in(sentence: str, after: str = "") -> str | None:
    """The letters that a sentence says are right, as "A" or "A, C"; None: no such sentence.

    Args:
      sentence: "Option D is correct", "the correct choices are (A) and (C)", "B".
      after: the text behind it: a letter alone there is one more.
    """
    if len(sentence) > _LONGEST:
        return None
    text = " ".join(_STARS.sub(lambda m: m[1] or "", sentence).strip(" .:").split())
    one = re.fullmatch(_LETTER, text)
    if one is not None:
        after = _STARS.sub(lambda m: m[1] or "", after[:_LONGEST])
        another = _AFTER.fullmatch(after) or _ALSO.match(after)
        if another is not None and denies(re.findall(r"[A-Za-z'’]+", another[0])):
            return None  # "B, but A is wrong"
        if another is not None and _letters(another["letters"]) != _letters(text):
            return f"{text}, {another['letters']}"
        return None
    if denies(re.findall(r"[A-Za-z'’]+", text)):
        return None
    for pattern in _STATED:
        if (found := pattern.fullmatch(text)) is not None and _is_upper(found["letters"]):
            return str(found["letters"])
    described = _DESCRIBED.fullmatch(text)
    if described is None or _ANOTHER.search(described["rest"]):
        return None
    return str(described["letters"])


def same_choice(answer: str, target: str) -> bool | None:
    """Whether an answer names the right letters, in any order; None: the right are no letters.

    Args:
      answer: as it was given; what was chosen may stand behind one letter ("B) 12").
      target: the right answer: "B", "(b)", "A, C".
    """
    wanted = _named(target)
    if wanted is None:
        several = _named(answer) if _TOGETHER.fullmatch(_bare(target)) else None
        return (
            several == frozenset(_bare(target))
            if several is not None and len(several) > 1
            else None
        )
    found = _named(answer)
    if found is None and len(wanted) > 1:
        bare = _bare(answer)
        found = frozenset(bare) if _TOGETHER.fullmatch(bare) else None
    if found is None and len(wanted) == 1:
        return _chooses(_bare(answer), next(iter(wanted)), target)
    return found == wanted


def _named(text: str) -> frozenset[str] | None:
    """The letters that a text consists of; None when it says anything else."""
    bare = _bare(text)
    found = _LISTED.fullmatch(bare)
    if found is None or not _is_upper(found["letters"]):
        lower = re.fullmatch(r"\(([a-j])\)", bare)
        return None if lower is None else frozenset(lower[1].upper())
    return _letters(found["letters"])


def _chooses(bare: str, letter: str, target: str) -> bool:
    found = _ONE.fullmatch(bare)
    if found is None or _ANOTHER.search(found["rest"] or ""):
        return False
    if found[1].islower() and letter not in "ABCDE" and "(" not in bare + target:
        return False  # a variable
    return found[1].upper() == letter


def _letters(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"(?<![A-Za-z])[A-J](?![A-Za-z])", text))


def _is_upper(letters: str) -> bool:
    return re.search(r"(?<![A-Za-z])[a-j](?![A-Za-z])", letters) is None


def _bare(text: str) -> str:
    bare = _STARS.sub(lambda m: m[1] or "", clean(text)).strip(" .")
    return " ".join(bare.split())
