"""Words behind a number: what is counted, or what makes another value of it.

The rule errs on the strict side. A number keeps its value only before what is plainly a unit or a
thing that is counted: a plural ("apples", "red balls sold"), one of the plurals without an "s"
("people"), a word that says how the count is meant ("left", "in total"). What scales, divides,
negates or doubts is told by its form, also where no list has the word: "-illions", "-fold",
fractions in "-ths", "-upled", participles right behind the number.
"""

import itertools
import re

from rlhf_jax.rewards.wording import CHANGES_BOX, FRACTION_WORDS, GLUE, NUMERALS, SCALES, VALUE

_SCALED = "|".join(
    sorted([*NUMERALS, *SCALES, "multi", "many", "several", "mani", "n"], key=len, reverse=True)
)
_FORM = re.compile(
    # million, zillion, milliard, quintillionths
    r"[a-z]*(?:illion|illiard)(?:th)?s?|[a-z]*(?:hundred|thousand)(?:th)?s?"
    rf"|(?:{_SCALED})-?folds?"
    r"|(?:[a-z]*[uo]up?l|[a-z]*upl|tripl|trebl|doubl)(?:e[ds]?|y|ings?|ets?|icat[a-z]+)"
    r"|(?:redoubl|halv|negat|invert|revers|revert|decreas|increas|increment|decrement|reduc)[a-z]*"
    r"|(?:multipl(?:y|ie)|divid|subtract|exponentiat|truncat|factori[sz]|conjugat|transpos)"
    r"[a-z]*(?<!dends)"
    r"|(?:factorial|percent|permil|inverse|reciprocal|opposite|googol|googolplex|modul)[a-z]*"
    r"|(?:squar|cub|round|floor|ceil|modd|rais|add|scal|shift|root)(?:eds?|ings?)"
    r"|(?:incorrect|wrong|invalid|false|erroneous|untru|mistaken|inaccura)[a-z]*"
    r"|(?:back|up|down)wards?|upside|mil|mill|bil|mln|mlns|mio|mrd|mrds|bln|bln|tln|trn|trill|bn"
    r"|mn|tn|kk"
    r"|(?:quart|quint|sext|sept|oct|non)ets?|duos?|trios?|twins?|twos|threes|fours|fives|sixes"
    r"|sevens|eights|nines"
    r"|[a-z]*ill(?:ones|ionen|iarden)|milliers?|lacs?|reams?"
    r"|teens|halfs|basis|twenties|thirties|forties|fifties|sixties|seventies|eighties|nineties"
    r"|null|void|nil"
)
_NOUN = re.compile(r"[A-Za-z][A-Za-z'’]{2,}")
_MOST_NOUNS = 4
_PLURAL = re.compile(
    r"[a-z'’]+(?<![su'])s['’]?|[a-z]+[aeo]us|[a-z]*(?:menu|guru|emu|tutu|impromptu|haiku|igloo"
    r"|flu)s"
)
"""Most plurals; "-ss" and "-us" are none ("less", "minus"), but for a few."""
_IRREGULAR = re.compile(
    r"[a-z]*(?:men|people|children|persons|folk|feet|teeth|geese|mice|lice|fish|sheep|craft|dice"
    r"|oxen|deer)"
    r"|moose|cattle|bison|swine|shrimp|salmon|trout|squid|elk|tuna|bass|koi|cod|plankton"
    r"|offspring|series|species"
    r"|bacteria|data|criteria|fungi|cacti|alumni|nuclei|radii|vertices|axes|media|phenomena"
    r"|octopi|stimuli"
    r"|police|staff|crew|personnel|livestock|poultry|fruit|change|money|cash|profit|revenue|baht"
    r"|yuan|won|rand"
    r"|rupiah|ringgit|renminbi|kronor|kroner|rpm|wpm|bpm|mpg|fps|psi|dpi|kwh|mah|hertz|siemens"
    r"|celsius"
    r"|water|milk|land|work|weight|overtime"
)
_THINGS = frozenset("bed seed weed shed sled jelly family assembly lily belly bully ally".split())
_SAID_SO = frozenset(
    "left total totals sq cu altogether remaining overall each apiece combined leftover together "
    "daily weekly monthly yearly annually hourly today tomorrow yesterday tonight now away ago "
    "apart exactly approximately roughly correct correctly too extra back remain remains red blue "
    "green yellow white black orange purple pink brown gray grey silver gold".split()
)
"""Words that say how a count is meant, with no noun between."""
_ALONE = (["more"], ["fewer"], ["additional"])
"""What may end a sentence behind a number ("he needs 42 more"); "more than ..." compares."""
_HOW_OFTEN = GLUE - {"the", "of", "from", "with"}
"""Words behind "times" that count and do not multiply: "5 times a week"."""
_FUNCTIONS = GLUE | frozenset(
    "is are was were will would can could should may must has have had do does did be been being "
    "it he she they we you I i this that these those his her its their our my which who whom whose "
    "when where while because since so as if after before during until and but then with within "
    "for worth out off about what how there here also go got get gets goes needs need make makes "
    "take takes to by over up through under until till without above below beyond more and".split()
)
"""Words that begin something else than the thing counted."""


def changes_value(word: str) -> bool:
    """Whether a word beside a number changes or doubts its value: by the list, or by form."""
    lower = word.lower()
    return lower in VALUE or lower in FRACTION_WORDS or _FORM.fullmatch(lower) is not None


def alters(word: str) -> bool:
    """Whether a word's form says that it makes another value, anywhere behind a number."""
    lower = word.lower()
    return lower in FRACTION_WORDS or _FORM.fullmatch(lower) is not None


def scales_box(word: str) -> bool:
    """Whether a word right behind a box belongs to its value ("million", "squared").

    A verb of the sentence that goes on ("rounded to", "increases") does not.
    """
    lower = word.lower()
    return (
        lower in CHANGES_BOX
        or word in ("M", "B")
        or (alters(lower) and not lower.startswith(_GOES_ON))
    )


_GOES_ON = ("round", "increas", "decreas", "reduc", "add", "modul", "percent")


def are_nouns(words: list[str], *, single: bool = False, measured: bool = False) -> bool:
    """Whether words behind a number are at most four nouns that leave its value as it is.

    Args:
      words: all that follows the number, without hyphens.
      single: the number is at most one, so that what is counted may be singular.
      measured: the number has its unit already ("5 dollars" saved).
    """
    if words in _ALONE:
        return True
    if len(words) > 1 and words[0].lower() == "more":  # "5 more apples"
        words = words[1:]
    times = (
        bool(words)
        and words[0].lower() == "times"
        and all(word.lower() in _HOW_OFTEN for word in words[1:2])
    )
    nouns = [word for word in words[times:] if word.lower() not in GLUE]
    if (
        len(nouns) > _MOST_NOUNS
        or len(words) > 2 * _MOST_NOUNS
        or (words and not nouns and not times and words != ["each"])
    ):
        return False
    if not all(_NOUN.fullmatch(word) and not changes_value(word) for word in nouns):
        return False
    return times or measured or are_counted(words, single=single)


def phrase_of(words: list[str]) -> list[str]:
    """The words, in lower case, before the first that begins another thing than was counted."""
    lower = (word.lower() for word in words)
    return list(itertools.takewhile(lambda word: word not in _FUNCTIONS, lower))


def are_counted(words: list[str], *, single: bool = False) -> bool:
    """Whether the words right behind a number name what is counted, or nothing.

    Args:
      words: up to the end of the sentence or the next sign; what follows the first word that is no
        noun, adjective or participle ("was", "in", "because") does not count.
      single: as `are_nouns`.
    """
    if words in _ALONE:
        return True
    if any(
        one.lower() == "of" and changes_value(other) for one, other in itertools.pairwise(words)
    ):
        return False  # "groups of ten"
    phrase = phrase_of(words)
    if any(changes_value(word) for word in phrase):
        return False
    return (
        not phrase
        or phrase[0] in _SAID_SO
        or any(map(_is_plural, phrase))
        or (single and _is_thing(phrase))
    )


def _is_plural(word: str) -> bool:
    return _IRREGULAR.fullmatch(word) is not None or (
        _PLURAL.fullmatch(word) is not None and not word.endswith(("ous", "sis", "'s", "’s"))
    )


def _is_thing(phrase: list[str]) -> bool:
    """Whether the last word may be a noun in singular: no adverb and no participle."""
    return not phrase[-1].endswith(("ly", "ed")) or phrase[-1] in _THINGS
