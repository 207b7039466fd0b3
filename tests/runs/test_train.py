"""Whole runs: folders, learning, interruption, resume, skipped updates, evaluation and export."""

import dataclasses
import json
import os
import pathlib
import signal
import threading
import time

import jax
import numpy as np
import pytest

from rlhf_jax.algorithms import DPOConfig, SFTConfig
from rlhf_jax.errors import TrainingError
from rlhf_jax.io import read_metrics
from rlhf_jax.models import load_pretrained
from rlhf_jax.runs import evaluate, export, train
from rlhf_jax.runs.export import load_checkpoint
from rlhf_jax.sharding import make_mesh

TIMING = ("time/", "tokens_per_second", "sampler/tokens_per_second")


def values(run_dir):
    """Rows of metrics.jsonl without what depends on the clock."""
    rows = read_metrics(pathlib.Path(run_dir) / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(TIMING)} for row in rows]


def params_of(folder, head=None):
    return [np.asarray(x) for x in jax.tree.leaves(load_pretrained(folder, head=head)[1])]


@pytest.mark.parametrize(
    "name", ["dpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sft", "reward_model"))]
)
def test_a_run_learns_and_leaves_a_whole_folder(name, tiny_config):
    config = tiny_config(name, training={"max_steps": 24, "eval_every": 0})
    result = train(config)
    assert (result.steps, result.interrupted) == (24, False)
    folder = pathlib.Path(config.run_dir)
    for kept in (
        "config.yaml",
        "metrics.jsonl",
        "log.txt",
        "checkpoints/24",
        "tokenizer/tokenizer.json",
        "export/config.json",
    ):
        assert (folder / kept).exists(), kept
    rows = read_metrics(folder / "metrics.jsonl")
    train_rows = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train_rows] == list(range(1, 25))
    assert [row["step"] for row in rows if row["split"] == "eval"] == [0, 24]
    first, last = (
        train_rows[0]["loss/total"],
        np.mean([row["loss/total"] for row in train_rows[-4:]]),
    )
    assert last < 0.95 * first
    assert train_rows[0]["lr"] == pytest.approx(3e-3)
    assert result.metrics["loss/total"] == rows[-1]["loss/total"]
    exported = params_of(result.export_dir, head=config.algorithm.models.trained["policy"].head)
    state = jax.tree.leaves(
        load_checkpoint(folder, None, mesh=make_mesh({}, devices=jax.devices()[:1]))[1]
    )
    for a, b in zip(exported, state, strict=True):
        np.testing.assert_array_equal(a, b)


def _signal_at(run_dir, step, signum):
    """Sends this process a signal once metrics.jsonl has a row of that step."""

    def watch():
        path = pathlib.Path(run_dir) / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if path.exists() and any(
                f'"step": {step},' in line for line in path.read_text().splitlines()
            ):
                os.kill(os.getpid(), signum)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_an_interrupted_run_goes_on_with_the_same_bits(tiny_config, tmp_path):
    options = {
        "training": {"max_steps": 40, "save_every": 0, "eval_every": 15},
        "data": {"num_buckets": 2},
    }
    whole = train(tiny_config("dpo", run_dir=tmp_path / "whole", **options))
    config = tiny_config("dpo", run_dir=tmp_path / "parts", **options)
    watcher = _signal_at(config.run_dir, 5, signal.SIGINT)
    part = train(config)
    watcher.join()
    assert part.interrupted and 5 <= part.steps < 40 and part.export_dir is None
    rest = train(config)
    assert (rest.steps, rest.interrupted) == (40, False)
    assert values(config.run_dir) == values(whole.run_dir)
    for a, b in zip(params_of(rest.export_dir), params_of(whole.export_dir), strict=True):
        np.testing.assert_array_equal(a, b)
    # a finished run that is started again does nothing and says the same
    again = train(config)
    assert again.metrics == rest.metrics


@pytest.mark.slow
def test_resuming_on_other_data_is_refused(tiny_config, tmp_path):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}=", "chosen": str(i), "rejected": str(i + 1)} for i in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_config("dpo", data={"path": str(data), "eval_size": 0}, training={"max_steps": 2})
    train(config)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, max_steps=4))
    with pytest.raises(ValueError, match="cannot resume|another configuration"):
        train(longer)


@pytest.mark.slow
def test_online_and_precomputed_references_agree(tiny_config, tmp_path):
    results = {}
    for reference in ("precomputed", "online"):
        algorithm = DPOConfig(reference=reference, loss_type="ipo")
        config = tiny_config(
            "dpo", run_dir=tmp_path / reference, algorithm=algorithm, training={"max_steps": 4}
        )
        results[reference] = [row["loss/total"] for row in values(train(config).run_dir)]
    np.testing.assert_allclose(results["precomputed"], results["online"], rtol=1e-5)


def test_reference_scores_are_cached_and_follow_the_weights(tiny_config, tmp_path, caplog):
    caplog.set_level("INFO", logger="rlhf_jax.runs.cached")
    options = {"training": {"max_steps": 1, "save_every": 0}}
    config = tiny_config("dpo", **options)
    train(config)
    assert len(list((pathlib.Path(config.run_dir) / "cache").glob("ref_logps-*.npy"))) == 2
    train(config)
    assert "read from" in caplog.text
    other = train(tiny_config("dpo", run_dir=tmp_path / "other", seed=1, **options))
    names = {
        path.name
        for folder in (pathlib.Path(config.run_dir), other.run_dir)
        for path in (folder / "cache").glob("ref*.npy")
    }
    assert len(names) == 4


def test_non_finite_updates_are_skipped_then_stop_the_run(tiny_config, caplog):
    config = tiny_config(
        "sft",
        optimizer={"learning_rate": 1e30, "max_grad_norm": None},
        training={"max_nonfinite": 2},
    )
    with pytest.raises(
        TrainingError, match=r"not finite 3 times in a row \(training.max_nonfinite=2\)"
    ):
        train(config)
    assert "update skipped" in caplog.text
    rows = read_metrics(pathlib.Path(config.run_dir) / "metrics.jsonl")
    assert rows[-1]["update/skipped_in_a_row"] == 3


@pytest.mark.slow
def test_evaluate_agrees_with_the_run(tiny_config):
    config = tiny_config("dpo", training={"max_steps": 6, "eval_every": 0})
    start = dataclasses.replace(
        config, run_dir=config.run_dir + "-sft", algorithm=tiny_config("sft").algorithm
    )
    sft = train(start)
    config = dataclasses.replace(
        config,
        tokenizer=None,
        model=dataclasses.replace(config.model, config=None, path=str(sft.export_dir)),
    )
    result = train(config)
    expected = {
        name: value
        for name, value in result.metrics.items()
        if not name.startswith(("train/", "time/"))
    }
    of_checkpoint = evaluate(config, checkpoint=config.run_dir)
    model = dataclasses.replace(
        config.model, path=str(result.export_dir), reference=str(sft.export_dir)
    )
    of_folder = evaluate(dataclasses.replace(config, model=model))
    for name, value in expected.items():
        assert of_checkpoint[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
        assert of_folder[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    with pytest.raises(ValueError, match="model.reference is not set"):
        evaluate(
            dataclasses.replace(
                config, model=dataclasses.replace(config.model, path=str(result.export_dir))
            )
        )


@pytest.mark.slow
def test_export_of_a_checkpoint(tiny_config, tmp_path):
    config = tiny_config(
        "reward_model",
        training={"max_steps": 6, "eval_every": 3},
        checkpoint={"keep_best": 1, "best_metric": "loss/total", "best_mode": "min"},
    )
    result = train(config)
    folder = export(config.run_dir, str(tmp_path / "last"))
    for a, b in zip(
        params_of(folder, "reward"), params_of(result.export_dir, "reward"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    first = export(f"{config.run_dir}/checkpoints/3", str(tmp_path / "first"))
    assert any(
        (a != b).any()
        for a, b in zip(params_of(first, "reward"), params_of(folder, "reward"), strict=True)
    )
    assert (
        export(config.run_dir, str(tmp_path / "best"), best=True) / "model.safetensors"
    ).exists()
    with pytest.raises(ValueError, match="not an empty folder"):
        export(config.run_dir, str(tmp_path / "last"))
    with pytest.raises(ValueError, match="neither a run folder nor a checkpoint"):
        export(str(tmp_path), str(tmp_path / "none"))


@pytest.mark.slow
def test_microbatches_and_bfloat16_compute(tiny_config, tmp_path):
    plain = train(tiny_config("sft", run_dir=tmp_path / "a", training={"max_steps": 4}))
    split = train(
        tiny_config("sft", run_dir=tmp_path / "b", training={"max_steps": 4, "num_microbatches": 4})
    )
    for a, b in zip(values(plain.run_dir), values(split.run_dir), strict=True):
        assert a["loss/total"] == pytest.approx(b["loss/total"], rel=1e-5)
    half = train(
        tiny_config(
            "sft",
            run_dir=tmp_path / "c",
            training={"max_steps": 4},
            model={"compute_dtype": "bfloat16"},
        )
    )
    for a, b in zip(values(plain.run_dir), values(half.run_dir), strict=True):
        assert a["loss/total"] == pytest.approx(b["loss/total"], rel=1e-2)
    assert all(x.dtype == np.float32 for x in params_of(half.export_dir))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"batch_size": 6, "num_microbatches": 4}}, "num_microbatches=4"),
        (
            {"mesh": {"data": 4}, "training": {"batch_size": 6}},
            "training.batch_size=6 must be a multiple of 4",
        ),
        (
            {
                "model": {
                    "config": {**{"model_type": "qwen2"}, "vocab_size": 100, "hidden_size": 32}
                }
            },
            "vocab|required|missing|lacks|needs",
        ),
    ],
)
def test_impossible_runs_are_one_line_errors(tiny_config, sections, message):
    with pytest.raises(ValueError, match=message) as caught:
        train(tiny_config("sft", **sections))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_another_reference_is_noticed_on_resume_and_another_architecture_refused(
    tiny_config, tmp_path
):
    sft = train(tiny_config("sft", training={"max_steps": 2, "eval_every": 0}))
    config = tiny_config(
        "dpo", model={"reference": str(sft.export_dir)}, training={"max_steps": 4, "save_every": 2}
    )
    watcher = _signal_at(config.run_dir, 1, signal.SIGTERM)
    train(config)
    watcher.join()
    other = train(
        tiny_config(
            "sft", run_dir=tmp_path / "sft2", seed=3, training={"max_steps": 2, "eval_every": 0}
        )
    )
    (sft.export_dir / "model.safetensors").write_bytes(
        (other.export_dir / "model.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="cannot resume .* reference was"):
        train(config)
    changed = json.loads((sft.export_dir / "config.json").read_text()) | {"rms_norm_eps": 1e-3}
    (sft.export_dir / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="model.reference=.* has norm_eps"):
        train(
            tiny_config("dpo", run_dir=tmp_path / "new", model={"reference": str(sft.export_dir)})
        )


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_sequence_averages_do_not_depend_on_the_evaluation_batch(packing, tiny_config):
    config = tiny_config(
        "sft",
        algorithm=SFTConfig(aggregation="sequence"),
        training={"max_steps": 1},
        data={"packing": packing},
    )
    export_dir = train(config).export_dir
    model = dataclasses.replace(config.model, config=None, path=str(export_dir))
    losses = []
    for size in (2, 12):
        training = dataclasses.replace(config.training, eval_batch_size=size)
        losses.append(
            evaluate(dataclasses.replace(config, model=model, tokenizer=None, training=training))[
                "loss/total"
            ]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
