"""Claims about how soon a run gets somewhere."""

import itertools

from rlhf_jax.config import ClaimsConfig, SavingConfig
from rlhf_jax.runs.budgets import Measured
from rlhf_jax.runs.claims.finding import Finding, Form, found, over_pairs, saving, seeds_text
from rlhf_jax.runs.claims.results import Results
from rlhf_jax.runs.convergence import Reached, common_level, cost_to, own_level

COSTS = {"step": "steps", "tokens": "generated tokens", "seconds": "seconds of training"}


def savings(
    claimed: float, asked: SavingConfig, results: Results, config: ClaimsConfig
) -> list[Finding]:
    """How much less a run spends than another until it gets somewhere: a row for each kind of cost
    and each target.

    What a run spends is told by its evaluations. What never happens counts as the larger whole
    budget of the two: a run that gets nowhere is not the faster one for having had less to spend.
    A seed in which neither gets there says nothing, and is left out.

    Args:
      claimed: the figure, a share.
      asked: what is measured.
      results: of the comparison.
      config: says statistic and pairing.
    """
    pairs = results.pairs(asked.run, asked.against)
    among = {name: results.of(name) for name in asked.among or (asked.run, asked.against)}
    others = [run for seeds in among.values() for run in seeds.values()]
    metric = results.asked(asked.metric, *(run for pair in pairs.values() for run in pair), *others)
    rows = []
    for target in asked.targets:
        for cost in asked.costs:
            gap = max(coarseness(run, cost) for pair in pairs.values() for run in pair)
            reached = []
            for seed, pair in pairs.items():
                of_seed = [seeds[seed] for seeds in among.values() if seed in seeds]
                reached.append(_reached(asked, metric, cost, target, pair, of_seed))
            estimate = over_pairs(
                [(first.cost, second.cost) for first, second in reached], saving, config
            )
            place = (
                f"{asked.share:.0%} of its own final level"
                if target == "own"
                else "the common target"
            )
            rows.append(
                found(
                    f"{COSTS[cost]} to {place}, {asked.run} against {asked.against}",
                    claimed,
                    estimate,
                    form=Form(is_share=True, is_signed=True),
                    behind=seeds_text(estimate.seeds, len(results.seeds)),
                    note=_note(asked, cost, reached, estimate.seeds, gap),
                )
            )
    return rows


def coarseness(run: Measured, cost: str) -> float:
    """The largest distance of two evaluations as a share of what the whole run spent: what is told
    by evaluations is known no better. 0 where nothing is spent."""
    spent = [point[cost] for point in run.curve]
    gaps = [after - before for before, after in itertools.pairwise(spent)]
    return max(gaps, default=0.0) / spent[-1] if spent[-1] else 0.0


def _reached(
    asked: SavingConfig,
    metric: str,
    cost: str,
    target: str,
    pair: tuple[Measured, Measured],
    among: list[Measured],
) -> tuple[Reached, Reached]:
    """When each of two runs got to its target."""
    level = common_level(among, metric)
    levels = [
        own_level(run, metric, share=asked.share) if target == "own" else level for run in pair
    ]
    first, second = (
        cost_to(run, metric, goal, cost) for run, goal in zip(pair, levels, strict=True)
    )
    if first.is_never and second.is_never:
        # Equal "never"s would look like a result: that neither is the faster one.
        return Reached(float("nan"), True), Reached(float("nan"), True)
    most = max(run.curve[-1][cost] for run in pair)
    return _or_most(first, most), _or_most(second, most)


def _or_most(reached: Reached, most: float) -> Reached:
    """What never happens costs the most that is told of either side."""
    return Reached(most, True) if reached.is_never else reached


def _note(
    asked: SavingConfig,
    cost: str,
    reached: list[tuple[Reached, Reached]],
    used: int,
    gap: float,
) -> str:
    """Who never got there, and why seeds do not count."""
    said = [] if used == 0 else [f"told to {gap:.0%} of the budget"]
    for place, name in enumerate((asked.run, asked.against)):
        known = [pair[place] for pair in reached if pair[place].cost == pair[place].cost]
        never = sum(one.is_never for one in known)
        if never:
            said.append(f"{name} never in {never} of {len(reached)} seeds")
    if used < len(reached):
        none = sum(pair[1].cost == 0 for pair in reached)
        if none:
            said.append(f"{asked.against} spends no {COSTS[cost]} in {none} of them")
        lost = len(reached) - used - none
        if lost > 0:
            said.append(f"neither gets there in {lost} of them")
    return "; ".join(said)
