"""Sentences as tokens (words, numbers, signs, formulas), and the expressions among them."""

import re
from typing import NamedTuple

from rlhf_jax.rewards.quantities import NUMBER
from rlhf_jax.rewards.typography import is_formula

_WITHOUT_FORMULA = (
    rf"(?P<number>(?:\\?\$\s?)?{NUMBER}(?:\\?[%$€£°])?)"
    r"|(?P<tex>\\text\s?\{[^{}]{0,60}\}|\\[A-Za-z]+|\\[%{},;! ]|[{}])"
    r"|(?P<word>[A-Za-z][A-Za-z'’]*(?:-[A-Za-z]+)*)"
    r"|(?P<sign>\S)"
    r"|(?P<line>\n)"
)
_TOKEN = re.compile(
    r"(?P<formula>\$\$[^$]{1,400}\$\$|(?<!\\)\$[^$\n]{1,400}(?<!\\)\$|\\\(.{1,400}?\\\)"
    r"|\\\[.{1,400}?\\\])|" + _WITHOUT_FORMULA,
    re.DOTALL,
)
_PLAIN_TOKEN = re.compile(_WITHOUT_FORMULA)
_OPERATORS = frozenset("+-*/^=()[]|_!<>−×÷·±²³≤≥√π∞'’\\:")


class Token(NamedTuple):
    """A word, number, sign, formula or end of a line, and where it stands."""

    kind: str
    text: str
    start: int
    end: int


def read_tokens(text: str) -> list[Token]:
    """The tokens of a text, in order."""
    tokens = []
    place = 0
    while found := _TOKEN.search(text, place):
        if found["formula"] and not is_formula(found[0]):  # the words between two prices
            found = _PLAIN_TOKEN.match(text, found.start()) or found
        tokens.append(Token(str(found.lastgroup), found[0], found.start(), found.end()))
        place = found.end()
    return tokens


def unbold(text: str) -> str:
    """Without the stars of a bold mark that began before the text or around it."""
    text = text.strip()
    if re.match(r"\*\*(?!\S*\*\*)\s", text) or (text.count("**") % 2 and text.startswith("**")):
        text = text[2:].strip()
    if text.count("**") % 2 and re.search(r"\*\*[.!]?$", text):
        text = re.sub(r"\*\*([.!]?)$", r"\1", text)
    bold = re.match(r"\*\*([^*]+)\*\*(?![0-9A-Za-z^(*])", text)
    return text if bold is None else bold[1] + text[bold.end() :]


def split_sentences(tokens: list[Token]) -> list[list[Token]]:
    """The tokens of each sentence, without its end."""
    sentences: list[list[Token]] = [[]]
    for i, token in enumerate(tokens):
        if token.kind == "line" or _ends_sentence(tokens, i):
            sentences.append([])
        else:
            sentences[-1].append(token)
            if token.kind == "formula" and token.text.rstrip("$)] \\\n").endswith((".", "?")):
                sentences.append([])
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(tokens: list[Token], i: int) -> bool:
    token = tokens[i]
    if token.text == "。":
        return True
    last = i + 1 == len(tokens) or tokens[i + 1].start > token.end or tokens[i + 1].kind == "line"
    if token.kind != "sign" or not last:
        return False
    if token.text == "!":  # after a digit or a bracket it is a factorial
        return i > 0 and tokens[i - 1].kind == "word" and len(tokens[i - 1].text) > 1
    return token.text in ".?" or (token.text == "—")


def words_in(tokens: list[Token]) -> list[str]:
    """The words of two letters or more that name nothing of mathematics."""
    return [
        token.text
        for token in tokens
        if token.kind == "word" and len(token.text) > 1 and token.text not in _NAMES
    ]


_NAMES = frozenset("sqrt sin cos tan log ln exp pi mod gcd lcm max min".split())


def is_list(tokens: list[Token]) -> bool:
    """Whether expressions are joined by nothing but commas, "and", "or"."""
    words = words_in(tokens)
    return bool(expressions_in(tokens)) and all(word.lower() in ("and", "or") for word in words)


def expressions_in(tokens: list[Token]) -> list[tuple[int, int]]:
    """Runs of tokens (first, last) that are expressions: formulas, numbers with what is theirs."""
    items: list[tuple[int, int]] = []
    i = 0
    while i < len(tokens):
        if tokens[i].kind == "formula":
            items.append((i, i))
            i += 1
            continue
        end = i
        while end < len(tokens) and _is_part(tokens, end):
            end += 1
        run = _trimmed(tokens, i, end)
        if run is not None:
            items.append(run)
        i = max(end, i + 1)
    return items


def _is_part(tokens: list[Token], i: int) -> bool:
    token = tokens[i]
    if token.kind in ("number", "tex") or token.text in _NAMES:
        return True
    if token.kind == "word":
        article = (
            token.text in ("a", "A", "I") and i + 1 < len(tokens) and tokens[i + 1].kind == "word"
        )
        return len(token.text) == 1 and not article
    return token.kind == "sign" and token.text in _OPERATORS


def _trimmed(tokens: list[Token], start: int, end: int) -> tuple[int, int] | None:
    """A run without signs at its ends that join it to the sentence; None: no number, no command."""
    while start < end and tokens[start].kind == "sign" and tokens[start].text in "=:*_)]'’/|\\":
        start += 1
    while (
        start < end
        and tokens[end - 1].kind == "sign"
        and tokens[end - 1].text in "=:*_([-+/'’|\\<>"
    ):
        end -= 1
    depth = sum((t.text in "([") - (t.text in ")]") for t in tokens[start:end] if t.kind == "sign")
    if depth > 0 and tokens[start].text in "([":
        start += 1
    elif depth < 0 and tokens[end - 1].text in ")]":
        end -= 1
    kinds = {token.kind for token in tokens[start:end] if token.text not in "{}"}
    return (start, end - 1) if kinds & {"number", "tex"} else None
