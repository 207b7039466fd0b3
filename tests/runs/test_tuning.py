"""How the value of an option is chosen for the runs of a comparison."""

import pytest

from rlhf_jax.config import make_compare
from rlhf_jax.errors import TrainingError
from rlhf_jax.runs.ended import tuning_table
from rlhf_jax.runs.making import check_measured
from rlhf_jax.runs.tuning import best_value, tune
from tests.runs.test_protocol import SHORT, tree


def test_tuning_takes_the_best_mean():
    def trials(*rows):
        return [{"value": value, "reached": reached} for value, reached in rows]

    # means 0.5, 0.55, 0.3: one good seed (0.9) does not make 1e-3 the best
    rows = trials((1e-4, 0.5), (1e-4, 0.5), (3e-4, 0.5), (3e-4, 0.6), (1e-3, 0.9), (1e-3, -0.3))
    assert best_value(rows) == 3e-4
    assert best_value(trials((1, 0.5), (2, 0.5))) == 1, "of equal ones the first"
    assert best_value(trials((1, 0.9), (1, float("nan")), (2, 0.1), (2, 0.1))) == 2
    with pytest.raises(TrainingError, match="no value could be judged"):
        best_value(trials((1, float("nan"))))


def test_a_trial_keeps_the_measurements_that_decide_something():
    def trained(**changes):
        changed = tree("runs/x")
        changed["runs"][2]["config"] |= changes
        whole, trial = make_compare(changed).trial("grpo", 1e-3)
        return whole.run_config(trial, 100)

    plain = trained().training
    assert (plain.eval_every, plain.save_every, plain.max_steps) == (0, 0, 2)
    early = {"metric": "accuracy/greedy", "patience": 1}
    training = SHORT | {"early_stopping": early}
    assert trained(training=training).training.eval_every == 1
    best = {"keep_best": 1, "best_metric": "accuracy/greedy"}
    assert trained(checkpoint=best, training=SHORT).training.eval_every == 1


def test_a_metric_of_ones_own_decides(tmp_path):
    """The judge prefers the larger rate, the rule the smaller one."""
    changed = tree(tmp_path)
    changed["tuning"]["metric"] = "rewards/judge_sampled"
    config = make_compare(changed)
    reached = {1e-4: (0.5, 1.0), 1e-3: (0.25, 2.0)}

    def measure(whole, trial, seed):
        whole.folder(trial, seed).mkdir(parents=True)
        rule, judge = reached[trial.config["optimizer"]["learning_rate"]]
        return {"accuracy/mean@2": rule, "rewards/judge_sampled": judge}

    found = tune(config, config.run("grpo"), measure, metric="accuracy/mean@2")
    assert found["value"] == 1e-3 and [one["reached"] for one in found["trials"]] == [1.0, 2.0]
    assert tuning_table({"grpo": found}).columns[0] == "run, by rewards/judge_sampled"
    # By the other metric nothing is made again: all of them are kept.
    del changed["tuning"]["metric"]
    config = make_compare(changed)
    found = tune(config, config.run("grpo"), None, metric="accuracy/mean@2")
    assert found["value"] == 1e-4 and [one["reached"] for one in found["trials"]] == [0.5, 0.25]


def test_a_value_that_reaches_nothing_is_ruled_out_and_not_tried_again(tmp_path):
    config = make_compare(tree(tmp_path))
    asked = []

    def measure(whole, trial, seed):
        whole.folder(trial, seed).mkdir(parents=True)
        asked.append(trial.config["optimizer"]["learning_rate"])
        return {} if asked[-1] == 1e-3 else {"accuracy/mean@2": 0.5}

    found = tune(config, config.run("grpo"), measure, metric="accuracy/mean@2")
    assert found["value"] == 1e-4 and asked == [1e-4, 1e-3]
    assert tuning_table({"grpo": found}).rows == [["grpo", "**0.500**", "-"]]
    again = tune(config, config.run("grpo"), measure, metric="accuracy/mean@2")
    assert again["value"] == 1e-4 and len(asked) == 2


def test_a_metric_that_nothing_has_is_refused_at_the_start():
    check_measured("tuning.metric", "rewards/juge_sampled", {"rewards/juge_sampled": 0.0})
    with pytest.raises(ValueError, match="is not measured; .*did you mean 'rewards/judge_sampled'"):
        found = {"rewards/judge_sampled": 0.0, "accuracy/greedy": 0.0, "step": 0.0}
        check_measured("tuning.metric", "rewards/juge_sampled", found)
