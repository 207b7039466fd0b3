"""Starts that take over another run, or are refused: what rules, what is applied, what is left on
disk."""

import dataclasses
import json
import logging
import os
import pathlib

import numpy as np
import pytest

from rlhf_jax.data import byte_tokenizer
from rlhf_jax.io import RunFolderError, read_metrics
from rlhf_jax.loops import best, resume
from rlhf_jax.loops.recorder import Recorder
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs import offline, source, train
from rlhf_jax.runs.parts import make_tokenizer
from rlhf_jax.runs.sampling import make_prompts
from tests.loops.conftest import MODEL
from tests.runs.test_online import arrays, rows_of
from tests.runs.test_resume import SHORT, changed
from tests.sharding.threads import as_processes

BYTES = byte_tokenizer()


@pytest.mark.slow
def test_another_optimizer_goes_on_at_the_rate_that_is_logged(tiny_config, tmp_path):
    """Plain gradient steps: what they move the parameters by is the rate."""
    first = train(
        tiny_config("sft", run_dir=tmp_path / "first", training={"max_steps": 4, **SHORT})
    )
    start = {
        "checkpoint": {"start_from": str(first.run_dir)},
        "training": {"max_steps": 8, "eval_every": 0, "save_every": 1},
    }
    plain = {"name": "sgd", "momentum": 0.0, "max_grad_norm": None}

    def step_five(name, **optimizer):
        config = tiny_config("sft", run_dir=tmp_path / name, **start, optimizer=plain | optimizer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Recorder, "_is_save_step", lambda self, step: step == 5)
            run_dir = train(changed(config, checkpoint={"keep_last": 9})).run_dir
        return arrays(run_dir, 5), [
            row["lr"] for row in read_metrics(run_dir) if row["split"] == "train"
        ]

    falling, rates = step_five("falling", schedule="linear", learning_rate=0.5)
    # of 8 steps, the first four made before
    np.testing.assert_allclose(rates, [0.25, 0.1875, 0.125, 0.0625], rtol=1e-5)
    constant, _ = step_five("constant", schedule="constant", learning_rate=rates[0])
    before = arrays(first.run_dir, 4)
    for a, b, c in zip(falling, constant, before, strict=True):
        np.testing.assert_allclose(a - c, b - c, rtol=1e-4, atol=1e-7)
    assert max(np.abs(a - c).max() for a, c in zip(falling, before, strict=True)) > 1e-3


def source_of(run_dir, *changes):
    return resume.Source(pathlib.Path(run_dir), 4, {}, changes, is_other=True)


@pytest.mark.parametrize("tokenizer", ["byte", "bpe:280"])
def test_the_stops_of_another_run_are_not_taken_over(online_config, tmp_path, tokenizer):
    def build(name, *stops):
        rollout = {"stop": stops}
        return dataclasses.replace(
            online_config("grpo", run_dir=tmp_path / name, rollout=rollout), tokenizer=tokenizer
        )

    first, second, same = (
        build("first", "END", "g"),
        build("second", "STOP"),
        build("same", "END", "g"),
    )
    theirs = make_tokenizer(first, pathlib.Path(first.run_dir), "prompts")
    assert theirs.stop_strings == ("END",) and len(theirs.stop_ids) == 2
    source.take_tokenizer(
        second,
        source_of(
            first.run_dir, "rollout.stop[0]: 'END' -> 'STOP'", "rollout.stop[1]: 'g' -> None"
        ),
        pathlib.Path(second.run_dir),
    )
    ours = make_tokenizer(second, pathlib.Path(second.run_dir), "prompts")
    assert ours.stop_strings == ("STOP",) and ours.stop_ids == (theirs.eos_id,)
    assert ours.backend.to_str() == theirs.backend.to_str()
    # when the new run is resumed
    again = make_tokenizer(second, pathlib.Path(second.run_dir), "prompts")
    assert again.fingerprint() == ours.fingerprint()
    source.take_tokenizer(same, source_of(first.run_dir), pathlib.Path(same.run_dir))
    assert (
        make_tokenizer(same, pathlib.Path(same.run_dir), "prompts").fingerprint()
        == theirs.fingerprint()
    )
    prompts = [
        make_prompts(config, tokens, "train").fingerprint
        for config, tokens in ((first, theirs), (second, ours))
    ]
    assert prompts[0] == prompts[1], "prompts are the same whatever ends their completions"


@pytest.mark.slow
def test_other_stops_rule_and_keep_the_place_in_the_prompts(online_config, tmp_path, caplog):
    first = train(online_config("grpo", run_dir=tmp_path / "first", rollout={"stop": ("1", "2")}))
    start = {"checkpoint": {"start_from": str(first.run_dir)}, "training": {"max_steps": 5}}
    with caplog.at_level(logging.INFO):
        result = train(
            online_config("grpo", run_dir=tmp_path / "second", rollout={"stop": ("3",)}, **start)
        )
    assert "rollout.stop" in caplog.text and "differ from those of" not in caplog.text
    ids = json.loads((result.export_dir / "generation_config.json").read_text())["eos_token_id"]
    assert ids == [257, *(BYTES.encode("3"))]
    # as if the first run had gone on
    assert rows_of(result.run_dir)[0]["data/epoch"] == pytest.approx(20 / 48)


@pytest.mark.slow
def test_a_refused_resume_changes_nothing_on_disk(tiny_config, monkeypatch):
    config = tiny_config("sft", training={"max_steps": 4, **SHORT})
    train(config)
    run_dir = pathlib.Path(config.run_dir)
    before = {name: (run_dir / name).read_bytes() for name in ("config.yaml", "metrics.jsonl")}
    longer = changed(config, training={"max_steps": 6, "log_every": 2})
    inner = offline.begin

    def another_seed(*args, identity, **options):
        return inner(*args, identity={**identity, "seed": 99}, **options)

    monkeypatch.setattr(offline, "begin", another_seed)
    for refused, message in (
        (longer, "seed was 0"),
        (changed(config, training={"max_steps": 3, "log_every": 2}), "may only grow"),
    ):
        with pytest.raises(RunFolderError, match=message):
            train(refused)
        assert before == {name: (run_dir / name).read_bytes() for name in before}
    monkeypatch.undo()
    assert train(longer).steps == 6 and "log_every: 2" in (run_dir / "config.yaml").read_text()


def test_a_refused_start_leaves_no_run(online_config, tiny_config, tmp_path):
    """A reward function that cannot be imported is known when the grader starts: the last thing to
    refuse a run."""
    (tmp_path / "judge.py").write_text("import nothing_of_that_name\ndef f(): ...")
    config = online_config("grpo", rewards=(RewardConfig(function=f"{tmp_path / 'judge.py'}:f"),))
    with pytest.raises(ValueError, match="cannot be imported"):
        train(config)
    assert not {"config.yaml", "metrics.jsonl", "tokenizer", "completions"} & set(
        os.listdir(config.run_dir)
    )
    other = tiny_config("sft", run_dir=config.run_dir, training={"max_steps": 1, "eval_every": 0})
    assert train(other).steps == 1  # in the same folder


@pytest.mark.slow
@pytest.mark.parametrize("max_steps", [4, 7])
def test_the_last_evaluation_is_made_up_for(tiny_config, tmp_path, max_steps):
    """Killed in the evaluation of the last step, then started again as it was or with more
    steps."""
    config = tiny_config("sft", training={"max_steps": 4, "eval_every": 3, "save_every": 2})
    inner = offline.evaluate_loader

    def killed(*args, **kwargs):
        if (pathlib.Path(config.run_dir) / "checkpoints" / "4").exists():
            raise MemoryError("killed")
        return inner(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline, "evaluate_loader", killed)
        patch.setattr(best.Evaluations, "saved", lambda self, step: self._checkpointer.wait())
        with pytest.raises(MemoryError):
            train(config)
    rows = [row["step"] for row in read_metrics(config.run_dir) if row["split"] == "eval"]
    assert rows == [0, 3]
    longer = changed(config, training={"max_steps": max_steps})
    train(longer)
    rows = [row["step"] for row in read_metrics(config.run_dir) if row["split"] == "eval"]
    assert rows == [0, 3, 4] + ([6, 7] if max_steps == 7 else [])


@pytest.mark.slow
def test_fewer_steps_than_are_made_are_answered_with_what_works(tiny_config):
    config = tiny_config("sft", training={"max_steps": 4, "eval_every": 0, "save_every": 0})
    train(config)
    with pytest.raises(RunFolderError) as error:
        train(changed(config, training={"max_steps": 2}))
    assert "; ask for 5 steps or more, or for others in a new run_dir; to go on from " in str(
        error.value
    )
    assert str(error.value).endswith(f" checkpoint.start_from={config.run_dir} and 5 steps or more")
    onward = changed(config, training={"max_steps": 5}, checkpoint={"start_from": config.run_dir})
    # what the message offers
    assert train(dataclasses.replace(onward, run_dir=f"{config.run_dir}-2")).steps == 5
    assert train(changed(config, training={"max_steps": 5})).steps == 5


@pytest.mark.parametrize("is_online", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_without_held_out_rows_says_that_nothing_is_evaluated(
    tiny_config, online_config, caplog, is_online
):
    training = {"max_steps": 1, "eval_every": 5, "save_every": 0}
    make = online_config if is_online else tiny_config
    train(make("grpo" if is_online else "sft", training=training, data={"eval_size": 0}))
    said = [
        record
        for record in caplog.records
        if record.getMessage().startswith("nothing is evaluated: no held-out data")
    ]
    assert [record.levelno for record in said] == [logging.WARNING]
    assert said[0].getMessage().endswith("; training.eval_every=5 has no effect")


@pytest.mark.slow
@pytest.mark.parametrize("is_online", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_rows_beyond_what_the_model_was_made_for(
    tiny_config, online_config, caplog, is_online, learned
):
    model = {"config": {**MODEL, "max_position_embeddings": 8}}
    if learned:
        gpt2 = {
            "model_type": "gpt2",
            "vocab_size": 320,
            "n_embd": 32,
            "n_layer": 1,
            "n_head": 2,
            "n_positions": 8,
        }
        model = {"config": gpt2}
    training = {"max_steps": 1, "eval_every": 0, "save_every": 0}
    config = (online_config if is_online else tiny_config)(
        "grpo" if is_online else "sft", model=model, training=training, data={"eval_size": 0}
    )
    if learned:
        with pytest.raises(
            ValueError,
            match=r"tokens exceed the model's 8 learned positions; shorten (rollout|data)\.",
        ):
            train(config)
        return
    with caplog.at_level(logging.WARNING):
        train(config)
    assert "tokens, the model was made for 8 (" in caplog.text


def test_processes_must_see_the_same_checkpoint_to_start_from(group, monkeypatch, tmp_path):
    def begin(number):
        return source.agreed_step("checkpoint.start_from", tmp_path, 4 + 2 * number)

    for error in as_processes(group(2), monkeypatch)(begin):
        assert isinstance(error, RunFolderError)
        line = f"checkpoint.start_from={tmp_path}: the newest checkpoint is 4 for process 0 and 6 "
        assert str(error).startswith(line)
