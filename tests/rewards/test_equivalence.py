"""Whether two answers mean the same: one table of pairs that do, one of pairs that do not."""

import pytest

from rlhf_jax.rewards import algebra, cost, equivalence
from rlhf_jax.rewards.basic import exact_match_reward
from rlhf_jax.rewards.equivalence import equivalent, is_readable
from rlhf_jax.rewards.math import math_reward
from rlhf_jax.rewards.typography import clean

SAME = [
    ("\\sin^2 x + \\cos^2 x", "1"),
    ("2 million", "2000000"),
    ("5!", "120"),
    ("120", "5!"),
    ("8", "2**3"),
    ("2**3", "8"),
    ("**23**", "23"),
    ("\\Delta", "\\Delta"),
    ("x+1", "x+1"),
    ("9", "9 (apples)"),
    ("x \\le 3", "(-\\infty,3]"),
    ("(-\\infty,3]", "x \\le 3"),
    ("x>3", "(3,\\infty)"),
    ("(3,\\infty)", "x>3"),
    ("(1,2)", "(1,2)"),
    ("1010_2", "1010_2"),
    ("1010_{2}", "1010_2"),
    ("3:2", "3:2"),
    ("6:4", "3:2"),
    ("12:30", "12:30"),
    ("B) 12", "B"),
    ("A: 5", "A"),
    ("(B)", "B"),
    ("b", "B"),
    ("\\text{(B)}", "B"),
    ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\emptyset", "\\varnothing"),
    ("\\{\\}", "\\emptyset"),
    ("10000.0", "10,000"),
    ("40\\%", "40"),
    ("40\\%", "0.4"),
    ("0.4", "40%"),
    ("5 km", "5000 m"),
    ("5", "5 m"),
    ("5 m", "5"),
    ("5 \\text{ cm}", "5"),
    ("5\\text{ million}", "5000000"),
    ("\\frac{1}{3}\\text{ meters}", "1/3"),
    ("2^{10}", "1024"),
    ("x_1", "x_1"),
    ("f(x)", "f(x)"),
    ("5 or 6", "5,6"),
    ("6,5", "5,6"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("\\sum_{k=1}^{10} k", "55"),
    ("x = 2+3 = 5", "5"),
    ("1/3 \\approx 0.333", "1/3"),
    ("x \\approx 0.333", "0.333"),
    ("e", "2.718282"),
    ("3.141593", "\\pi"),
    ("\\tan^2(y)+1", "\\sec^2(y)"),
    ("(a+b)^2", "a^2+2ab+b^2"),
    ("0.5x", "\\frac{x}{2}"),
    ("\\frac{1}{3}\\%", "\\frac{1}{300}"),
    ("$5$", "5 dollars"),
    ("500 cents", "\\$5"),
    ("+5", "5"),
    ("--5", "5"),
    ("all real numbers", "all real numbers"),
    ("All real numbers", "all real numbers"),
    ("Paris!", "paris"),
    ("yes.", "Yes"),
    ("[1,2]", "[1,2]"),
    ("(1,2)\\cup(3,4)", "(3,4)\\cup(1,2)"),
    ("x \\in (1,2)", "(1,2)"),
    ("1 < x < 2", "(1,2)"),
    ("x \\neq 3", "x \\neq 3"),
    ("0.\\overline{3}", "\\frac13"),
    ("½", "0.5"),
    ("−5", "-5"),
    ("5²", "25"),
    ("√8", "2\\sqrt2"),
    ("\\frac{x+1}{x}", "1+\\frac1x"),
    ("2\\times10^3", "2000"),
    ("1.5\\times 10^{8}", "150000000"),
    ("3\\frac12", "3.5"),
    ("\\binom{5}{2}", "10"),
    ("\\log_2 8", "3"),
    ("100", "1e2"),
    ("1 \\pm \\sqrt{19}", "1+\\sqrt{19},1-\\sqrt{19}"),
    ("(\\sqrt{2})^2", "2"),
    ("\\infty", "\\infty"),
    ("5 apples", "5"),
    ("5 green apples a day", "5"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("\\{1,2\\}", "1,2"),
    ("\\{1\\}", "1"),
    ("x^2+y^2=1", "x^2+y^2-1=0"),
    ("y=2x+1", "y=1+2x"),
    ("2x+1", "y=2x+1"),
    ("90^\\circ", "90"),
    ("90°", "90^{\\circ}"),
    ("\\angle ABC = 30^\\circ", "30"),
    ("0.333333", "1/3"),
    ("\\frac{2}{4}", "1/2"),
    ("-2 \\le x \\le 7", "x \\in [-2,7]"),
    ("5", "\\frac{NO}{BO}=5"),
    ("$2x+4y-3=0$", "$y=-\\frac{1}{2}x+\\frac{3}{4}$"),
    ("x^2/16 + y^2/12 = 1/4", "x^2/4 + y^2/3 = 1"),
    ("-x > -1", "x < 1"),
]
DIFFERENT = [
    ("2 million", "2"),
    ("3 hundred", "3"),
    ("5 dozen", "5"),
    ("5 squared", "5"),
    ("7 plus four", "7"),
    ("7 minus", "7"),
    ("3 over four", "3"),
    ("3 halves", "3"),
    ("1 third", "1"),
    ("2 modulo three", "2"),
    ("10!", "10"),
    ("5", "5!"),
    ("n!", "n"),
    ("n", "n!"),
    ("2**3", "23"),
    ("\\Delta", "\\delta"),
    ("\\delta", "\\Delta"),
    ("N", "n"),
    ("n", "N"),
    ("P", "p"),
    ("p", "P"),
    ("x+1", "X+1"),
    ("x<3", "(3,\\infty)"),
    ("1,2", "(1,2)"),
    ("(1,2)", "1,2"),
    ("(2,1)", "(1,2)"),
    ("1010_2", "1010_3"),
    ("204", "204_5"),
    ("3:2", "3/2"),
    ("6:40", "3:20"),
    ("C", "B"),
    ("A) 12", "B"),
    ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
    ("\\emptyset", "0"),
    ("0.5%", "0.5"),
    ("4\\%", "40"),
    ("5 km", "5 m"),
    ("2m", "2"),
    ("2", "2m"),
    ("5\\text{ million}", "5"),
    ("10^{-20}", "10^{-21}"),
    ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"),
    ("0.0000001", "0.0000002"),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}"),
    ("10^{-20}x", "10^{-21}x"),
    ("2^{99}", "2^{98}"),
    ("5\\sqrt2", "5"),
    ("x_1", "x_2"),
    ("f'(x)", "f(x)"),
    ("5 or 6", "6"),
    ("5, 6", "6"),
    ("10 000", "0"),
    ("10 000", "10000"),
    ("1/0", "5"),
    ("3.0.5", "1.5"),
    ("5th", "5"),
    ("1,2,\\ldots", "1,2"),
    ("5'", "5"),
    ("y=5", "x=5"),
    ("5=4", "4"),
    ("i", "-i"),
    ("\\pi", "3.14"),
    ("(a+b)^2", "a^2+b^2"),
    ("\\sqrt{x^2}", "x"),
    ("\\ln(x^2)", "2\\ln x"),
    ("5 \\pmod{7}", "5"),
    ("5 cents", "5 dollars"),
    ("€5", "$5"),
    ("5 K", "5"),
    ("5k", "5000"),
    ("5 hundredths", "5"),
    ("-5", "5"),
    ("5 negative", "5"),
    ("minus 5", "5"),
    ("[1,2]", "(1,2)"),
    ("(1,2)\\cup(3,5)", "(3,4)\\cup(1,2)"),
    ("1 \\le x < 2", "(1,2)"),
    ("5²", "52"),
    ("1 + \\sqrt{19}", "1 \\pm \\sqrt{19}"),
    ("-\\infty", "\\infty"),
    ("\\infty", "5"),
    ("y=2x+1", "y=2x+2"),
    ("1e-7", "2e-7"),
    ("0", "1e-9"),
    ("0.500001", "1/2"),
    ("abc", "cab"),
    ("AB", "BA"),
    ("x > -1", "x < 1"),
    ("2x+4y-3=0", "2x+4y+3=0"),
    ("x \\ge 5", "x > 5"),
    ("7,5", "5,6"),
    ("x \\in [-2,7)", "-2 \\le x \\le 7"),
    ("1 - \\frac{1}{\\mathrm{e}}", "1 + \\frac{1}{\\mathrm{e}}"),
    ("5 = 2 + 2", "4"),
    ("2 + 2 = 5", "4"),
    ("5 pounds", "5 kg"),
    ("5 °C", "5 °F"),
    ("5 am", "5 pm"),
    ("€5", "\\$5"),
    ("3 quarters", "3"),
    ("5 pairs", "5"),
    ("5 more than 3", "5"),
    ("x = 5 or x = 6", "x = 5"),
    ("A, B", "A"),
    ("AB", "A"),
    ("(A) or (B)", "A"),
    ("1/3", "0.33"),
    ("0.1%", "0.1"),
]


@pytest.mark.parametrize(("answer", "target"), SAME)
def test_same(answer, target):
    assert equivalent(answer, target)


@pytest.mark.parametrize(("answer", "target"), DIFFERENT)
def test_different(answer, target):
    assert not equivalent(answer, target)
    assert exact_match_reward(None, [rf"\boxed{{{answer}}}"], answer=[target]) == [0.0]


@pytest.mark.parametrize("answer", ["2 million", "10!", "2**3", "5 or 6", r"\delta", "N", "x+1", "(1,2)", "1010_2", "B"])
def test_an_answer_equals_itself(answer):
    assert equivalent(answer, answer) and is_readable(answer)


def test_members_are_read_inside_brackets_only():
    assert equivalence._split("(1, 2), (3, 4)") == ["(1, 2)", "(3, 4)"]
    assert equivalence._split("1,200") == ["1,200"]
    assert equivalence._split("1, 200") == ["1", "200"]
    assert equivalence._split(r"1 \pm \sqrt{2}") == [r"1 + \sqrt{2}", r"1 - \sqrt{2}"]
    assert equivalence._split("(1, 2") is None


def test_small_differences_are_not_rounded_away():
    for one, other in [("10^{-40}", "10^{-41}"), (r"\pi", r"\pi + 10^{-15}"), (r"10^{-30}x", r"10^{-31}x"), ("1e-9", "1e-10")]:
        assert not equivalent(one, other)


@pytest.mark.parametrize(
    ("text", "costly"),
    [
        ("2^{2005}", False),
        ("10^{100}", False),
        ("7^{99999999}", True),
        ("x^{400}", False),
        ("x^{401}", True),
        ("(x+1)^{40}", False),
        ("(x+1)^{41}", True),
        ("2^{3^2}", False),
        ("9^{9^9}", True),
        ("3000!", False),
        ("3001!", True),
        ("(3!)!", True),
        ("5!!", True),
        (r"\binom{3000}{2}", False),
        (r"\binom{3001}{2}", True),
        (r"\sum_{k=1}^{1000} k", False),
        (r"\sum_{k=1}^{1001} k", True),
        (r"\int_0^1 x dx", True),
        (r"\frac{d}{2}", False),
        ("+".join(["1"] * 101), False),
        ("+".join(["1"] * 102), True),
        ("9" * 1000, False),
        ("9" * 1001, True),
        (r"\sqrt{" * 12 + "2" + "}" * 12, False),
        (r"\sqrt{" * 13 + "2" + "}" * 13, True),
    ],
)
def test_what_costs_too_much_is_told_by_the_text(text, costly):
    assert cost.too_costly(text) is costly


def test_costly_answers_never_reach_the_parser(monkeypatch):
    monkeypatch.setattr(algebra, "parse", lambda *args, **kwargs: pytest.fail("parsed"))
    for answer in ("7^{99999999}", "1000000!", "(x+y+z)^{500}", "1+" * 300 + "1"):
        assert math_reward(None, [rf"\boxed{{{answer}}}"], answer=["5"]) == [0.0]


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        (r"$\dfrac{1}{2}$", r"\frac{1}{2}"),
        (r"\left( 1,\, 2 \right)", "( 1, 2 )"),
        (r"\mathrm{cm}", r"\text{cm}"),
        ("**5**", "5"),
        ("2**3", "2^{3}"),
        ("5!", "5!"),
        ("n!", "n!"),
        ("Yes!", "Yes"),
        ("12{,}000", "12,000"),
        ("5²", "5^{2}"),
        (r"a \\ b", r"a \\ b"),
        ("$5 and $6", "$5 and $6"),
        ("=5.", "5"),
    ],
)
def test_clean(written, cleaned):
    assert clean(written) == cleaned
