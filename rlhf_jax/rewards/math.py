"""Mathematical equivalence of final answers."""

import logging
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rlhf_jax.rewards.answers import Completion, as_number, content_of, marked_answer, normal_form, targets_of, unmarked_answer


def math_reward(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    strict: bool = False,
    **columns: Sequence[Any],
) -> list[float | None]:
    r"""1 when the final answer equals the right one mathematically, else 0; None for a row without an answer.

    Plain numbers (thousands separators, units, currencies, percent signs, simple fractions) are compared exactly, to 6
    decimals when one is a decimal; everything else goes through math-verify (sympy). "50%" equals both 50 and 0.5.
    Some expressions keep sympy busy for ever: the pool's time limit applies.

    Args:
      prompts: unused.
      completions: B completions.
      completion_ids: unused.
      strict: only a marked answer counts (``\boxed{}``, ``####``, ``<answer>``, "answer is"); False: without one, the last
        formula or number of the text is taken.
      columns: data columns, the answer among them (`targets_of`).
    """
    scores: list[float | None] = []
    for i, completion in enumerate(completions):
        targets = targets_of(columns, i)
        if targets is None:
            scores.append(None)
            continue
        text = content_of(completion)
        answer = marked_answer(text)
        if answer is None and not strict:
            answer = unmarked_answer(text)
        right = answer is not None and any(equivalent(answer, marked_answer(target) or target) for target in targets)
        scores.append(float(right))
    return scores


def equivalent(answer: str, target: str) -> bool:
    """Whether two final answers, each a number, an expression in latex or a text, mean the same."""
    if normal_form(answer) == normal_form(target):
        return True
    value, wanted = as_number(answer), as_number(target)
    if value is not None and wanted is not None:
        return _same_number(answer, target, value, wanted)
    return _same_expression(answer, target)


def _same_number(answer: str, target: str, value: Fraction, wanted: Fraction) -> bool:
    values = [value, value / 100] if "%" in answer and "%" not in target else [value]
    wanteds = [wanted, wanted / 100] if "%" in target and "%" not in answer else [wanted]
    tolerance = Fraction(1, 10**6) if "." in answer or "." in target else 0
    return any(abs(v - w) <= tolerance for v in values for w in wanteds)


def _same_expression(answer: str, target: str) -> bool:
    # Heavy: sympy. Workers import it once, before they fork.
    from math_verify import LatexExtractionConfig, StringExtractionConfig, parse, verify

    # Its own time limit is signal.alarm, which other threads and libraries break: the pool has a hard one.
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    kinds = [LatexExtractionConfig(boxed_match_priority=0), StringExtractionConfig()]
    gold, found = (parse(_boxed(side), extraction_config=kinds, parsing_timeout=None) for side in (target, answer))
    return bool(gold) and bool(found) and bool(verify(gold, found, timeout_seconds=None))


def _boxed(answer: str) -> str:
    inner = answer.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if inner.startswith(opening) and inner.endswith(closing) and len(inner) > len(opening) + len(closing):
            inner = inner[len(opening) : -len(closing)]
            break
    return rf"\boxed{{{inner}}}"
