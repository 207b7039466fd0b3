"""Text of completions, final answers in them, and the answers that the data holds."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

Completion: TypeAlias = str | Sequence[Mapping[str, Any]]
"""Text, or the messages of a conversational completion."""

TARGET_COLUMNS = ("answer", "solution", "ground_truth", "reward_model.ground_truth", "reward_model")
"""Columns that may hold the right answer, the first present one is read."""

_LONGEST = 500
"""Characters of an answer in which typography is looked for: together with bounded patterns, all here is linear in the text."""

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?![\w.]))?"
_LAST_NUMBER = re.compile(rf"(?<![\w.]){_NUMBER}(?:\s{{0,3}}/\s{{0,3}}\d+(?![\w.]))?(?!\d)")
_PHRASE = re.compile(r"\banswer\s{0,8}(?:is|:|=)\s{0,8}:?\s{0,8}([^\n]+)", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|[{}]")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"(?<![\dA-Za-z\\])(\d*)\s*\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_NOISE = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ()\[\]]|\$|€|£|~|\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°|\*\*")
_ASSIGNED = re.compile(r"^[A-Za-z]\w{0,11}\s*=\s*([^=]+)$")
_SIMPLE = re.compile(rf"^({_NUMBER})(?:\s*/\s*(\d+)|\s+(\d+)/(\d+))?(?:\s*%)?(\s*[A-Za-zµ][A-Za-zµ\s/^{{}}23²³.-]*)?$")
_FORMULA = re.compile(r"\$[^$]{1,999}\$|\\\(.{1,999}?\\\)|\\\[.{1,999}?\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_UNITS = frozenset("mm cm km m in ft yd mi mg kg g t lb oz ml mL cl dl l L s h hr ms am pm kW W V A Hz J kJ N Pa K C F".split())
_NOT_UNITS = frozenset("and sqrt log sin cos tan exp mod".split())


def content_of(completion: Completion) -> str:
    """The text of a completion: itself, or what the last message of a conversational one says."""
    if isinstance(completion, str):
        return completion
    if not completion:
        return ""
    content = completion[-1].get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def marked_answer(text: str) -> str | None:
    r"""The final answer that the text marks as such, as written; None when nothing is marked.

    After the last ``</think>``, the first of these that occurs, and of several the last: ``<answer>..</answer>``,
    ``\boxed{..}``, ``#### ..``, "answer is .." or "answer: .." up to the end of the line.
    """
    text = text.rpartition("</think>")[2]
    if (tagged := _last_tagged(text)) is not None:
        return marked_answer(tagged) or tagged.strip()
    if boxed := _last_boxed(text):
        return boxed
    if hashes := _HASHES.findall(text):
        return hashes[-1].strip()
    if phrases := _PHRASE.findall(text):
        return phrases[-1].strip().rstrip(".").strip()
    return None


def answer_of(completion: Completion) -> str | None:
    """The final answer in a normal form, so that equal answers are equal strings (for majority votes).

    The marked answer (`marked_answer`), or what stands out in a text without one (`unmarked_answer`).
    Numbers lose thousands separators, units and trailing zeros ("1,200.0 km" -> "1200"), fractions are reduced.

    Returns:
      The normal form, or None when there is no answer.
    """
    text = content_of(completion)
    answer = marked_answer(text) or unmarked_answer(text)
    return normal_form(answer) or None if answer is not None else None


def unmarked_answer(text: str) -> str | None:
    """What a text without a mark most likely answers: its last formula in latex; itself when it is one line without words
    or without numbers; else its last number."""
    text = text.rpartition("</think>")[2].strip()
    if formulas := _FORMULA.findall(text):
        return formulas[-1]
    number = last_number(text)
    if "\n" not in text and (number is None or not _WORD.search(text)):
        return text or None
    return number


def last_number(text: str) -> str | None:
    """The last number (or fraction of integers) in a text, as written."""
    numbers = _LAST_NUMBER.findall(text)
    return numbers[-1] if numbers else None


def normal_form(answer: str) -> str:
    """An answer without typography: a reduced number ("3/4", "-12"), or text in lower case with single spaces."""
    number = as_number(answer)
    if number is not None:
        return str(number)
    return " ".join(_plain(answer).lower().split())


def as_number(answer: str) -> Fraction | None:
    """The value of an answer that is one number, perhaps with a unit or a percent sign (which is dropped); else None."""
    found = _SIMPLE.match(_plain(answer)) if len(answer) <= _LONGEST else None
    if not found:
        return None
    if not _is_unit(found[5] or ""):
        return None
    whole = Fraction(found[1].replace(",", ""))
    if found[2] is not None:
        return whole / int(found[2]) if int(found[2]) else None
    if found[3] is not None:
        part = Fraction(int(found[3]), int(found[4])) if int(found[4]) else None
        return None if part is None or whole.denominator != 1 else whole + (part if whole >= 0 else -part)
    return whole


def targets_of(columns: Mapping[str, Sequence[Any]], index: int) -> tuple[str, ...] | None:
    """The right answers of one row.

    Args:
      columns: data columns; the first present of `TARGET_COLUMNS` is read. `reward_model` holds verl's
        ``{"ground_truth": ..}``. A list means that each of its answers is right. Of "reasoning #### 18" only "18" counts.
      index: the row.

    Returns:
      The answers, or None when the row has none.

    Raises:
      ValueError: no such column.
    """
    for name in TARGET_COLUMNS:
        if name in columns:
            value = columns[name][index]
            break
    else:
        raise ValueError(
            f"the data has no column with the right answer: {', '.join(sorted(columns)) or 'no columns'}; "
            f"needed is one of {', '.join(TARGET_COLUMNS)} (rename it with data.columns)"
        )
    if isinstance(value, Mapping):
        value = value.get("ground_truth")
    if value is None:
        return None
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(str(v).rpartition("####")[2].strip() for v in values) or None


def target_of(columns: Mapping[str, Sequence[Any]], index: int) -> str | None:
    """The (first) right answer of one row; see `targets_of`."""
    targets = targets_of(columns, index)
    return targets[0] if targets else None


def _last_tagged(text: str) -> str | None:
    found, start = None, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()], None
    return found


def _last_boxed(text: str) -> str | None:
    last, found = -1, None
    opened: list[int | None] = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace.end() if len(brace[0]) > 1 else None)
        elif opened and (start := opened.pop()) is not None and start > last:
            last, found = start, text[start : brace.start()].strip()
    return found or None


def _plain(answer: str) -> str:
    if len(answer) > _LONGEST:
        return answer
    text = _WRAPPED.sub(r" \1 ", answer)
    text = _FRACTION.sub(lambda m: f"{m[1]} {m[2] or m[4]}/{m[3] or m[5]}".lstrip(), text)
    text = _NOISE.sub("", text).replace("\\%", "%").replace("{,}", ",").strip()
    if assigned := _ASSIGNED.match(text):
        text = assigned[1]
    return text.strip().rstrip(".,;:!").strip()


def _is_unit(text: str) -> bool:
    """Whether what follows a number is a unit ("km", "dollars", "m/s", "square feet") and not a variable or a function."""
    words = [word for word in re.split(r"[\s/.{}^23²³-]+", text) if word]
    if words and len(words[0]) == 1 and not text[0].isspace():
        return False
    return all(word in _UNITS or (len(word) > 2 and word not in _NOT_UNITS) for word in words)
