"""Claims about the difference of a metric: after training, at equal budgets, at equal KL."""

from typing import NamedTuple

import numpy as np

from rlhf_jax.config import ClaimsConfig, DifferenceConfig, MatchedKLConfig
from rlhf_jax.loops.held_out import SEQUENCE_KL
from rlhf_jax.runs.budgets import Measured, within
from rlhf_jax.runs.claims.finding import (
    Finding,
    Form,
    difference,
    found,
    over_pairs,
    over_prompts,
    relative_difference,
    seeds_text,
)
from rlhf_jax.runs.claims.results import Missing, Results

OVER_PROMPTS = "interval over seeds and prompts"
BUDGETS = {"tokens": "generated tokens", "step": "steps", "seconds": "seconds of training"}


def differences(
    claimed: float, asked: DifferenceConfig, results: Results, config: ClaimsConfig
) -> list[Finding]:
    """The metric of one run less that of another: a row for each time that is asked for.

    After training, where cells know what was reached on each prompt, the interval is over seeds and
    prompts: other held-out prompts would have given another difference too. Elsewhere, and for what
    is not a mean of paired differences, it is over seeds alone.

    Args:
      claimed: the figure; its sign is the direction.
      asked: what is measured.
      results: of the comparison.
      config: says statistic and pairing.
    """
    pairs = list(results.pairs(asked.run, asked.against).values())
    metric = results.asked(asked.metric, *(run for pair in pairs for run in pair))
    rows = []
    for when in asked.at:
        crossed = None
        if when == "end" and not asked.relative and config.pairing == "seed":
            crossed = _by_prompt(results, metric, pairs)
        if crossed is None:
            values = [_at(when, metric, *pair) for pair in pairs]
            combine = relative_difference if asked.relative else difference
            estimate = over_pairs(values, combine, config)
        else:
            estimate = over_prompts(crossed, config)
        moment = "after training" if when == "end" else f"at equal {BUDGETS[when]}"
        rows.append(
            found(
                f"{metric}, {asked.run} less {asked.against}, {moment}",
                claimed,
                estimate,
                form=Form(is_share=asked.relative, is_signed=True),
                behind=behind(results, metric, estimate.seeds),
                note="" if crossed is None else OVER_PROMPTS,
            )
        )
    return rows


def at_matched_kl(
    claimed: float, asked: MatchedKLConfig, results: Results, config: ClaimsConfig
) -> list[Finding]:
    """The metric of one run less that of another, where both have gone equally far: a row for each
    distance.

    Args:
      claimed: the figure; its sign is the direction.
      asked: what is measured.
      results: of the comparison.
      config: says statistic and pairing.

    Raises:
      Missing: the evaluations do not say how far the runs have gone.
    """
    pairs = list(results.pairs(asked.run, asked.against).values())
    metric = results.asked(asked.metric, *(run for pair in pairs for run in pair))
    for run in (run for pair in pairs for run in pair):
        if not any(asked.kl_metric in point for point in run.curve):
            if asked.kl_metric != SEQUENCE_KL:
                results.asked(asked.kl_metric, run)  # a name that nothing has, with what there is
            raise Missing(
                f"the evaluations of {run.name} do not have {asked.kl_metric}: give "
                "evaluation.reference in the comparison"
            )
    rows = []
    for kl in asked.kl:
        values = [
            (
                at_kl(first, metric, kl, kl_metric=asked.kl_metric),
                at_kl(second, metric, kl, kl_metric=asked.kl_metric),
            )
            for first, second in pairs
        ]
        estimate = over_pairs(values, difference, config)
        rows.append(
            found(
                f"{metric}, {asked.run} less {asked.against}, at a KL of {kl:g} nats",
                claimed,
                estimate,
                form=Form(is_signed=True),
                behind=behind(results, metric, estimate.seeds),
                note="; ".join(_reservations(asked, metric, kl, pairs)),
            )
        )
    return rows


def _reservations(
    asked: MatchedKLConfig, metric: str, kl: float, pairs: list[tuple[Measured, Measured]]
) -> list[str]:
    """What makes a figure at equal KL less than it seems: runs that never go so far, and runs of
    which nothing is known between their start and a measurement beyond."""
    told = []
    for name, runs in zip((asked.run, asked.against), zip(*pairs, strict=True), strict=True):
        there = sum(_went(run, asked.kl_metric) >= kl for run in runs)
        if there < len(runs):
            told.append(f"{name} reaches {kl:g} nats in {there} of {len(runs)} seeds")
    ends = [_around(run, metric, kl, asked.kl_metric) for pair in pairs for run in pair]
    blind = sum(found is not None and found[0].kl == 0 for found in ends)
    if blind:
        told.append(
            f"{blind} of {len(ends)} runs were measured nowhere between the start and {kl:g} nats"
        )
    return told


def at_kl(run: Measured, metric: str, kl: float, *, kl_metric: str) -> float:
    """The metric of a run where it first went so far from its start.

    Between the last evaluation before and the first one there, the metric is taken to change in
    proportion to the KL. At the start itself the KL is 0. Evaluations that lack either number are
    passed over.

    Args:
      run: with its evaluations, in order.
      metric: of the evaluations.
      kl: nats per answer, above 0.
      kl_metric: of the evaluations.

    Returns:
      The metric; NaN: the run never went so far.
    """
    ends = _around(run, metric, kl, kl_metric)
    if ends is None:
        return float("nan")
    before, after = ends
    share = (kl - before.kl) / (after.kl - before.kl)
    return float(before.value + share * (after.value - before.value))


class _Point(NamedTuple):
    """An evaluation: how far the run had gone, and its metric there."""

    kl: float
    value: float


def _around(run: Measured, metric: str, kl: float, kl_metric: str) -> tuple[_Point, _Point] | None:
    """The last evaluation before a run had gone so far, and the first one there; None: it never
    did."""
    nan = float("nan")
    points = [
        _Point(0.0 if point["step"] == 0 else point.get(kl_metric, nan), point.get(metric, nan))
        for point in run.curve
    ]
    known = [point for point in points if np.isfinite(point).all()]
    for before, after in zip(known, known[1:], strict=False):
        if before.kl < kl <= after.kl:
            return before, after
    return None


def _went(run: Measured, kl_metric: str) -> float:
    """How far a run ever was from its start, nats."""
    return max(np.nan_to_num(point.get(kl_metric, 0.0)) for point in run.curve)


def _at(when: str, metric: str, first: Measured, second: Measured) -> tuple[float, float]:
    if when == "end":
        return first.curve[-1][metric], second.curve[-1][metric]
    budget = common_budget(when, first, second)
    return within(first, when, budget, metric), within(second, when, budget, metric)


def common_budget(cost: str, first: Measured, second: Measured) -> float:
    """What two runs have both spent; a run that spends none of it (tokens offline) does not
    limit the other."""
    spent = [run.curve[-1][cost] for run in (first, second)]
    return min((value for value in spent if value > 0), default=0.0)


def _by_prompt(
    results: Results, metric: str, pairs: list[tuple[Measured, Measured]]
) -> np.ndarray | None:
    """[seeds, prompts] of differences; None where cells do not keep the metric by prompt."""
    first, second = (
        results.of_prompts(metric, [pair[place] for pair in pairs]) for place in (0, 1)
    )
    if first is None or second is None or first.shape != second.shape:
        return None
    return first - second


def behind(results: Results, metric: str, seeds: int) -> str:
    """Seeds, and answers of each where their number is known."""
    answers = results.answers(metric)
    each = "" if answers is None else f", {answers:,} answers each"
    return seeds_text(seeds, len(results.seeds)) + each
