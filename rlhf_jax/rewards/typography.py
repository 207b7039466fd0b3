r"""Answers without typography, and without anything else lost.

`clean` drops only what carries no value: delimiters of formulas, spacing, sizes of brackets, fonts,
bold pairs around the whole. What it does not know it leaves as it is, for the comparison to refuse.
"""

import functools
import re

from rlhf_jax.rewards.nouns import changes_value
from rlhf_jax.rewards.wording import denies

LONGEST = 1000
"""Characters of an answer that is looked at; a longer one is no answer. It bounds the work on one
answer."""

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_SIGNS = {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "÷": r"\div ",
    "·": r"\cdot ",
    "∙": r"\cdot ",
    "±": r"\pm ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "∈": r"\in ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "→": r"\to ",
    "⇒": r"\Rightarrow ",
    "⟹": r"\Rightarrow ",
    "∴": r"\therefore ",
    "°": r"^{\circ}",
    "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    "\u00a0": " ",
    "\u202f": " ",
    "\u2009": " ",
    "，": ",",
    "。": ".",
    "：": ":",
    "（": "(",
    "）": ")",
    "％": "%",
} | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
_TABLE = str.maketrans(_SIGNS)
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_RAISED_UNIT = re.compile(r"(?<=[0-9])([cdkm]?m|ft|in|mi|yd)(?=[²³])")
_ROOT = re.compile(r"√\s{0,3}(?:([0-9]+|[A-Za-z])|\(([^()]*)\))")

_WRAPPERS = (
    *(("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")),
    *((mark, mark) for mark in ("***", "**", "*", "__", "_", "`", '"', r"\"")),
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{([^{}]*)\}")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_SPACING = re.compile(r"(?<!\\)\\[!,;:> ]|~(?!=)")
_SWITCHES = re.compile(
    r"\\(?:q?quad|enspace|(?:thin|med|thick)space|hfill|relax|null|strut|mathstrut|noindent"
    r"|centering|nonumber|notag|(?:no)?limits"
    r"|(?:display|text|script|scriptscript)style"
    r"|(?:bf|it|rm|sf|tt|sl|sc|md|up)(?:series|shape|family)?|normalfont|(?:un)?boldmath|em"
    r"|[hH]uge|[lL]arge|LARGE|small|tiny|normalsize|footnotesize|scriptsize)(?![A-Za-z])"
    r"|\\rule\s{0,3}\{[^{}]*\}\s{0,3}\{[^{}]*\}"
    r"|\\(?:[hv]?phantom|[hv]space\*?|color|label|tag\*?|vphantom)\s{0,3}\{[^{}]*\}"
)
"""Commands that set how the rest looks, or that show nothing; arguments and all."""
_FACES = re.compile(r"\{\s{0,3}\\(?:rm|bf|it|tt|sf)(?![A-Za-z])\s{0,3}([^{}]*)\}")
_SHOWN = re.compile(
    r"\\(?:underline|uline|uwave|emph|ensuremath|mathstrut|mathop|mathord|mathclose|smash|makebox"
    r"|fbox|framebox"
    r"|text(?:sc|up|md|sl)|bm|pmb"
    r"|(?:textcolor|colorbox|scalebox|raisebox|rotatebox|fcolorbox\s{0,3}\{[^{}]*\})"
    r"\s{0,3}\{[^{}]*\})\s{0,3}(?=\{)"
)
"""Commands that show their last argument as it is."""
_LEADS = re.compile(
    r"(?:=>|-+>|\\(?:approx|simeq|sim|cong|therefore|so|implies|Rightarrow|Longrightarrow"
    r"|rightarrow|longrightarrow|to)(?![A-Za-z])"
    r"|(?:\\text\{\s{0,3})?(?:about|approximately|approx|roughly|around|exactly|only|just|equals)"
    r"(?![A-Za-z])\.?\s{0,3}\}?(?=\s{0,3}\S))\s{0,3}"
)
"""What leads to an answer and is none of it."""
_LABEL = re.compile(
    r"(?:\\text\{\s{0,3})?(?P<words>[A-Za-z]{3,20}(?:\s[A-Za-z]{2,20}){0,4})\s{0,3}"
    r"(?::\s{0,3}\}?|\}\s{0,3}[:=])\s{0,3}(?P<rest>.+)",
    re.DOTALL,
)
"""A name of what is answered: "Total: 42"."""
_STATED = re.compile(r"[0-9\\]|\A\(?[A-Za-z]\)?\Z")
"""In what a name is given to: a number or a formula; "Paris: France" names nothing."""
_NAMED = ("remainder", "max", "min", "maximum", "minimum")
_GROUPING = re.compile(
    r"(?<=[0-9])\s{0,3}(?:\{\s{0,3},\s{0,3}\}|,\\!)\s{0,3}(?=[0-9])"
    r"|(?<=[0-9])(?:\\,|\{\\,\})(?=[0-9]{3})"
)
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\s{0,3}\.?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_FONTS = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mbox|hbox|math(?:rm|bf|it|sf|tt|normal)"
    r"|operatorname|boldsymbol)(?![A-Za-z])\s{0,3}\{"
)
_MATRICES = re.compile(r"\\(begin|end)\s{0,3}\{[bB]?matrix\}")
_EMPTY = re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s{0,3}\\\}")
_POWER = re.compile(r"\*\*\s{0,3}(?:([-+]?[0-9]+(?:\.[0-9]+)?|[A-Za-z])|\(([^()]*)\))")
_INLINE = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$")
_DEGREES = re.compile(
    r"\^\s{0,3}(?:\{\s{0,3}\\circ\s{0,3}\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])"
)
_NESTED = re.compile(r"(?<!\\)\{\s{0,3}\{((?:[^{}]|\{[^{}]*\})*)\}\s{0,3}\}")
_DEEPEST = 4
"""Braces right in braces that are taken away."""
_ROW_GAP = re.compile(r"\\\\\s?\[\s?-?[0-9.]+\s?(?:pt|em|ex|mm|cm|in|mu)\s?\]")
"""Space under a row of a matrix."""
_ONLY_TEXT = re.compile(r"\\text\{\s{0,3}([^A-Za-z{}]+?)\s{0,3}\}")
_COUNTERS = re.compile(
    r"(?<=[0-9}])\s?(?:\\text\{)?\s?"
    r"(?:[元块塊个個人名位只隻本张張件次条條支枝枚份辆輛棵颗顆种種岁歲题題页頁])\s?\}?\Z"
)
"""Chinese words for one of what is counted, which scale nothing."""
_DELIMITERS = ((r"\langle", "("), (r"\rangle", ")"), (r"\colon", ":"))
_TWICE = re.compile(r"\\text\{\s{0,3}\\text\{([^{}]*)\}\s{0,3}\}")
_TIMES_TEN = re.compile(r"(?<=[0-9])\s{0,3}[xX]\s{0,3}(?=10\s?\^)")
_GROUP = re.compile(r"\{(?:[^{}]|\{[^{}]*\})*\}")
_LETTER_UNION = re.compile(r"(?<=[)\]])\s{0,3}[Uu]\s{0,3}(?=[(\[])")
_AND = re.compile(r"\\text\{\s{0,3},?\s{0,3}(and|or)\s{0,3}\}")
_EXCLAIMED = re.compile(r"[A-Za-z]{2,}[A-Za-z \t'’-]*!+")
_TEXT = re.compile(r"\\text\{[^{}]*\}")
_ARGUMENT = re.compile(
    r"\\(?:[mh]box|math[a-z]+|text[a-z]*|operatorname|begin|end)\s{0,3}\{[^{}]*\}(?:\{[lcr|]+\})?"
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FUNCTIONS = frozenset(
    (
        "sin cos tan cot sec csc log ln exp sqrt gcd lcm max min mod det lim arcsin arccos arctan "
        "inf pi"
    ).split()
)
_PROSE = re.compile(
    rf"(?<![A-Za-z])(?!(?:{'|'.join(_FUNCTIONS)})(?![A-Za-z]))[a-zA-Z]{{3,}}(?![A-Za-z])"
)
_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]{2,}(?![A-Za-z])")
DEGREE = "°"


@functools.lru_cache(maxsize=4096)
def clean(answer: str) -> str:
    r"""An answer without typography; `\text{..}`, `\mathrm{..}` are ``\text{..}``, degrees "°"."""
    if len(answer) > LONGEST:
        return answer.strip()
    text = answer if r"\begin" in answer else _DOUBLED.sub(r"\\", answer)
    text = _GROUPING.sub(",", _ROW_GAP.sub(r"\\\\", text))
    for command, sign in _DELIMITERS:
        text = re.sub(rf"{re.escape(command)}(?![A-Za-z])\s?", sign, text)
    text = _RAISED_UNIT.sub(r" \1", text)  # "5m²" is a measure, "5m^2" may be a product
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text).translate(_TABLE)
    text = _FACES.sub(r"\\text{\1}", text)
    text = _SIZES.sub("", _SHOWN.sub("", _SWITCHES.sub(" ", _SPACING.sub(" ", text))))
    for _ in range(_DEEPEST):
        text = _NESTED.sub(r"{\1}", text)
    text = _FONTS.sub(r"\\text{", _FRACTIONS.sub(r"\\frac", text))
    text = _TWICE.sub(r"\\text{\1}", _TIMES_TEN.sub(r"\\times ", text))
    text = _MATRICES.sub(r"\\\1{pmatrix}", _EMPTY.sub(r"\\emptyset", text))
    text = _DEGREES.sub(DEGREE, _AND.sub(r" \1 ", text)).replace(r"\%", "%")
    text = _stripped(_LETTER_UNION.sub(r"\\cup ", text))
    if text.count("$") % 2 == 0:
        text = _INLINE.sub(lambda m: f" {m[1]} " if is_formula(m[1]) else m[0], text)
    if text.count(r"\(") == text.count(r"\)"):
        text = text.replace(r"\(", " ").replace(r"\)", " ")
    text = _COUNTERS.sub("", _BOX.sub(r"{\1}", _stripped(text)))
    if shown := _ONLY_TEXT.fullmatch(text):
        text = _stripped(shown[1])
    return _POWER.sub(lambda m: f"^{{{m[1] or m[2]}}}", " ".join(text.split()))


def _stripped(text: str) -> str:
    """Without delimiters around the whole and without the end of a sentence."""
    before = None
    while text != before:
        before = text
        text = _unlabelled(text.strip())
        text = text.lstrip("=").rstrip(".,;: ").strip()
        if _GROUP.fullmatch(text):
            text = text[1:-1]
        # an exclamation; after a digit, a symbol or a bracket it is a factorial
        if _EXCLAIMED.fullmatch(text):
            text = text.rstrip("!")
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : -len(closing)]
            if (
                text.startswith(opening)
                and text.endswith(closing)
                and inner
                and opening not in inner
                and closing not in inner
            ):
                text = inner
                break
        if box := _BOX.fullmatch(text):
            text = box[1]
    return text


def _unlabelled(text: str) -> str:
    """Without what leads to the answer ("=>", "about", "Total:")."""
    if lead := _LEADS.match(text):
        return text[lead.end() :]
    label = _LABEL.fullmatch(text)
    words = (
        []
        if label is None
        else [word for word in label["words"].split() if word.lower() not in _NAMED]
    )
    if (
        label is None
        or any(map(changes_value, words))
        or denies(words)
        or not _STATED.search(label["rest"])
    ):
        return text
    return label["rest"]


def is_formula(text: str) -> bool:
    """Whether what is between two dollar signs is mathematics, not words between two prices."""
    return not _PROSE.search(_COMMAND.sub(" ", _ARGUMENT.sub(" ", text)))


def words_of(text: str) -> list[str]:
    r"""Words of prose in an answer: two letters or more, in ``\text{..}`` or bare; no functions."""
    bare = _COMMAND.sub(" ", _TEXT.sub(lambda m: " " + m[0][6:-1] + " ", text))
    return [word for word in _WORD.findall(bare) if word.lower() not in _FUNCTIONS]
