"""From a sentence to the one expression that it answers with, or to nothing.

"The largest $n$ is $104$, since 2 + 2 = 4." -> "$104$". Numbers are never taken out of what changes
their value: "2 million" stays whole, and "not 5", "5 or more", "between 5 and 6", "half of 5" are
no answers.

`reduced` reads texts that a mark singles out, `standing_out` those without a mark. Both cut a text
into tokens and sentences (`expressions`) and take from a sentence what it states (`_stated`).
"""

import itertools
import re

from rlhf_jax.rewards.asides import CONNECTIVES, changes_before
from rlhf_jax.rewards.choices import chosen_in
from rlhf_jax.rewards.expressions import (
    Token,
    expressions_in,
    is_list,
    read_tokens,
    split_sentences,
    unbold,
    words_in,
)
from rlhf_jax.rewards.nouns import alters, are_counted, changes_value, phrase_of
from rlhf_jax.rewards.quantities import as_number, quantity_of
from rlhf_jax.rewards.units import unit_of
from rlhf_jax.rewards.wording import BEFORE, CHANGES, CHOICES, GLUE, NUMERALS, SCALES, VALUE, denies

_LONGEST = 2000
"""Characters of a sentence that are read."""
_MOST_WORDS = 12
"""Words of an answer without numbers."""
_NEAR = 5
"""Words behind a number that are looked at."""
_REASONS = ("because", "since")
"""What ends an answer in words, too: "yes, because"."""
_MOST_SAID = 5
"""Words of such an answer."""
_HEDGES = frozenset(("or maybe perhaps possibly alternatively actually wait no unless").split())
_SIGNS = ("minus", "negative")
_MULTIPLIED = frozenset(
    "the that this these those his her its their our my your it as what of "
    "more larger bigger greater smaller higher longer faster".split()
)
"""Words behind "times" that begin what is multiplied: "2 times the price"."""
_COPULAS = frozenset(
    "is are was were be equals equal exactly only therefore gives get gets obtain yields becomes "
    "totals has".split()
)
_OPENERS = frozenset(
    "a an the about approximately roughly around exactly only just simply equal to "
    "indeed clearly thus therefore then that".split()
)


_SPELLED = re.compile(r"([A-Za-z][A-Za-z -]{1,60}[A-Za-z])\s?\(([^()]{1,40})\)")
"""A number in words and in digits: "eighteen (18)"."""


def reduced(text: str) -> str | None:
    """What a marked text answers: itself without prose, else the one expression of sentence one.

    Args:
      text: what follows a mark ("answer is", "####") or stands in one (``<answer>``), in one piece.

    Returns:
      An expression, a number with its unit, or words, as written; None when there is nothing, or no
      single answer.
    """
    text = unbold(text[:_LONGEST])
    sentences = split_sentences(read_tokens(text))
    if not sentences:
        return None
    tokens = sentences[0]
    if (
        len(sentences) > 1
        and text[tokens[-1].end :].lstrip().startswith("—")
        and changes_before(_run(sentences[1]))
    ):
        return None
    head, tail = _cut(tokens)
    if tail and (tail[0].text.lower() in _HEDGES or changes_before(_run(tail))):
        return None
    if (spelled := _SPELLED.match(text)) is not None and _agree(spelled[1], spelled[2]):
        return spelled[2]
    whole = text[head[0].start : head[-1].end]
    if (choice := chosen_in(whole, text[head[-1].end :])) is not None:
        return choice
    if not words_in(head) or quantity_of(whole) is not None or is_list(head):
        return whole
    first = next(
        (
            i
            for i, token in enumerate(head)
            if token.text.lower() not in _OPENERS and token.text not in "=:*"
        ),
        0,
    )
    items = expressions_in(head)
    if not items:
        return _wording(text, head)
    if items[0][0] <= first or (head[first].text.lower() in _SIGNS and items[0][0] == first + 1):
        return _leading(text, head, items)
    return _stated(text, head, items, strict=True)


def standing_out(text: str) -> str | None:
    """What an unmarked text most likely answers: the last expression of the last such sentence."""
    tokens = read_tokens(text[-_LONGEST:])
    text = text[-_LONGEST:]
    for sentence in reversed(split_sentences(tokens)):
        head, _ = _cut(sentence)
        if (
            choice := chosen_in(text[head[0].start : head[-1].end], text[head[-1].end :])
        ) is not None:
            return choice
        items = expressions_in(sentence)
        if items:
            if not words_in(sentence):
                return text[sentence[0].start : sentence[-1].end]
            return _stated(text, sentence, items, strict=False)
    return None


def _cut(tokens: list[Token]) -> tuple[list[Token], list[Token]]:
    """(what is said, the reason given for it)."""
    answered = False
    for i, token in enumerate(tokens):
        word = token.text.lower() if token.kind == "word" else ""
        if word in CONNECTIVES and (answered or (word in _REASONS and 0 < i <= _MOST_SAID)):
            return tokens[:i], tokens[i + 1 :]
        if (
            token.text in ",(—"
            and answered
            and i + 1 < len(tokens)
            and tokens[i + 1].kind == "word"
        ):
            following = tokens[i + 1].text.lower()
            aside = token.text == "(" and len(following) > 1 and tokens[i - 1].end < token.start
            if aside or (
                token.text != "(" and following not in ("and", "or") and len(following) > 1
            ):
                return tokens[:i], tokens[i + 1 :]
            if token.text == "," and following == "or" and len(expressions_in(tokens[:i])) == 1:
                return tokens[:i], tokens[i + 1 :]
        answered = (
            answered
            or token.kind in ("formula", "number", "tex")
            or (len(word) == 1 and token.text not in ("a", "I"))
        )
    return tokens, []


def _agree(words: str, digits: str) -> bool:
    """Whether a number in words is the one in digits behind it."""
    one = quantity_of(words)
    other = quantity_of(digits)
    return one is not None and other is not None and one.value == other.value


def _wording(text: str, head: list[Token]) -> str | None:
    """The answer of a sentence without a number: its words."""
    return text[head[0].start : head[-1].end] if len(words_in(head)) <= _MOST_WORDS else None


def _leading(text: str, head: list[Token], items: list[tuple[int, int]]) -> str | None:
    """The answer of "104 clips were sold in total": the expression in front, if unchanged."""
    first, last = items[0]
    if first and head[first - 1].text.lower() in _SIGNS:
        first -= 1
    words = words_in(head[last + 1 :])
    if len(items) > 1 or any(word.lower() in CHOICES for word in words) or denies(words):
        return None
    return _with_unit(text, head, first, last)


def _stated(
    text: str, sentence: list[Token], items: list[tuple[int, int]], *, strict: bool
) -> str | None:
    """The expression that a sentence ends with or says that something is."""
    if any(word.lower() in CHOICES for word in words_in(sentence)):
        return None
    formulas = [item for item in items if sentence[item[0]].kind == "formula"]
    plain = [item for item in items if sentence[item[0]].kind != "formula"]
    chosen = items[-1]
    if chosen in plain and not _is_said(sentence, chosen[0]):
        if formulas:
            chosen = formulas[-1]
        elif strict and len(plain) > 1:
            return None
    place = items.index(chosen)
    start = chosen[0]
    if (
        start
        and sentence[start - 1].text.lower() in _SIGNS
        and (start == 1 or _is_said(sentence, start - 1))
    ):
        chosen = (start - 1, chosen[1])  # "is negative 5"
    before = sentence[items[place - 1][1] + 1 : chosen[0]] if place else sentence[: chosen[0]]
    after = (
        sentence[chosen[1] + 1 : items[place + 1][0]]
        if place + 1 < len(items)
        else sentence[chosen[1] + 1 :]
    )
    if denies(words_in(before)) or denies(words_in(after)):
        return None
    if place and _joins(before):
        return None
    spoken = [token.text.lower() for token in before if token.kind == "word"]
    nearest = next(
        (word for word in reversed(spoken) if word not in GLUE and word not in ("by", "to")), ""
    )
    # "increases by 5" and "we multiply 2 * 2 = 4" say 5 and 4.
    said = {"by", "to"} & set(spoken[-2:]) or "=" in text[
        sentence[chosen[0]].start : sentence[chosen[1]].end
    ]
    changed = alters(nearest) and not said
    if nearest in BEFORE or changed:  # "twice 5", "the square root of 5", "divided by 5"
        return None
    return _with_unit(text, sentence, *chosen)


def _is_said(sentence: list[Token], start: int) -> bool:
    before = [token.text.lower() for token in sentence[:start]]
    while before and before[-1] in _OPENERS | {"*", "$"}:
        before.pop()
    return bool(before) and (
        before[-1] in _COPULAS or before[-1] in "=:≈" or before[-1].endswith("'s")
    )


def _joins(between: list[Token]) -> bool:
    """Whether two expressions are parts of one list or range."""
    texts = [token.text.lower() for token in between]
    return bool(texts) and set(texts) <= {"and", "or", "to", ",", "&", "-", "–", "through"}


def _counts(number: str, behind: list[Token]) -> bool:
    """Whether the words right behind a number are what it counts."""
    value = as_number(number.rpartition("=")[2])
    return are_counted(_run(behind), single=value is not None and value <= 1)


def _counts_times(behind: list[Token]) -> bool:
    """Whether "times" ends what is said, as in "he ran 5 times a week", and multiplies nothing."""
    words = _run(behind)
    if words and words[0].lower() in _MULTIPLIED:
        return False
    return not any(map(changes_value, words)) and (
        bool(words) or not behind or behind[0].kind == "sign"
    )


def _run(tokens: list[Token]) -> list[str]:
    """The words that tokens begin with, up to a sign."""
    words = itertools.takewhile(lambda token: token.kind == "word", tokens)
    return [part for token in words for part in token.text.split("-")]


def _with_unit(text: str, tokens: list[Token], first: int, last: int) -> str | None:
    """An expression with its scale, percent or unit; None when a word behind changes its value."""
    start = tokens[first].start
    end = tokens[last].end
    behind = tokens[last + 1 :]
    if not behind:
        return text[start:end]
    # "5 and a half", "5 apples times two"
    if any(word.lower() in CHANGES for word in words_in(behind[1:])[:_NEAR]):
        return None
    nearest = behind[0]
    scaled = nearest.text.lower() in SCALES or nearest.text.lower() in ("percent", "pct")
    if any(map(alters, phrase_of(_run(behind[scaled:])))):  # "5 apples doubled"
        return None
    if nearest.kind == "word":
        word = nearest.text.lower()
        if scaled:
            return (
                text[start : nearest.end]
                if quantity_of(text[start : nearest.end]) is not None
                else None
            )
        if word in ("more", "fewer") and len(behind) > 1 and behind[1].kind == "word":
            return text[start:end]
        spaced = nearest.start > end or tokens[last].kind == "formula"
        if (known := unit_of(text[nearest.start : tokens[-1].end])) is not None:
            taken = text[start : tokens[-1].end - len(known[1])]
            if quantity_of(taken) is not None:
                return taken
        if (
            not spaced
            or (changes_value(word) and word not in ("and", "to", "times"))
            or word in NUMERALS
        ):
            return None
        following = next((token for token in behind[1:] if token.text.lower() not in GLUE), None)
        if word == "times" and not _counts_times(behind[1:]):
            return None
        if word in ("and", "to") and (
            following is None or following.kind != "word" or following.text.lower() in VALUE
        ):
            return None
        counted = (
            tokens[last].kind == "number"
            and len(behind) > 1
            and behind[1].kind in ("number", "formula")
        )
        if word in ("of", "in") and counted:  # "5 of 6"
            return None
        if (
            known is None
            and word not in ("and", "to", "times")
            and not _counts(text[start:end], behind)
        ):
            return None
    elif (
        nearest.kind in ("sign", "tex")
        and nearest.start == end
        and nearest.text not in ",;:.)]*\"'”?$€£"
    ):
        return None
    return text[start:end]
