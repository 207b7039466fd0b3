"""What is told of evaluations and of the best checkpoint."""

import json
import logging
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.io import Checkpointer
from rlhf_jax.loops import best
from rlhf_jax.training import TrainState


def _state():
    return TrainState(
        *({"w": jnp.zeros(2)} if name == "params" else jnp.zeros(()) for name in TrainState._fields)
    )


@pytest.fixture
def account(online_config, tmp_path):
    """(rows, earlier sessions, **checkpoint section) -> (`Evaluations`, checkpointer, function that
    saves a step)."""
    stack = []

    def build(rows=(), *, upto=None, planned=None, **section):
        config = online_config("grpo", checkpoint={"best_metric": "accuracy/greedy"} | section)
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        names = {
            "keep_last": 1,
            "keep_best": section.get("keep_best", 0),
            "best_metric": config.checkpoint.best_metric,
        }
        checkpointer = Checkpointer(
            tmp_path / "checkpoints", best_mode=config.checkpoint.mode, **names
        )
        stack.append(checkpointer)
        folder = SimpleNamespace(path=tmp_path)
        found = best.Evaluations(
            config, folder, checkpointer, total_steps=9, upto=upto, planned=planned
        )

        def save(step):
            checkpointer.save(step, _state(), {})
            found.saved(step)

        return found, checkpointer, save

    yield build
    for checkpointer in stack:
        checkpointer.close()


def test_what_is_graded_too_little_is_not_ranked(account, caplog):
    found, checkpointer, save = account()
    for step, ungraded in ((1, 0.11), (2, 0.1), (3, 0.5)):
        save(step)
        found.made(
            step,
            {
                "accuracy/greedy": step / 10,
                "rewards/ungraded": ungraded,
                "rewards/ungraded_sampled": 0.9,
            },
            saved=True,
        )
    assert (
        checkpointer.rated(3) is None
        and "step 1 is not ranked" in caplog.text
        and "step 2 is" not in caplog.text
    )


def test_the_samples_decide_about_metrics_of_samples(account, caplog):
    found, checkpointer, save = account(best_metric="accuracy/pass@2")
    save(1)
    found.made(
        1,
        {"accuracy/pass@2": 0.5, "rewards/ungraded": 0.0, "rewards/ungraded_sampled": 0.5},
        saved=True,
    )
    assert (
        checkpointer.best_step() is None
        and "step 1 is not ranked by accuracy/pass@2: 50 %" in caplog.text
    )


def test_a_result_that_was_not_told_is_told_on_resume(account):
    """Killed between the row of the evaluation and telling the checkpointer."""
    _, checkpointer, save = account()
    save(2)
    checkpointer.close()
    found, checkpointer, _ = account(
        [{"step": 2, "split": "eval", "accuracy/greedy": 0.25, "rewards/ungraded": 0.0}]
    )
    assert checkpointer.best_step() is None
    found.resumed()
    assert checkpointer.best_step() == 2 and checkpointer.rated(2) == 0.25


def test_best_survives_newer_ones_and_a_new_session(account, caplog):
    found, checkpointer, save = account(keep_best=1)
    for step, value in ((1, 0.5), (2, 0.75), (3, 0.25), (4, 0.5)):
        save(step)
        found.made(step, {"accuracy/greedy": value, "rewards/ungraded": 0.0}, saved=True)
    assert checkpointer.all_steps() == [2, 4]
    checkpointer.close()
    with caplog.at_level("INFO"):
        found, checkpointer, save = account(keep_best=1)
        found.resumed()
        save(5)
        found.finish()
    assert checkpointer.all_steps() == [2, 5] and checkpointer.best_step() == 2
    assert "step 5 saved; best so far: step 2, accuracy/greedy=0.75" in caplog.text
    assert "best checkpoint: step 2, accuracy/greedy=0.75" in caplog.text


def test_nothing_is_rated_without_a_checkpoint(account):
    _, checkpointer, _ = account()
    with pytest.raises(ValueError, match="no checkpoint of step 3 to rate"):
        checkpointer.rate(3, {"accuracy/greedy": 1.0})
    checkpointer.rate(3, {"accuracy/greedy": np.nan})  # no candidate, as without the metric


def test_a_run_that_names_another_metric_ranks_what_it_has(account):
    """Its earlier evaluations tell; nothing is deleted before all of them are known."""
    found, checkpointer, save = account(keep_best=1)
    rows = [
        {"step": 1, "split": "eval", "accuracy/greedy": 0.9, "rewards/greedy": -0.1},
        {"step": 2, "split": "eval", "accuracy/greedy": 0.1, "rewards/greedy": -0.2},
    ]
    for row in rows:
        save(row["step"])
        found.made(row["step"], row, saved=True)
    checkpointer.close()
    found, checkpointer, _ = account(rows, best_metric="rewards/greedy", keep_best=1)
    found.resumed()
    assert checkpointer.best_step() == 1 and checkpointer.rated(2) == -0.2


@pytest.mark.parametrize(
    ("keep_best", "told"), [(0, "best evaluation so far: step 2"), (1, "best so far: step 2")]
)
def test_no_checkpoint_is_promised_that_is_not_kept(account, caplog, keep_best, told):
    with caplog.at_level("INFO"):
        found, checkpointer, save = account(keep_best=keep_best)
        for step, value in ((1, 0.5), (2, 0.75), (3, 0.25)):
            save(step)
            found.made(step, {"accuracy/greedy": value, "rewards/ungraded": 0.0}, saved=True)
        # too little of it is graded to be best
        found.made(4, {"accuracy/greedy": 1.0, "rewards/ungraded": 0.5}, saved=False)
        found.finish()
    assert f"step 3 saved, accuracy/greedy=0.25; {told}, accuracy/greedy=0.75" in caplog.text
    if keep_best:
        assert (
            "best checkpoint: step 2, accuracy/greedy=0.75; to get it:" in caplog.text
            and checkpointer.all_steps() == [2, 3]
        )
    else:
        assert (
            checkpointer.all_steps() == [3]
            and "best checkpoint of those kept: step 3, accuracy/greedy=0.25" in caplog.text
        )
        assert (
            f"{told}, accuracy/greedy=0.75, whose checkpoint is gone or never was: "
            "checkpoint.keep_best=1" in caplog.text
        )


def test_rows_after_the_step_gone_on_from_were_lost(account):
    rows = [{"step": step, "split": "eval", "accuracy/greedy": 0.5} for step in (0, 3, 6)]
    found, _, _ = account(rows, upto=3, planned=3)
    assert found.steps == {0, 3} and found.is_due(3) and not found.is_due(5)


@pytest.mark.parametrize(
    ("every", "eval_size", "level"),
    [(100, 0, logging.INFO), (5, 0, logging.WARNING), (0, 0, None), (5, 12, None)],
)
def test_a_run_that_evaluates_nothing_says_so(
    tiny_config, tmp_path, caplog, every, eval_size, level
):
    """A number that was asked for is a warning; the default and 0 ask for nothing."""
    config = tiny_config("sft", training={"eval_every": every}, data={"eval_size": eval_size})
    folder = SimpleNamespace(path=tmp_path)
    with caplog.at_level(logging.INFO):
        best.Evaluations(config, folder, None, total_steps=9).check(None)
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert ("training.eval_every=5 has no effect" in caplog.text) == (level == logging.WARNING)
