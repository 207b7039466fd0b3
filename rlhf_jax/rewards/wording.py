"""Words around a number: those that change its value, that scale it, and nouns that do neither."""

from fractions import Fraction

SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "quintillion": 10**18,
    "dozen": 12,
    "hundreds": 100,
    "thousands": 10**3,
    "millions": 10**6,
    "billions": 10**9,
    "dozens": 12,
}
"""Words that multiply the number before them."""

_PARTS = (
    "half halves third fourth fifth sixth seventh eighth ninth tenth twelfth hundredth thousandth "
    "millionth billionth quarter"
)
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_OPERATORS = (
    "plus minus times divided multiplied over under by squared cubed root power powers exponent "
    "factorial choose mod modulo modulus remainder less base binary octal decimal hex hexadecimal "
    "twice thrice double doubled triple tripled quadruple fold negative minus opposite inverse "
    "reciprocal log logarithm sine cosine tangent exp sqrt raised cis imaginary"
)
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma "
    "tau upsilon phi chi psi omega infinity infinite"
)
_RELATIONS = (
    "not never neither nor no or either between and to than least most above below beyond "
    "exceeding up maybe perhaps possibly unless except instead rather cannot almost nearly until "
    "through till versus vs unlike without incorrect wrong false unknown undefined more fewer"
)
_COUNTS = (
    "sextillion septillion octillion nonillion decillion googol myriad myriads tens ones lots kilo "
    "mega giga tera milli micro nano baker baker's percentile percentiles point square cube cubic "
    "negation complement pair pairs couple couples score scores gross permille permil ppm ppb bps "
    "mille lakh lakhs crore crores grand quarters"
)
_FUNCTIONS = "sin cos tan cot sec csc ln lim arcsin arccos arctan gcd lcm max min det"

VALUE = frozenset(
    f"{_PARTS} {_NUMBERS} {_OPERATORS} {_GREEK} {_RELATIONS} {_COUNTS} {_FUNCTIONS}".split()
    + [f"{part}s" for part in _PARTS.split()]
    + list(SCALES)
)
"""Words beside a number that make another value of it, or leave open which one is meant: no fast
path reads past them."""

_ORDINALS = (
    "zeroth nth umpteenth dozenth thousandth hundredth third fifth eighth ninth twelfth "
    + " ".join(
        f"{word}th" for word in _NUMBERS.split() if word[-1] not in "ye" or word == "fifteen"
    )
    + " "
    + " ".join(f"{word[:-1]}ieth" for word in _NUMBERS.split() if word.endswith("ty"))
)
FRACTION_WORDS = frozenset(f"{word}{end}" for word in _ORDINALS.split() for end in ("", "s"))
"""Fractions in words: "elevenths", "thirtieths"."""

NUMERALS = frozenset(_NUMBERS.split())
"""Numbers in words."""

CHOICES = frozenset("or either neither nor between maybe perhaps possibly versus vs".split())
"""Words anywhere in a sentence that leave open which of its numbers is the answer."""

NEGATIONS = frozenset(
    "not never cannot than unless except instead rather unlike without incorrect wrong false "
    "unknown undefined least most".split()
)
"""Words before or after a number that say that it is not the answer, or not all of it."""

_BENIGN = frozenset(
    f"{_NUMBERS} and by to over under above below up no through until till without power powers "
    "more fewer most least base beyond exceeding almost nearly pair pairs couple couples score "
    "scores gross quarters grand min max decimal fold ones tens lots point square cube cubic than "
    "not between either neither nor or never cannot maybe perhaps possibly unless except instead "
    "rather versus vs unlike incorrect wrong false unknown undefined remainder choose".split()
)
CHANGES = VALUE - _BENIGN
"""Words that change a number also from behind its unit ("5 and a half", "5 apples times two")."""

CHANGES_BOX = frozenset(
    [
        *SCALES,
        *_PARTS.split(),
        *(f"{part}s" for part in _PARTS.split()),
        *"squared cubed percent pct or factorial modulo lakh lakhs crore crores lac lacs tens "
        "k".split(),
    ]
)
"""Words behind a box that belong to the number in it."""

BEFORE = VALUE.difference("by to and more fewer up most least remainder until ones".split())
"""Words right before a number in a sentence that make another value of it ("twice 5", "minus 5",
"root of 5")."""

GLUE = frozenset("a an the of in per each for every on at with from".split())
"""Words that may stand between nouns."""


def scale_of(word: str) -> Fraction | None:
    """The factor that a word like "million" stands for."""
    factor = SCALES.get(word.lower())
    return None if factor is None else Fraction(factor)


def denies(words: list[str]) -> bool:
    """Whether words beside a number deny it ("is not 5", "at least 5", "5 is wrong")."""
    lower = [word.lower().replace("’", "'") for word in words]
    for place, word in enumerate(lower):
        if word in ("least", "most"):  # "the least number is 5", but "at least 5"
            if place and lower[place - 1] == "at":
                return True
        elif word in NEGATIONS or word.endswith("n't"):
            return True
    pairs = list(zip(lower, lower[1:], strict=False))
    return ("up", "to") in pairs or ("below", "zero") in pairs or ("anything", "but") in pairs
