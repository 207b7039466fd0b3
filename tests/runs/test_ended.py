"""What the runs of a comparison ended with, and what their tuning had tried."""

import math

from rlhf_jax.runs.budgets import Measured
from rlhf_jax.runs.ended import ended_table, tuning_table

METRIC = "accuracy/mean@2"


def measured(name, seed, first, last):
    """A run of two measurements, each given by its metrics."""
    curve = [
        {"step": 0.0, "seconds": 0.0, "tokens": 0.0, **first},
        {"step": 9.0, "seconds": 1.0, "tokens": 2_000.0 + seed, **last},
    ]
    return Measured(name, "grpo", seed, curve, 7.5, 3.0, 2_000_000, 640, math.nan)


def tuned(value, trials):
    return {
        "asked": {"key": "optimizer.learning_rate"},
        "value": value,
        "trials": [{"value": one, "reached": reached} for one, reached in trials],
    }


def test_all_metrics_of_the_ends_stand_beside_the_start_they_share():
    runs = [
        measured(
            name,
            seed,
            {METRIC: 0.1 * seed, "accuracy/pass@2": 0.5},
            {METRIC: end + 0.1 * seed, "kl/ref_sequence": 2.0},
        )
        for name, end in (("a", 0.3), ("b", 0.6))
        for seed in (0, 1, 2)
    ]
    columns, rows = ended_table(runs, METRIC, {"b": tuned(3e-4, [(3e-4, 0.2)])})
    assert columns == [
        "run",
        "seeds",
        "learning_rate",
        METRIC,
        "kl/ref_sequence",
        "generated tokens",
    ]
    assert rows == [
        ["start", "3", "", "0.100 (0.000 to 0.200)", "-", "0"],
        ["a", "3", "", "0.400 (0.300 to 0.500)", "2.000 (2.000 to 2.000)", "2,001"],
        ["b", "3", "0.0003", "0.700 (0.600 to 0.800)", "2.000 (2.000 to 2.000)", "2,001"],
    ]


def test_runs_that_do_not_begin_alike_share_no_start():
    runs = [
        measured("a", 0, {METRIC: 0.1}, {METRIC: 0.3}),
        measured("b", 0, {METRIC: 0.2}, {METRIC: 0.3}),
    ]
    assert [row[0] for row in ended_table(runs, METRIC, {})[1]] == ["a", "b"]


def test_a_reward_has_a_column_unless_the_metric_says_the_same():
    same = {METRIC: 0.1, "rewards/sampled": 0.1, "rewards/exact_sampled": 0.1}
    assert ended_table([measured("a", 0, same, same)], METRIC, {})[0][2:-1] == [METRIC]
    judged = same | {"rewards/judge_sampled": 0.7, "rewards/ungraded_sampled": 0.0}
    columns, _ = ended_table([measured("a", 0, judged, judged)], METRIC, {})
    assert columns[2:-1] == [METRIC, "rewards/judge_sampled"]
    differs = measured("b", 0, same, same | {METRIC: 0.2})
    columns, _ = ended_table([measured("a", 0, same, same), differs], METRIC, {})
    assert columns[2:-1] == [METRIC, "rewards/exact_sampled"]


def test_the_value_that_tuning_took_is_bold_and_what_could_not_be_judged_has_no_mean():
    columns, rows = tuning_table(
        {
            "a": tuned(1e-4, [(1e-4, 0.2), (1e-4, 0.4), (1e-3, 0.9), (1e-3, math.nan)]),
            "b": tuned(1e-3, [(1e-3, 0.5), (1e-3, math.nan), (1e-3, 0.5)]),
        }
    )
    assert columns == ["run", "0.0001", "0.001"]
    assert rows == [["a", "**0.300**", "-"], ["b", "-", "**-**"]]


def test_any_option_can_be_tuned():
    """A word, a switch or a list is no number."""
    names = {"a": tuned("token", [("sequence", 0.1), ("token", 0.2)])}
    assert tuning_table(names) == (["run", "sequence", "token"], [["a", "0.100", "**0.200**"]])
    switch = {"a": tuned(False, [(True, 0.1), (False, 0.2)])}
    assert tuning_table(switch) == (["run", "True", "False"], [["a", "0.100", "**0.200**"]])
    lists = {"a": tuned([1, 2], [([1, 2], 0.2), (None, 0.1)])}
    assert tuning_table(lists) == (["run", "[1, 2]", "None"], [["a", "**0.200**", "0.100"]])
    assert ended_table([measured("a", 0, {METRIC: 0.1}, {METRIC: 0.3})], METRIC, names)[1][1] == [
        "a", "1", "token", "0.300", "2,000"
    ]  # fmt: skip


def test_values_that_look_alike_when_short_are_written_whole():
    trials = [(1.0000001e-4, 0.2), (1.0000002e-4, 0.3)]
    columns, rows = tuning_table({"b": tuned(1.0000001e-4, trials)})
    assert columns == ["run", "0.00010000001", "0.00010000002"]
    assert rows == [["b", "**0.200**", "0.300"]]
    columns, rows = tuning_table({"b": tuned("True", [(True, 0.2), ("True", 0.3)])})
    assert columns == ["run", "True", "'True'"] and rows == [["b", "0.200", "**0.300**"]]
