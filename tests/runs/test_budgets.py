"""The tables of a comparison, on curves written by hand."""

import math

import numpy as np
import pytest

from rlhf_jax.runs.budgets import (
    Measured,
    best_name,
    budget_table,
    estimate_difference,
    figures,
    outcome,
    paired_table,
    table,
    within,
)
from rlhf_jax.runs.compared import Comparison, as_markdown
from rlhf_jax.runs.ended import ended_table, tuning_table

METRIC = "accuracy/mean@2"


def measured(name, seed, values, *, tokens=100.0):
    curve = [
        {
            "step": 10.0 * index,
            "seconds": 2.0 * index,
            "tokens": tokens * index,
            METRIC: value,
            "accuracy/greedy": value,
        }
        for index, value in enumerate(values)
    ]
    return Measured(name, "grpo", seed, curve, 7.5, 3.0, 2_000_000, 640, math.nan)


def test_steps_and_seconds_to_reach_are_those_of_the_first_measurement_above():
    run = measured("a", 0, [0.2, 0.6, 0.55, 0.7])
    found = figures(run, METRIC, 0.6)
    assert (found["steps_to_reach"], found["seconds_to_reach"]) == (10.0, 2.0)
    assert (found["before"], found["after"], found["bytes"]) == (0.2, 0.7, 2.0)
    assert (found["training"], found["compiling"], found["seconds"]) == (6.0, 3.0, 7.5)
    assert math.isnan(figures(run, METRIC, 0.8)["steps_to_reach"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.2, 0.6], ""),
        ([0.2, 0.4], "never"),
        ([0.2, 0.1, 0.2], "never above the start"),
        ([0.9, 0.7, 0.8], "never above the start"),  # it had the target at the start, and lost it
        ([0.7, 0.8], "above it from the start"),
        ([0.7], "never above the start"),
        ([math.nan, 0.2], "never above the start"),
    ],
)
def test_a_run_that_only_gets_worse_reached_nothing(values, said):
    run = measured("a", 0, values)
    assert outcome(run, METRIC, 0.6) == said
    assert math.isnan(figures(run, METRIC, 0.6)["steps_to_reach"]) is bool(said)


def test_the_table_has_mean_and_deviation_over_seeds():
    runs = [
        measured("a", 0, [0.2, 0.5]),
        measured("a", 1, [0.2, 0.7]),
        measured("b", 0, [0.2, 0.2]),
    ]
    columns, rows = table(runs, METRIC, 0.6, reach=0.9)
    assert len(set(columns)) == len(columns)
    line = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert line["a"]["accuracy before"] == "0.200"
    assert line["a"]["accuracy after"] == "0.600 ± 0.141"
    assert line["a"]["steps to 90% of best"] == "10 (1 of 2)"
    assert line["b"]["steps to 90% of best"] == "never above the start"
    assert line["b"]["final entropy"] == "-"


def test_budgets_are_shares_of_what_all_have_spent():
    runs = [
        measured("long", 0, [0.1, 0.2, 0.3, 0.4, 0.5]),
        measured("short", 0, [0.1, 0.6, 0.7], tokens=300.0),
        measured("offline", 0, [0.1, 0.15, 0.9, 0.8, 0.8], tokens=0.0),
    ]
    columns, rows = budget_table(runs, METRIC)
    assert columns == ["run", *"100 tokens,200 tokens,400 tokens".split(","),
                       *"5 steps,10 steps,20 steps,1.0 s,2.0 s,4.0 s".split(",")]  # fmt: skip
    assert [" ".join(row) for row in rows] == [
        "long 0.200 0.300 0.500 0.100 0.200 0.300 0.100 0.200 0.300",
        "short 0.100 0.100 0.600 0.100 0.600 0.700 0.100 0.600 0.700",
        "offline 0.800 0.800 0.800 0.100 0.150 0.900 0.100 0.150 0.900",
    ]


def test_nothing_is_interpolated():
    run = measured("a", 0, [0.1, 0.5])
    assert within(run, "step", 9.5, METRIC) == 0.1
    assert within(run, "step", 9.6, METRIC) == 0.5, "up to 5 % over the budget"


def test_the_best_row_is_not_carried_by_one_seed():
    lucky = [measured("lucky", seed, [0.1, value]) for seed, value in enumerate([9, 0.4, 0.4, 0.4])]
    steady = [measured("steady", seed, [0.1, 0.5]) for seed in range(4)]
    assert best_name([*lucky, *steady], METRIC) == "steady"


def test_the_best_row_is_judged_with_as_many_seeds_as_others():
    nan = float("nan")
    failed = [measured("b", seed, [0.1, value]) for seed, value in enumerate([0.9, nan, nan, nan])]
    runs = [*failed, *(measured("a", seed, [0.1, 0.5]) for seed in range(4))]
    assert best_name(runs, METRIC) == "a"
    assert ended_table(runs, METRIC, {}).rows[1][2] == "0.900, 1 of 4 seeds"
    assert paired_table(runs, METRIC, "a").rows == [["b", "+0.400, 1 of 4 seeds", "1 of 1 seeds"]]


def test_the_best_of_several_answers_of_the_start_is_no_best_row():
    """Its answers are picked by the reward; where nothing is trained there is nothing else."""
    picked = measured("best_of_8", 0, [0.9])
    assert best_name([picked, measured("a", 0, [0.1, 0.5])], METRIC) == "a"
    assert best_name([picked, measured("best_of_2", 0, [0.5])], METRIC) == "best_of_8"


def test_differences_are_taken_seed_by_seed():
    """Seeds differ by far more than the two rows do."""
    easy = [0.1, 0.5, 0.9]
    runs = [measured("a", seed, [0.0, value]) for seed, value in enumerate(easy)]
    runs += [measured("b", seed, [0.0, value - 0.05]) for seed, value in enumerate(easy)]
    columns, rows = paired_table(runs, METRIC, "a")
    assert columns == ["run", "difference to a", "better in"]
    assert rows == [["b", "-0.050 (-0.050 to -0.050)", "0 of 3 seeds"]]


def test_one_seed_has_a_difference_and_nothing_to_count(tmp_path):
    runs = [measured("a", 0, [0.0, 0.9]), measured("b", 0, [0.0, 0.7])]
    paired = paired_table(runs, METRIC, "a")
    assert paired == (["run", "difference to a"], [["b", "-0.200"]])
    assert "of one seed" in markdown(runs, paired, tmp_path)
    assert "over seeds" not in markdown(runs, paired, tmp_path)
    more = [*runs, measured("a", 1, [0.0, 0.5]), measured("b", 1, [0.0, 0.6])]
    paired = paired_table(more, METRIC, "a")
    assert paired.rows == [["b", "-0.050", "1 of 2 seeds"]]
    assert "seed by seed" in markdown(more, paired, tmp_path)
    assert "of one seed" not in markdown(more, paired, tmp_path)


def test_the_bold_row_has_no_stars_where_it_has_nothing_to_say(tmp_path):
    """`a` is best, and only `b` is tuned."""
    runs = [measured("a", 0, [0.0, 0.9]), measured("b", 0, [0.0, 0.7])]
    trial = {"value": 0.1, "reached": 0.5}
    tuning = {"b": {"asked": {"key": "optimizer.b1"}, "value": 0.1, "trials": [trial]}}
    shown = markdown(runs, paired_table(runs, METRIC, "a"), tmp_path, tuning)
    assert "| **a** | **1** |  | **0.900** |" in shown
    assert "| b | 1 | 0.1 | 0.700 |" in shown
    assert shown.endswith("| run | 0.1 |\n| --- | --- |\n| b | **0.500** |\n")


def test_what_would_end_a_cell_of_markdown_does_not(tmp_path):
    runs = [measured("a", 0, [0.0, 0.9]), measured("b|c", 0, [0.0, 0.7])]
    asked = {"key": "data.prompt_template"}
    trials = [{"value": value, "reached": 0.5} for value in ("x|y\nz", "w")]
    tuning = {"b|c": {"asked": asked, "value": "x|y\nz", "trials": trials}}
    shown = markdown(runs, paired_table(runs, METRIC, "a"), tmp_path, tuning)
    assert r"| b\|c | 1 | x\|y z | 0.700 |" in shown
    assert shown.endswith(
        "| run | x\\|y z | w |\n| --- | --- | --- |\n| b\\|c | **0.500** | 0.500 |\n"
    )


def markdown(runs, paired, folder, tuning=()):
    columns, rows = table(runs, METRIC, 0.9, reach=0.9)
    return as_markdown(
        Comparison(
            metric=METRIC,
            target=0.9,
            runs=runs,
            columns=columns,
            rows=rows,
            best="a",
            ended=ended_table(runs, METRIC, dict(tuning)),
            tuning=tuning_table(dict(tuning)),
            budgets=budget_table(runs, METRIC),
            paired=paired,
            seconds={},
            folder=folder,
        )
    )


def test_a_difference_is_over_prompts_too_where_both_sides_know_them():
    """Seeds differ by the same 0.1 each: only the prompts are left to differ."""
    draw = np.random.default_rng(1)
    prompts = draw.random((4, 50))
    low = [
        measured("a", seed, [0.1, row.mean()])._replace(by_prompt={METRIC: row.tolist()})
        for seed, row in enumerate(prompts)
    ]
    high = [
        measured("b", seed, [0.1, (row + 0.1).mean()])._replace(
            by_prompt={METRIC: (row + np.where(np.arange(50) % 2, 0.2, 0.0)).tolist()}
        )
        for seed, row in enumerate(prompts)
    ]
    alone = [run._replace(by_prompt={}) for run in high]
    over_seeds = estimate_difference(alone, low, METRIC)
    assert (over_seeds.value, over_seeds.low) == pytest.approx((0.1, 0.1))
    over_both = estimate_difference(high, low, METRIC)
    assert over_both.value == pytest.approx(0.1)
    # sd of 0.1 over 50 prompts
    assert over_both.high - over_both.low == pytest.approx(2 * 1.96 * 0.1 / 50**0.5, rel=0.15)
    fewer = [run._replace(by_prompt={METRIC: [0.5]}) for run in high]
    assert estimate_difference(fewer, low, METRIC) == over_seeds
