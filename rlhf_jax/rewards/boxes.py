r"""Boxes in a text: the last ``\boxed{..}`` not denied, with what beside it changes its value."""

import re
from typing import NamedTuple

from rlhf_jax.rewards.asides import changes_before
from rlhf_jax.rewards.nouns import changes_value, scales_box
from rlhf_jax.rewards.units import unit_of
from rlhf_jax.rewards.wording import denies

_BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|[{}]")
_DENIED = re.compile(
    r"[\s$.)\]\\*]{0,6}(?:,?\s?(?:which|but\s(?:this|that|it))\s)?"
    r"(?:is|was|are|were|seems?|looks?|would be|must be|cannot be|can['’]t be)"
    r"(?:n['’]t)?(?![A-Za-z])([^.,;:\n]{0,40})"
)
_TOO = re.compile(
    r"\s(?:(?:still|far|much|way|a "
    r"bit|slightly)\s)?too\s(?:small|large|big|high|low|many|few|much|little|short|long)"
    r"(?![A-Za-z])"
    r"|\s(?:way|far)\soff(?![A-Za-z])"
)
"""Behind "is": what is compared with the right answer is none."""
_ASKED = re.compile(
    r"[\s$)\]\\*]{0,6}\?[\s*]{0,4}(?:no|nope|wrong|incorrect|not)(?![A-Za-z])", re.IGNORECASE
)
_DENYING = re.compile(
    r"(?:(?<![A-Za-z])(?:not|never|cannot be|neither|nor|rather than|instead of"
    r"|(?:any|every)thing but|other than)|n['’]t(?: be)?)"
    r"\s(?:equal to\s|(?:say|answer|be|pick|choose|accept)\s)?[\s$\\(\[*]{0,6}\Z",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"(?P<soft>(?:(?:hmm+|wait|oops|oh|no|sorry|actually|hold on|on second "
    r"thought)(?![A-Za-z])[\s,.!:…-]{0,4}){1,3})?"
    r"(?:(?P<hard>(?:that|this|it)(?:['’]s|\sis|\swas)\s(?:\w+\s)?"
    r"(?:wrong|incorrect|mistaken|false|not\s(?:right|correct)|a\smistake)(?![A-Za-z])"
    r"|that\scan(?:not|['’]t)\sbe|scratch\sthat"
    r"|i\s(?:made|was)\s(?:an?\s)?(?:mistake|error|wrong|mistaken)(?![A-Za-z]))"
    r"|(?P<new>(?P<explicit>(?:correction|edit)\s?[:,]|let\sme\scorrect\s(?:that|this|it)\s?[:,]?"
    r"|(?:i\smean|sorry|oops|no|rather),?(?=\s(?:[-$\\0-9]|it\sis)))"
    r"|(?:it|that|this|the\sanswer)(?:['’]s|\sis|\sshould\sbe|\smust\sbe))"
    r"\s(?P<value>[^\n]{1,200}))",
    re.IGNORECASE,
)
_NEXT_SENTENCE = re.compile(
    r"(?:[\s*$)\]]*,(?=\s?(?:no|sorry|wait|oops|i\smean)[\s,])"
    r"|[^.!?\n]{0,60}(?:[.!?…]+|\n))[\s*$)\]]*",
    re.IGNORECASE,
)
_GAP = r"(?:[ \t]|\\[,;:! ]|~)*"
_OPENED = r"(?:\\left|\\[bB]igg?l?|[({$]|\s|\\[,;:! ]|~)*"
_MINUS = re.compile(
    rf"(?:(?:^|[=$(\[:>#]|\\[(\[])\s*[-−]|[A-Za-z]{{2}}[:*]*\s[-−](?!\s)"
    rf"|\b(?:minus|negative(?:\sof)?)\s){_OPENED}\Z"
)
_FACTOR = re.compile(
    r"(?:(?<![A-Za-z])[0-9]{1,9}|[0-9)}]\s?(?:/|\\cdot|\\times|\\div|\*|\^\s?\{?)\s?"
    r"|\\sqrt\s?(?:\[[^\[\]]{1,9}\])?\s?\{|\\[dt]?frac\s?\{(?:[^{}]{1,20}\}\s?\{)?"
    r"|\\(?:log|ln|sin|cos|tan)(?:_\{?\w\}?)?\s?[({]?)\Z"
)
"""Right before a box: what it is multiplied with, or an argument of."""
_FRACTION_END = re.compile(r"\}\s?\{[^{}]{1,20}\}")
_OPERATION = re.compile(
    rf"(?:\^\{{?\\circ\}}?)?{_GAP}(?:[-+−]\s?(?=[0-9(]|[A-Za-z](?![A-Za-z])"
    rf"|\\(?:frac|sqrt|pi|cdot))|[*/]\s?(?=[0-9(])"
    r"|[×÷·]|\\(?:cdot|times|div|pm|mp|pi|sqrt|[dt]?frac|[bp]?mod)(?![A-Za-z]))[^$=\n,;:]{0,40}"
)
"""Behind a box, in the same formula: what goes on with it."""
_GLUED = re.compile(
    r"\.[0-9]+|,[0-9]{3}(?![0-9])|[0-9]+|e[0-9]+|_(?:\{[0-9A-Za-z()]{1,12}\}|[0-9])"
    r"|[A-Za-z](?![A-Za-z{'’])"
)
_BEHIND = re.compile(
    r"(?P<mark>!+|(?:\{\})?\^\{?[0-9A-Za-z]+\}?|[\s$]*\\?%)"
    r"|(?:[ \t\n$*]|\\[)\], ;:!]|~|\\(?:text|mathrm|mbox|textbf)\s?\{)*(?P<word>[A-Za-z]+)"
)
_ASIDE = re.compile(
    r"(?:[ \t$*]|\\[)\]])*(?:[,(—]|\\text\s?\{\s?[,(])\s?(?P<words>(?:[A-Za-z]+\s?){1,5})"
)
_CONGRUENT = re.compile(r"\\equiv(?![A-Za-z])|≡|congruent")
_MODULO = re.compile(rf"{_GAP}(?:\$|\\\))?{_GAP}(?:\(|\\text\{{\s?\(?)?\\?[bp]?mod")
_JOINT = re.compile(
    r"(?:[\s$,;.&]|\\[\[\]()]|\\[,;:! "
    r"]|\\(?:quad|qquad)|\\text\s?\{\s*(?P<text>[^{}]{0,40})\}|(?P<word>[A-Za-z]{1,20})"
    r"|(?P<name>\\?[A-Za-z]+(?:_\{?\w\}?)?\s*=)|[()])*"
)
_OPERATORS = ("times", "plus", "minus", "over")
_VARIABLES = ("x", "y", "z", "n")
_LONGEST_JOINT = 70
_MOST_BOXES = 24
_CONCLUDING = frozenset(
    "so thus therefore hence answer answers is final no not wait then but total is equals gives "
    "actually".split()
)


class Boxed(NamedTuple):
    """What the boxes of a text answer."""

    end: int
    """Place behind the last; -1: there is none."""
    content: str | None
    denied: bool
    """Whether the text takes a box back."""


def boxes(text: str) -> Boxed:
    """The last box; of several joined by commas, "and" or nothing, their contents as a list."""
    found: list[tuple[int, int, str]] = []  # start, end, content of those that are not in another
    opened: list[tuple[int, int] | None] = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append((brace.start(), brace.end()) if len(brace[0]) > 1 else None)
        elif opened and (start := opened.pop()) is not None:
            while found and found[-1][0] > start[0]:
                found.pop()
            found.append((start[0], brace.end(), text[start[1] : brace.start()].strip()))
    kept = [box for box in found if not _is_denied(text, *box)]
    if not kept or not kept[-1][2]:
        return Boxed(-1, None, denied=len(kept) < len(found))
    group = [_with_outside(text, *kept[-1])]
    for before, after in zip(reversed(kept[:-1]), reversed(kept), strict=False):
        if len(group) > _MOST_BOXES or not _joined(text[before[1] : after[0]]):
            break
        if before[2] not in group:
            group.insert(0, before[2])
    return Boxed(kept[-1][1], ", ".join(group), denied=len(kept) < len(found))


def retraction(behind: str) -> re.Match[str] | None:
    """Where the next sentence takes an answer back: "that is wrong", "Correction: 6" (`value`)."""
    sentence = _NEXT_SENTENCE.match(behind)
    found = None if sentence is None else _RETRACTION.match(behind, sentence.end())
    if found is None or (found["new"] and not found["soft"] and not found["explicit"]):
        return None
    return found


def _is_denied(text: str, start: int, end: int, content: str) -> bool:
    """Whether a text says of a box that it is not the answer: "not [5]", "[5] is wrong"."""
    if _DENYING.search(text[max(start - 40, 0) : start]) or _ASKED.match(text, end):
        return True
    taken_back = retraction(text[end : end + 200])
    if taken_back is not None and (taken_back["hard"] or content not in taken_back["value"]):
        return True
    behind = _DENIED.match(text[end : end + 100])
    return behind is not None and (
        "n't" in behind[0].replace("’", "'")
        or denies(behind[1].split()[:3])
        or _TOO.match(behind[1]) is not None
    )


def _with_outside(text: str, start: int, end: int, content: str) -> str:
    r"""A box with its surroundings: ``-\boxed{5}``, ``\boxed{2} million``, ``\boxed{5}\cdot 3``."""
    before = text[max(start - 40, 0) : start]
    behind = text[end : end + 80]
    if (factor := _FACTOR.search(before)) is not None:
        rest = _FRACTION_END.match(behind) if "frac" in factor[0] else None
        close = "}" if factor[0].endswith("{") else ""
        return f"{factor[0]}({content}){rest[0] if rest else close}"
    sign = "-" if _MINUS.search(before) else ""
    inner = f"({content})" if sign and re.search(r"[-+]", content[1:]) else content
    if _CONGRUENT.search(before) and _MODULO.match(behind):  # "x = [5] (mod 7)" asks for 5
        return sign + inner
    if (operation := _OPERATION.match(behind)) is not None:
        bare = re.fullmatch(r"[-0-9.,]+", inner)
        return f"{sign}{inner if bare else f'({inner})'}{operation[0].rstrip(' .})')}"
    if (glued := _GLUED.match(behind)) is not None:
        unit = glued[0].isalpha() and unit_of(glued[0]) is not None  # "[5]m" is a measure
        return f"{sign}{inner}{' ' if unit else ''}{glued[0]}"
    aside = _ASIDE.match(behind)
    if aside is not None and changes_before(aside["words"].split()):
        return rf"{sign}{inner}\text{{ ({aside['words'].strip()})}}"
    beside = _BEHIND.match(behind)
    if beside is None:
        return sign + inner
    word = beside["word"]
    if word is None:
        return f"{sign}{inner}{beside['mark'].strip(' $')}"
    following = re.match(r"\s([0-9]|[A-Za-z]+)", behind[beside.end() :])
    if (
        word.lower() in _OPERATORS
        and following is not None
        and (following[1].isdigit() or changes_value(following[1]))
    ):
        return f"{sign}{inner} {word} {following[1]}"  # "[5] times ten"
    return f"{sign}{inner} {word}" if scales_box(word) or word in _VARIABLES else sign + inner


def _joined(between: str) -> bool:
    """Whether what stands between two boxes makes one list of them."""
    if len(between) > _LONGEST_JOINT or re.search(r"\.\s|\n\s*\n", between):
        return False
    found = _JOINT.fullmatch(between)
    words = re.findall(
        r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\(?:text|quad|qquad)", " ", between)
    )
    if found is None or any(word.lower() in _CONCLUDING for word in words):
        return False
    return not words or "," in between or ";" in between or words[-1].lower() in ("and", "or")
