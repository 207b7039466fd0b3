"""The one-line error of the configuration, and the nearest-match search behind its hints."""

import difflib
from collections.abc import Iterable

from rlhf_jax.errors import RlhfError


class ConfigError(RlhfError, ValueError):
    """A mistake in the configuration, in one line: key, value, what is allowed, nearest match,
    where it stands."""

    exit_code = 2


LEAST_ELSEWHERE = 0.75
"""How alike a key of another section must be: a sibling is meant sooner."""


def nearest(word: str, candidates: Iterable[str], *, least: float = 0.6) -> str | None:
    """The candidate that looks most like what the user wrote, or None when none does (below the
    similarity `least`).

    Dotted names are compared by their last parts: two keys of one section are not alike because
    its name is.
    """

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()

    def similarity(candidate: str) -> float:
        return ratio(word.rpartition(".")[2], candidate.rpartition(".")[2])

    # Of equals the one in a section of like name.
    best = max(candidates, key=lambda each: (similarity(each), ratio(word, each)), default=None)
    return best if best is not None and similarity(best) >= least else None


def did_you_mean(word: str, candidates: Iterable[str], *, least: float = 0.6) -> str:
    """`"; did you mean 'x'?"`, or an empty string when nothing is near."""
    match = nearest(word, list(candidates), least=least)
    return f"; did you mean {match!r}?" if match is not None else ""


def one_line(error: BaseException | str) -> str:
    """An error's text with line breaks and runs of blanks folded into single spaces."""
    return " ".join(str(error).split())
