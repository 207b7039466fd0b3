"""Ways to write answers: honest spellings of a number, and texts that answer another.

In all of them ``@`` stands for the number as it is written.
"""

import math
from fractions import Fraction

SPELLINGS = [
    r"\boxed{@}",
    r"So the answer is $\boxed{@}$.",
    r"Therefore \[ \boxed{@} \]",
    r"$$\boxed{@}.$$",
    r"\fbox{@}",
    r"\boxed{ @ }",
    r"\boxed{@.}",
    r"\boxed{$@$}",
    r"\boxed{\text{@}}",
    r"\boxed{\mathbf{@}}",
    r"\boxed{x = @}",
    r"\boxed{@\text{ apples}}",
    r"\boxed{@ \text{ dollars}}",
    r"\boxed{\$@}",
    r"\boxed{@^\circ}",
    r"**Final Answer**" + "\n" + r"\boxed{@}",
    r"First I get \boxed{7777}." + "\n\nThat was wrong. Now \\boxed{@}.",
    "#### @",
    "2 + 2 = 4 apples.\n#### @",
    "#### $@",
    "#### @ dollars",
    "#### **@**",
    "####@",
    "<answer>@</answer>",
    "<answer> @. </answer>",
    "<answer>$@$</answer>",
    "<answer>She has @ apples.</answer>",
    "<answer>The answer is @</answer>",
    r"<answer>\boxed{@}</answer>",
    "<think>It may be 7777.</think> The answer is @.",
    "<think>It may be 7777.</think>\n\n<answer>@</answer>",
    "The answer is @",
    "The answer is @.",
    "The answer is: @",
    "The final answer is @.",
    "The answer is **@**.",
    "**The answer is @**",
    "**Answer:** @",
    "**Answer: @**",
    "Answer: @",
    "answer = @",
    "The answer is $@$.",
    r"The answer is \(@\).",
    r"The answer is \[@\]",
    "The answer is `@`.",
    "The answer is \\$@.",
    "The answer is @ dollars.",
    "The answer is @ apples.",
    "The answer is = @",
    "The answer is x = @.",
    "The answer is approximately @.",
    "The answer is @, since 2 + 2 = 4.",
    "The answer is @ because 2 + 2 = 4.",
    "The answer is @. This is because 2 + 2 = 4.",
    "The answer is @ (since 2 + 2 = 4).",
    "The answer is @, which is more than 7777.",
    "Final Answer: The final answer is @. I hope it is correct.",
    "Final Answer: The final answer is $@$. I hope it is correct.",
    "**Final Answer:** The answer is @",
    "Answer: Natalia sold @ clips in total.",
    "Answer: The largest $n$ is $@$.",
    "Answer: The largest $n$ is @.",
    "The answer to the question is @.",
    "She has @ apples.",
    "2 + 2 = 4, so she has @ apples",
    "It costs $@.",
    "In total: @",
    "@",
    "$@$",
    "@.",
    "x = @",
]
"""Completions that answer with the number."""

CHANGED = [
    "@ million",
    "@ hundred",
    "@ dozen",
    r"@\text{ thousand}",
    "@ squared",
    "@ cubed",
    "@ halves",
    "@ thirds",
    "@ plus four",
    "@ minus one",
    "@ over four",
    "@ times two",
    "@ modulo three",
    "@ and a half",
    "@ hundredths",
    "@ elevenths",
    "@ mil",
    "@ bn",
    "@ zillion",
    "@ milliard",
    "@ halved",
    "@ quintupled",
    "@ increased",
    "@ negated",
    "@ reversed",
    "@ tenfold",
    "@ basis points",
    "@ invalid",
    "@ apples doubled",
    r"@\text{ crore}",
    "negative @",
    "@th",
    "@k",
    "@ K",
    "@M",
    "@x",
    "@n",
    "@ x",
    "@i",
    r"@\pi",
    r"@ \pi",
    r"@\sqrt{2}",
    r"@\sqrt2",
    "@ + 1",
    "@ - 1",
    "@ * 3",
    "@ / 7",
    r"@ \cdot 3",
    r"\frac{@}{7}",
    "@.5",
    "@0",
    "1@",
    "@,000",
    "@e2",
    r"@ \times 10^{3}",
    "@:7",
    "@_7",
    "@ or 7777",
    "7777 or @",
    "@, 7777",
    "@ and 7777",
    "@ to 7777",
    "@-7777",
    "(@, 7777)",
    r"\{@, 7777\}",
    "[@, 7777]",
    "between @ and 7777",
    "not @",
    "at least @",
    "at most @",
    "more than @",
    "less than @",
    "no more than @",
    "twice @",
    "half of @",
    "minus @",
    "the square root of @",
    "the square of @",
    r"\ge @",
    "x > @",
    r"x \neq @",
    r"\log @",
    r"\sin @",
    "f(@)",
    r"@ \pm 1",
    r"@ \pmod{9}",
    "@ 7",
    "@.@.1",
    "@ = 7777",
    "7777 = @",
    "@ (in millions)",
    "@, in thousands",
    "@ (base 8)",
    "@ (times ten)",
    "@, plus 1",
    "@, squared",
    "@ (negative)",
    "@ — doubled",
    "@ groups of ten",
    "@ times the price",
    "@ millones",
    "@ lac",
    "@ kilo",
    "@_{(16)}",
    r"@_{\text{hex}}",
    "@^T",
    "@万",
    r"@ + \infty",
    r"@^\infty",
    r"@ - \infty + \infty",
    r"\max(@, i)",
    "i > @",
    r"i \le @",
    "@, @",
]
"""What holds a number (not 0) and has another value."""

CHANGED_UNLESS_SMALL = [
    "@!",
    "(@)!",
    "@!!",
    "@^2",
    "@**2",
    "@^{3}",
    "@²",
    r"\frac{1}{@}",
    "1/@",
    "-@",
    r"-\boxed{@}",
]
"""The same, for a number that is not 0, 1 or 2."""

MARKS = [
    r"\boxed{@}",
    "#### @",
    "<answer>@</answer>",
    "The answer is @.",
    "The answer is @",
    "Answer: @",
    "The answer is $@$.",
    "Final Answer: The final answer is @. I hope it is correct.",
    "**The answer is @**",
    r"So it is $\boxed{@}$, as I said.",
    "***Answer:*** @",
    "<b>Answer: @</b>",
    "[ANSWER]@[/ANSWER]",
]
"""Marks around an answer."""

AROUND_BOX = [
    r"\boxed{@}\text{ million}",
    r"\boxed{@}\,\text{million}",
    r"**\boxed{@} million**",
    r"$\boxed{@}$ million",
    r"\boxed{@} (in millions)",
    r"\boxed{@}, in millions",
    r"\boxed{@}k",
    r"\boxed{@} lakh",
    r"\boxed{@}0",
    r"\boxed{@}.5",
    r"\boxed{@},000",
    r"\boxed{@}e3",
    r"\boxed{@}x",
    r"\boxed{@}_{16}",
    r"\boxed{@}/2",
    r"\boxed{@} + 1",
    r"\boxed{@} - x",
    r"$\boxed{@}\times 10^3$",
    r"$\boxed{@}\cdot 2$",
    r"$\boxed{@}\pi$",
    r"$\boxed{@} \pmod 3$",
    r"2\boxed{@}",
    r"1/\boxed{@}",
    r"$\sqrt{\boxed{@}}$",
    r"$\frac{\boxed{@}}{2}$",
    r"$\frac{1}{\boxed{@}}$",
    r"$-\,\boxed{@}$",
    r"$- \, \boxed{@}$",
    r"$-(\boxed{@})$",
    r"$-\left(\boxed{@}\right)$",
    r"$-{\boxed{@}}$",
    r"negative \boxed{@}",
    r"the negative of \boxed{@}",
    r"minus $\boxed{@}$",
    r"\boxed{@} times ten",
    r"\boxed{@} plus one",
    r"\boxed{@}{}^2",
    r"\boxed{@} x",
    r"\boxed{@} (times ten)",
    r"\boxed{@} \text{ (thousand)}",
]
"""What stands around a box and changes the value in it (not 0 or 1)."""

TAKEN_BACK = [
    r"\boxed{@}? No.",
    r"\boxed{@} is too small.",
    r"\boxed{@} was much too large.",
    r"The answer is anything but \boxed{@}.",
    r"It is other than \boxed{@}.",
    r"I will not say \boxed{@}.",
    r"\boxed{@}. Hmm, that is wrong, it is 7777.",
    "#### @\nHmm, that is wrong, it is 7777.",
    "The answer is @. Hmm, that is wrong, it is 7777.",
    "The answer is @. Correction: 7777.",
    "The answer is @. No, it is 7777.",
    "The answer is @. Wait, it should be 7777.",
    "The answer is @.\nWait, that's not right. It should be 7777.",
    "The answer is @. Sorry, I made a mistake: it is 7777.",
    "The answer is @, which is wrong.",
    r"\boxed{@} is way off.",
    r"\boxed{@}, no, it is 7777.",
    "\\boxed{@}\n\nCorrection: 7777",
    r"Everything but \boxed{@}",
    "The answer is @. On second thought, it is 7777.",
    "The answer is @. Let me correct that: 7777.",
    "The answer is @, sorry, 7777.",
    "The answer is @. I mean 7777.",
    "The answer is @. Edit: 7777.",
    "<answer>@\n7777</answer>",
]
"""What says a number and takes it back."""

NOT_CHANGED = [
    r"\boxed{@} - this is the total.",
    r"**\boxed{@}**",
    r"*\boxed{@}*",
    r"_\boxed{@}_",
    r"Answer - \boxed{@}",
    "\\boxed{@}\n- 1 apple was eaten",
    r"\boxed{@}m",
    r"\boxed{@}\text{ cm}",
    r"\boxed{@}\,\text{km}",
    r"\boxed{@} pairs of numbers",
    r"$\boxed{@}^\circ$",
    r"$x \equiv \boxed{@} \pmod{7777}$",
    r"$x \equiv \boxed{@}$ (mod 7777)",
    r"$\boxed{@}$, so $2 \times 3 = 6$ was of no use.",
    r"\boxed{@}. It is right because 2 + 3 = 5.",
    "The answer is @. It is the number of apples.",
    "The answer is @. That is right.",
    "The answer is @. Actually, it is exactly @.",
    r"\boxed{@}. Actually, it is exactly @.",
    r"\boxed{@}. Wait, let me check it. It is correct.",
    r"$\boxed{@}$ (negative values are excluded).",
    r"\boxed{@} times",
    "The answer is @ (half of it was eaten).",
    "The answer is @, twice as many as before.",
    "The answer is @ (rounded to the nearest integer).",
    "The answer is @, rounded up.",
    "The answer is @ (the square root of its square).",
    "The answer is @, the number of times he ran.",
    "The answer is @, less than 7777.",
    "The answer is @, as required.",
    "The answer is @, not 7777.",
    "*Answer:* @",
    "***Answer:*** @",
    "***Answer***: @",
    "<strong>Answer:</strong> @",
    "The answer is <b>@</b>.",
    "[ANSWER]@[/ANSWER]",
    "The answer is:\n```\n@\n```",
    "<answer>@\n@</answer>",
    r"\boxed{\text{The answer is @}}",
    "答案是@",
    "所以答案为@。",
    "答案：@元",
    r"\boxed{@元}",
    r"\boxed{@\text{个}}",
]
"""What holds a number and something beside it, and answers with the number."""

LETTERS = [
    "N",
    "n",
    "P",
    "p",
    r"\Delta",
    r"\delta",
    r"\Gamma",
    r"\gamma",
    "x",
    "X",
    "x_1",
    "x_2",
    "2x",
    "x^2",
    "n!",
    "2n",
    "n+1",
]
"""Answers of letters, all different."""

UNITS = {
    "m": ("m", Fraction(1)),
    "km": ("m", Fraction(1000)),
    "cm": ("m", Fraction(1, 100)),
    "kg": ("g", Fraction(1000)),
    "grams": ("g", Fraction(1)),
    "hours": ("s", Fraction(3600)),
    "minutes": ("s", Fraction(60)),
    "dollars": ("$", Fraction(1)),
    "cents": ("$", Fraction(1, 100)),
    "square feet": ("ft2", Fraction(1)),
    "feet": ("ft", Fraction(1)),
    "m/s": ("m/s", Fraction(1)),
    "miles per hour": ("mph", Fraction(1)),
    "degrees": ("deg", Fraction(1)),
    "liters": ("l", Fraction(1)),
}
"""Unit -> (what it measures, how many of its base)."""

SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}


def spelled_number(rng):
    """(a number as somebody writes it, its value as a Fraction)."""
    kind = rng.randrange(9)
    n = rng.randrange(-300, 2000)
    if kind == 0:
        return rng.choice([str(n), f"{n:,}", f"{n}.0"]), Fraction(n)
    if kind == 1:
        places = rng.randrange(1, 5)
        value = Fraction(rng.randrange(-3000, 30000), 10**places)
        return f"{float(value):.{places}f}", value
    if kind == 2:
        above, below = rng.randrange(1, 60), rng.randrange(2, 40)
        value = Fraction(above, below)
        return rng.choice(
            [f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}", rf"\dfrac{{{above}}}{{{below}}}"]
        ), value
    if kind == 3:
        base, exponent = rng.randrange(2, 13), rng.randrange(-6, 12)
        return rng.choice(
            [f"{base}^{{{exponent}}}", f"{base}**{exponent}", rf"{base} ^ {{{exponent}}}"]
        ), Fraction(base) ** exponent
    if kind == 4:
        n = rng.randrange(0, 13)
        return rng.choice([f"{n}!", rf"{n} !", rf"({n})!"]), Fraction(math.factorial(n))
    if kind == 5:
        scale = rng.choice(list(SCALES))
        n = rng.randrange(1, 60)
        return rng.choice([f"{n} {scale}", rf"{n}\text{{ {scale}}}"]), Fraction(n * SCALES[scale])
    if kind == 6:
        whole, above, below = rng.randrange(1, 9), rng.randrange(1, 7), rng.randrange(7, 12)
        return rng.choice(
            [f"{whole} {above}/{below}", rf"{whole}\frac{{{above}}}{{{below}}}"]
        ), whole + Fraction(above, below)
    if kind == 7:
        digits, exponent = rng.randrange(1, 100), rng.randrange(-8, 9)
        value = Fraction(digits) * Fraction(10) ** exponent
        return rng.choice(
            [
                rf"{digits} \times 10^{{{exponent}}}",
                f"{digits}e{exponent}",
                rf"{digits}\cdot10^{{{exponent}}}",
            ]
        ), value
    top = rng.randrange(2, 12)
    below = rng.randrange(0, top + 1)
    return rng.choice([rf"\binom{{{top}}}{{{below}}}", rf"\dbinom{{{top}}}{{{below}}}"]), Fraction(
        math.comb(top, below)
    )
