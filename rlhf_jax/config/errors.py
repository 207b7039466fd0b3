"""The one-line error of the configuration, and the nearest-match search behind its hints."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A mistake in the configuration, in one line: key, value, what is allowed, nearest match, where it stands."""


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like `word`, or None when none does.

    A dotted candidate is also compared by its last part, so that `beta` finds `algorithm.beta`.

    Args:
        word: what the user wrote.
        candidates: what would have been accepted.

    Returns:
        One of the candidates, or None below a similarity of 0.6.
    """
    last = word.rpartition(".")[2]

    def similarity(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, word.lower(), candidate.lower()).ratio()
        part = difflib.SequenceMatcher(None, last.lower(), candidate.rpartition(".")[2].lower()).ratio()
        return max(whole, 0.9 * part)

    best = max(candidates, key=similarity, default=None)
    return best if best is not None and similarity(best) >= 0.6 else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or an empty string when nothing is near."""
    match = nearest(word, candidates)
    return f"; did you mean {match!r}?" if match is not None else ""


def one_line(error: BaseException | str) -> str:
    """An error's text with line breaks and runs of blanks folded into single spaces."""
    return " ".join(str(error).split())
