"""Asides behind a number: those that make another value of it, and those that say whence.

"(in millions)" and ", squared" are of the first kind; "since 2 + 2 = 4", "half of ten" and "rounded
to cents" say where the number comes from.
"""

from rlhf_jax.rewards.nouns import alters
from rlhf_jax.rewards.wording import CHANGES, FRACTION_WORDS, GLUE

CONNECTIVES = frozenset(
    "because since so which as where when whenever if hence thus therefore giving meaning obtained "
    "using given for while though although but however after".split()
)
"""Words that begin a reason."""
_RESTATES = frozenset(
    "half halves third thirds fourth quarter quarters twice thrice double triple quadruple inverse "
    "opposite reciprocal negation negative root square cube logarithm factorial less".split()
)
"""Words of an aside that say where a value comes from when they are of something ("half of ten"),
and change it when they are not."""
_OF_SOMETHING = frozenset("of the than as what a an its his her their that from".split())
_ASIDE_STARTS = GLUE | frozenset("in to as then all but when being to be us".split())
_LOOKED_AT = 2
"""Words of an aside that are looked at, without those that open it."""


def changes_before(words: list[str]) -> bool:
    """Whether an aside makes another value of what stands before it, or says that it is wrong.

    Args:
      words: the words that the aside begins with, up to a sign or a number.
    """
    words = [word.lower() for word in words]
    if words[:1] and words[0] in CONNECTIVES:
        refers = words[0] in ("which", "but", "though", "although")
        return refers and any(
            word.startswith(("wrong", "incorrect", "mistaken")) for word in words[1:4]
        )
    if words[:1] == ["to"] and "power" in words:
        return True
    said = [place for place, word in enumerate(words) if word not in _ASIDE_STARTS][:_LOOKED_AT]
    for nth, place in enumerate(said):
        word = words[place]
        following = words[place + 1 : place + 2]
        if alters(word):
            changes = not word.startswith(("round", "percent"))
        else:
            changes = nth == 0 and (word in CHANGES or word == "base")
        restates = word in _RESTATES or word in FRACTION_WORDS
        if word == "negative" and following:
            return False  # "negative values are excluded"
        if restates and following and following[0] in _OF_SOMETHING:
            return False
        if changes:
            return True
    return False
