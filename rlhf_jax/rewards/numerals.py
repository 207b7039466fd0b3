"""Numbers in words ("twenty-one", "negative five", "two hundred and three") as digits."""

import re

from rlhf_jax.rewards.wording import NUMERALS

_ONES = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
_POWERS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = re.compile(r"[\s-]*([A-Za-z]+)")
_ARTICLE = re.compile(
    r"\A[Aa]n?\s(?=(?:hundred|thousand|million|billion|trillion|dozen)(?![A-Za-z]))"
)
_SIGN = re.compile(r"(?:negative|minus)[\s-]+(?=[0-9A-Za-z.\\$])", re.IGNORECASE)


def in_digits(text: str) -> str:
    """A text whose first words are a number, with it in digits; "minus" and "negative" are signs.

    "Twenty-one apples" -> "21 apples", "negative 5" -> "-5"; "nineteen eighty" is no number, and
    stays.
    """
    text = _ARTICLE.sub("1 ", text)
    sign = _SIGN.match(text)
    rest = text[sign.end() :] if sign else text
    value, end = _leading(rest)
    if value is None:
        return f"-{rest}" if sign and rest[:1] in "0123456789.\\$" else text
    return f"{'-' if sign else ''}{value}{rest[end:]}"


def _leading(text: str) -> tuple[int | None, int]:
    """(the number that a text begins with in words, its end)."""
    words: list[str] = []
    end = place = 0
    while word := _WORD.match(text, place):
        name = word[1].lower()
        place = word.end()
        if name in NUMERALS or name == "hundred" or name in _POWERS:
            words.append(name)
            end = place
        elif name != "and" or not words or words[-1] in NUMERALS:
            break
    if not words or words[0] not in NUMERALS:
        return None, 0
    return _value(words), end


def _value(words: list[str]) -> int | None:
    """The value of words of a number; None when they are none together ("three five")."""
    total = 0
    ceiling = 10**15
    group: list[str] = []
    for word in words:
        if word not in _POWERS:
            group.append(word)
            continue
        below = _below_thousand(group)
        if not below or _POWERS[word] >= ceiling:
            return None
        ceiling = _POWERS[word]
        group = []
        total += below * ceiling
    below = _below_thousand(group) if group else 0
    return None if below is None or (group and below >= ceiling) else total + below


def _below_thousand(words: list[str]) -> int | None:
    """The value of "three hundred twenty one"; "twenty one hundred" is 2100."""
    if "hundred" in words:
        place = words.index("hundred")
        front = _below_hundred(words[:place])
        rest = words[place + 1 :]
        back = _below_hundred(rest) if rest else 0
        return 100 * front + back if front and back is not None and (back or not rest) else None
    return _below_hundred(words)


def _below_hundred(words: list[str]) -> int | None:
    if len(words) == 1:
        return _ONES.get(words[0], _TENS.get(words[0]))
    if len(words) == 2 and words[0] in _TENS and 0 < _ONES.get(words[1], 0) < 10:
        return _TENS[words[0]] + _ONES[words[1]]
    return None
