"""What only sets how an answer looks, or leads to it, is no part of it; what changes it stays."""

import pytest

from rlhf_jax.rewards.basic import exact_match_reward
from rlhf_jax.rewards.math import math_reward
from rlhf_jax.rewards.typography import clean

WRAPPED = [
    *(
        r"\text{\$@}",
        r"@^\circ\text{C}",
        r"@^\circ C",
        r"@\,^\circ\mathrm{C}",
        r"@\degree",
        r"\textcolor{red}{@}",
    ),
    *(
        r"{\color{red}@}",
        r"\color{red}{@}",
        r"\color{red} @",
        r"\underline{@}",
        r"\underline{\underline{@}}",
        r"{\bf @}",
    ),
    *(
        r"{\rm @}",
        r"\large @",
        r"{\Large @}",
        r"\huge{@}",
        r"\textbf{\large @}",
        r"\bfseries @",
        r"\emph{@}",
        r"\bm{@}",
    ),
    *(
        r"\textsc{@}",
        r"\colorbox{yellow}{@}",
        r"\fcolorbox{red}{white}{@}",
        r"\ensuremath{@}",
        r"\mathop{@}",
    ),
    *(
        r"\mathbf{\textcolor{blue}{@}}",
        r"\text{\textbf{@}}",
        r"\scalebox{2}{@}",
        r"\rule{0pt}{2em}@",
        r"\hspace{1cm}@",
    ),
    *(
        r"\phantom{x}@",
        r"\displaystyle @",
        r"\approx @",
        "≈@",
        r"\sim @",
        r"\text{about } @",
        "approximately @",
        "=> @",
        "-> @",
    ),
    *(
        r"\Rightarrow @",
        r"\therefore @",
        r"\implies @",
        r"\to @",
        "→ @",
        "∴ @",
        r"\text{Total: } @",
        r"\mathrm{Total}: @",
    ),
    *(
        r"\text{Total} = @",
        "Total cost: @",
        r"\text{Remainder: }@",
        "**@**",
        "***@***",
        "*@*",
        "__@__",
        "`@`",
        r"\left(@\right)",
    ),
    *("USD @", r"US\$@", "@ USD", r"\$@", r"\text{@ apples}", r"\textnormal{@}", "{@}", "{{@}}"),
]
MARKS = [r"\boxed{@}", "#### @", "<answer>@</answer>", "The answer is $@$."]
HIDDEN = [
    *(
        r"\overline{@}",
        r"\not @",
        r"\cancel{@}",
        r"\phantom{@}",
        r"\sqrt{@}",
        r"\bar{@}",
        r"\text{half: }@",
        "Half of the total: @",
    ),
    *(
        r"\text{not } @",
        r"\text{about } -@",
        r"\approx -@",
        r"\text{Total: } @ + 1",
        r"\color{red}{@} + 1",
        r"-\underline{@}",
    ),
]


@pytest.mark.parametrize("gold", ["42", r"\frac{3}{7}", "x^2+1"])
def test_what_only_looks(gold):
    forms = (
        WRAPPED
        if gold == "42"
        else [
            form
            for form in WRAPPED
            if not any(s in form for s in ("$", "circ", "deg", "U", "apples"))
        ]
    )
    texts = [
        rf"\boxed{{{form.replace('@', gold)}}}"
        for form in forms
        if gold == "42" or r"\text{@" not in form
    ]
    assert [text for text in texts if math_reward(None, [text], answer=[gold]) != [1.0]] == []


@pytest.mark.parametrize("mark", MARKS)
def test_under_every_mark(mark):
    texts = [
        mark.replace("@", form.replace("@", "42"))
        for form in WRAPPED
        if "left(" not in form and not ("$" in mark and set("$`") & set(form))
    ]
    failed = [text for text in texts if exact_match_reward(None, [text], answer=["42"]) != [1.0]]
    assert failed == []


@pytest.mark.parametrize("form", HIDDEN)
def test_what_changes_it_stays(form):
    text = rf"\boxed{{{form.replace('@', '42')}}}"
    assert (
        math_reward(None, [text], answer=["42"])
        == exact_match_reward(None, [text], answer=["42"])
        == [0.0]
    )


def test_a_name_is_given_to_numbers_and_formulas_only():
    assert (
        clean("Total: 42") == "42"
        and clean(r"\text{Area: }\pi") == r"\pi"
        and clean("Answer: B") == "B"
    )
    assert clean("Yes: No") == "Yes: No" and clean("Paris: France") == "Paris: France"
    assert math_reward(None, [r"\boxed{Yes: No}", r"\boxed{5\,{\rm cm}}"], answer=["No", "5"]) == [
        0.0,
        1.0,
    ]


def test_braces_are_taken_away_to_some_depth_only():
    assert (
        clean("{{{5}}}") == "5"
        and clean("{" * 300 + "5" + "}" * 300) != "5"
        and clean(r"\{5\}") == r"\{5\}"
    )
