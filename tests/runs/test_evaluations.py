"""Evaluations of whole runs: which checkpoint is best, names and failures, signals, two tasks, what
is left on disk."""

import dataclasses
import json
import pathlib
import signal

import pandas
import pytest

from rlhf_jax.config import ConfigError
from rlhf_jax.io import read_metrics
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs import export, making, offline, online, train
from rlhf_jax.runs.export import best_step
from rlhf_jax.runs.online import OnlineParts
from tests.loops.conftest import ONLINE
from tests.runs.test_train import values

TASKS = '''
"""Two verifiers, each of its own rows; a judge that is down for half of them."""


def maths(prompts, completions, completion_ids, kind, **columns):
    pairs = zip(kind, completion_ids)
    return [float(ids[0] % 2 == 0) if k == "maths" else None for k, ids in pairs]


def code(prompts, completions, completion_ids, kind, **columns):
    return [float(ids[0] % 2 == 0) if k == "code" else None for k, ids in zip(kind, completion_ids)]


def half_down(prompts, completions, kind, **columns):
    if kind[0] == "code":
        raise ConnectionError("the judge is down")
    return [1.0] * len(prompts)


def solved(prompts, completions, **columns):
    return [1.0] * len(prompts)


def never(prompts, completions, **columns):
    return [0.0] * len(prompts)
'''


@pytest.fixture
def tasks(tmp_path):
    """(data section, function: names of rewards -> their configurations) of 24 prompts, half of
    each kind."""
    rows = [{"prompt": f"{i:02d}:", "kind": ("maths", "code")[i % 2]} for i in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks.py").write_text(TASKS)

    def rewards(*names):
        return tuple(RewardConfig(function=f"{tmp_path / 'tasks.py'}:{name}") for name in names)

    return {"path": str(tmp_path / "prompts.jsonl"), "eval_size": 6, "shuffle": False}, rewards


def evaluations_of(run_dir):
    return [row for row in read_metrics(pathlib.Path(run_dir)) if row["split"] == "eval"]


def table_of(run_dir):
    return pandas.read_parquet(pathlib.Path(run_dir) / "completions")


def log_of(run_dir):
    return (pathlib.Path(run_dir) / "log.txt").read_text()


@pytest.mark.slow
def test_dapo_trains_on_both_tasks_and_leaves_one_table(online_config, tasks):
    """Each verifier abstains from the other's rows; nothing names them."""
    data, rewards = tasks
    config = online_config(
        "dapo", data=data, rewards=rewards("maths", "code"), training={"max_steps": 5}
    )
    result = train(config, progress=False)
    rows = [row for row in read_metrics(result.run_dir) if row["split"] == "train"]
    table = table_of(result.run_dir)
    train_rows = table[table.split == "train"]
    size = ONLINE["dapo"].group_size
    assert len(train_rows) == size * sum(row["data/groups_generated"] for row in rows)
    for row in rows:
        used = train_rows[train_rows.trained_step == row["step"]]
        assert len(used) == size * row["data/groups_trained"] == size * 4 and used.kept.all()
        generated = train_rows[train_rows.step == row["step"]]
        assert generated.generation_batch.nunique() == row["data/generation_batches"]
        assert generated.kept.sum() == size * row["data/groups_kept"]
    trained = train_rows[train_rows.trained_step.notna()]
    by_task = trained.maths.isna().value_counts()
    assert set(by_task.index) == {True, False} and by_task.min() >= 0.25 * by_task.sum()
    assert all(row["data/groups_unjudged"] == 0 for row in rows)
    held_out = table[table.split == "eval"]
    # before, twice in the middle of and after training; greedy and two samples
    assert len(held_out) == 4 * 6 * (1 + 2)
    for row in evaluations_of(result.run_dir):
        mine = held_out[held_out.step == row["step"]]
        greedy, sampled = mine[mine["sample"] == -1], mine[mine["sample"] >= 0]
        assert (
            sorted(greedy.prompt_index) == list(range(6)) and greedy.generation_batch.isna().all()
        )
        # both tasks are judged
        assert row["accuracy/greedy"] == pytest.approx((greedy.reward > 0).mean())
        assert row["accuracy/mean@2"] == pytest.approx((sampled.reward > 0).mean())
        assert (greedy.maths.isna() == greedy.prompt.str[1].astype(int) % 2).all() and (
            greedy.code.isna() != greedy.maths.isna()
        ).all()


@pytest.mark.slow
def test_a_solved_task_ends_like_a_run(online_config, tasks):
    """A last evaluation and an export; the same command again does nothing more."""
    data, rewards = tasks
    algorithm = dataclasses.replace(ONLINE["dapo"], max_generation_batches=2)
    config = online_config("dapo", algorithm=algorithm, data=data, rewards=rewards("solved"))
    result = train(config, progress=False)
    assert (result.steps, result.interrupted) == (0, False) and (
        result.export_dir / "config.json"
    ).exists()
    assert result.metrics["accuracy/greedy"] == 1.0 and "the task is solved" in log_of(
        config.run_dir
    )
    before = values(config.run_dir)
    again = train(config, progress=False)
    assert (again.steps, again.interrupted) == (0, False) and values(config.run_dir) == before
    assert (table_of(config.run_dir).split == "train").sum() == 2 * 4 * 4


@pytest.mark.slow
def test_steps_that_cannot_be_filled_are_left_out_and_counted(online_config, tasks):
    data, rewards = tasks
    algorithm = dataclasses.replace(ONLINE["dapo"], max_generation_batches=1, on_cap="skip")
    config = online_config("dapo", algorithm=algorithm, data=data, rewards=rewards("never"))
    result = train(config, progress=False)
    rows = [row for row in read_metrics(result.run_dir) if row["split"] == "train"]
    assert [row["data/steps_skipped"] for row in rows] == [1, 2, 3, 4] and result.steps == 4
    assert [row["step"] for row in evaluations_of(result.run_dir)] == [0, 2, 4]
    table = table_of(result.run_dir)
    assert (table[table.split == "train"].reward == 0).all() and len(
        table[table.split == "train"]
    ) == 4 * 16
    assert not table.kept.any() and table.trained_step.isna().all()


@pytest.mark.slow
def test_a_judge_that_fails_is_counted_and_not_ranked(online_config, tasks):
    data, rewards = tasks
    config = online_config(
        "grpo",
        data=data,
        rewards=rewards("half_down"),
        training={"max_steps": 1, "eval_every": 1, "save_every": 1},
        checkpoint={"best_metric": "accuracy/greedy", "keep_best": 1},
    )
    run_dir = train(config, progress=False).run_dir
    table = table_of(run_dir)
    greedy = table[(table.split == "eval") & (table.step == 0) & (table["sample"] == -1)]
    down = int((greedy.prompt.str[1].astype(int) % 2).sum())  # of six prompts
    assert 0 < down < 6
    for row in evaluations_of(run_dir):
        assert row["accuracy/greedy"] == row["accuracy/mean@2"] == row["accuracy/pass@2"] == 1.0
        assert row["rewards/ungraded"] == row["rewards/ungraded_sampled"] == pytest.approx(down / 6)
        assert (
            row["rewards/failed/half_down/error"] == down
            and row["rewards/failed_sampled/half_down/error"] == 2 * down
        )
    assert (
        f"step 1 is not ranked by accuracy/greedy: {100 * down / 6:.0f} % of its held-out "
        "completions" in log_of(run_dir)
    )
    with pytest.raises(ValueError, match="no checkpoint is ranked by accuracy/greedy"):
        best_step(run_dir)


def stopping_in_evaluation(number, asked):
    """A sampler: SIGTERM in the middle of the evaluation of that number.

    It notes what evaluations ask it for: "greedy" or "sampled".
    """

    def make(built_in, tokenizer):
        class Stopping:
            width, max_scored = built_in.width, built_in.max_scored

            def __call__(self, *args, sampling=None, **options):
                if sampling is not None:
                    asked.append("greedy" if sampling.temperature == 0 else "sampled")
                    # two batches of prompts in an evaluation
                    if asked[-1] == "greedy" and asked.count("greedy") == 2 * number - 1:
                        signal.raise_signal(signal.SIGTERM)
                return built_in(*args, sampling=sampling, **options)

        return Stopping()

    return make


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
def test_a_signal_during_an_evaluation_is_honoured_at_once(online_config, tasks, tmp_path, number):
    """The first and the last of three, of steps 0, 2 and 4: the state is saved, the evaluation is
    dropped, and made when the run goes on."""
    data, rewards = tasks
    options = {
        "data": data,
        "rewards": rewards("maths", "code"),
        "training": {"eval_batch_size": 3},
        "checkpoint": {"best_metric": "rewards/greedy", "keep_best": 1},
    }
    whole = train(online_config("grpo", run_dir=tmp_path / "whole", **options), progress=False)
    broken = online_config("grpo", run_dir=tmp_path / "broken", **options)
    asked = []
    stopped = train(broken, sampler=stopping_in_evaluation(number, asked), progress=False)
    step = 2 * (number - 1)
    assert stopped.interrupted and stopped.steps == step and stopped.export_dir is None
    # neither the samples nor the second batch
    assert asked == ["greedy", "sampled"] * 2 * (number - 1) + ["greedy"]
    assert step not in [row["step"] for row in evaluations_of(broken.run_dir)]
    assert f"step {step}: the evaluation was given up" in log_of(broken.run_dir)
    resumed = train(broken, progress=False)
    assert not resumed.interrupted and values(broken.run_dir) == values(whole.run_dir)
    assert best_step(whole.run_dir) == 2
    found = {row["step"]: row["rewards/greedy"] for row in evaluations_of(broken.run_dir)}
    saved = {step, 2, 4}  # that of step 0 is one more checkpoint
    assert best_step(resumed.run_dir) == max(saved, key=lambda number: (found[number], number))
    assert table_of(whole.run_dir).equals(table_of(resumed.run_dir))


@pytest.mark.slow
def test_a_crash_loses_no_completion_and_doubles_none(online_config, tasks, tmp_path):
    """In step 4, after its completions were written and after the checkpoint of step 2."""
    data, rewards = tasks
    options = {"data": data, "rewards": rewards("maths")}
    whole = train(online_config("grpo", run_dir=tmp_path / "whole", **options), progress=False)
    broken = online_config("grpo", run_dir=tmp_path / "broken", **options)
    with pytest.MonkeyPatch.context() as patch:
        inner = OnlineParts.to_device

        def to_device(parts, groups, step):
            if step == 3:
                raise MemoryError("killed")
            return inner(parts, groups, step)

        patch.setattr(OnlineParts, "to_device", to_device)
        with pytest.raises(MemoryError):
            train(broken, progress=False)
    assert table_of(broken.run_dir).step.max() == 4  # on disk for whoever wants to know why
    train(broken, progress=False)
    assert table_of(whole.run_dir).equals(table_of(broken.run_dir))


@pytest.mark.slow
def test_a_signal_during_an_offline_evaluation(tiny_config, tmp_path):
    options = {"training": {"max_steps": 4, "eval_every": 2, "save_every": 2, "eval_batch_size": 4}}
    whole = train(tiny_config("sft", run_dir=tmp_path / "whole", **options))
    broken = tiny_config("sft", run_dir=tmp_path / "broken", **options)
    with pytest.MonkeyPatch.context() as patch:
        inner = offline.evaluate_loader

        def evaluate_loader(*args, stopped, **kwargs):
            if (pathlib.Path(broken.run_dir) / "checkpoints").exists():  # of step 2
                signal.raise_signal(signal.SIGTERM)
            return inner(*args, stopped=stopped, **kwargs)

        patch.setattr(offline, "evaluate_loader", evaluate_loader)
        stopped = train(broken)
    assert stopped.interrupted and stopped.steps == 2
    assert [row["step"] for row in evaluations_of(broken.run_dir)] == [0]
    assert not train(broken).interrupted and values(broken.run_dir) == values(whole.run_dir)


def test_a_signal_after_the_last_evaluation_ends_what_is_around_a_complete_run(
    tiny_config, tmp_path, monkeypatch
):
    """`train` has nothing left to do; a comparison must not begin its next run."""
    options = {"training": {"max_steps": 2, "eval_every": 2, "save_every": 2, "eval_batch_size": 4}}
    config = tiny_config("sft", run_dir=tmp_path / "run", **options)
    inner = offline.evaluate_loader
    found = []

    def evaluate_loader(*args, **kwargs):
        found.append(inner(*args, **kwargs))
        if len(found) == 2:  # that of the last step
            signal.raise_signal(signal.SIGTERM)
        return found[-1]

    monkeypatch.setattr(offline, "evaluate_loader", evaluate_loader)
    with pytest.raises(KeyboardInterrupt, match="it was complete"):
        making._train(config, progress=False)
    monkeypatch.undo()
    result = train(config)
    assert (result.steps, result.interrupted, result.asked_to_stop) == (2, False, False)
    assert [row["step"] for row in evaluations_of(config.run_dir)] == [0, 2]


@pytest.mark.slow
def test_the_best_loss_is_the_smallest(tiny_config, tmp_path, caplog):
    """Without best_mode: the loss falls, so that the last checkpoint is best, and is the only one
    that is kept."""
    config = tiny_config(
        "sft",
        training={"max_steps": 4, "eval_every": 1, "save_every": 1},
        checkpoint={"keep_best": 1, "keep_last": 1, "best_metric": "loss/total"},
    )
    with caplog.at_level("INFO"):
        result = train(config)
    losses = {row["step"]: row["loss/total"] for row in evaluations_of(result.run_dir)}
    wanted = min(range(1, 5), key=losses.get)
    assert wanted == 4 and best_step(result.run_dir) == 4
    assert sorted(
        int(path.name) for path in (result.run_dir / "checkpoints").iterdir() if path.name.isdigit()
    ) == [4]
    log = log_of(result.run_dir)
    for step in range(1, 5):
        assert f"best so far: step {step}, loss/total={losses[step]:.6g}" in log
    assert (
        f"best checkpoint: step 4, loss/total={losses[4]:.6g}; to get it: rlhf-jax export "
        f"{config.run_dir} FOLDER --best" in log
    )
    assert (
        export(config.run_dir, str(tmp_path / "best"), best=True) / "model.safetensors"
    ).exists()


@pytest.mark.slow
def test_an_offline_metric_that_is_not_measured(tiny_config):
    """At the evaluation before the first step, and when the run goes on, before anything is
    computed."""
    options = {"training": {"max_steps": 2}}
    with pytest.raises(ConfigError) as error:
        train(tiny_config("sft", checkpoint={"best_metric": "loss/totel"}, **options))
    assert str(error.value).endswith("; did you mean 'loss/total'?") and "\n" not in str(
        error.value
    )
    train(tiny_config("sft", **options))
    with pytest.raises(
        ConfigError, match="'loss/totel' is not measured .*did you mean 'loss/total'"
    ):
        train(tiny_config("sft", checkpoint={"best_metric": "loss/totel"}, **options))


@pytest.mark.slow
@pytest.mark.parametrize("started", [False, True])
def test_an_online_metric_that_is_not_measured(online_config, started, monkeypatch):
    """Told before anything is generated, also after a resume with other samples."""
    config = online_config("grpo", training={"max_steps": 1})
    if started:
        train(config, progress=False)
    monkeypatch.setattr(online, "evaluate_prompts", None)
    wrong = dataclasses.replace(
        config, checkpoint=dataclasses.replace(config.checkpoint, best_metric="accuracy/mean@4")
    )
    with pytest.raises(
        ConfigError, match=r"'accuracy/mean@4' is not measured .*did you mean 'accuracy/mean@2'"
    ):
        train(wrong, progress=False)


def test_a_metric_without_held_out_data(tiny_config):
    config = tiny_config("sft", data={"eval_size": 0}, checkpoint={"best_metric": "loss/total"})
    with pytest.raises(ConfigError, match="best_metric='loss/total' needs held-out data"):
        train(config)
