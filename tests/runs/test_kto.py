"""Whole runs of KTO: rows of one answer with a label, from data to export."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from rlhf_jax.algorithms import DPOConfig, KTOConfig
from rlhf_jax.io import read_metrics
from rlhf_jax.runs import train
from tests.runs.test_train import params_of, values

TRAINING = {"max_steps": 16, "eval_every": 8, "save_every": 6}


def labelled(path, count=40):
    """Three of four rows are desirable, and it takes little to see which."""
    rows = [
        {"prompt": f"{n}:", "completion": "yes" if n % 4 else "no", "label": n % 4 > 0}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.slow
def test_a_run_learns_from_labels_and_goes_on_with_the_same_bits(tiny_config, tmp_path, caplog):
    path = labelled(tmp_path / "rows.jsonl")
    options = {"data": {"path": path, "eval_size": 8}, "training": TRAINING}
    with caplog.at_level(logging.INFO):
        whole = train(tiny_config("kto", run_dir=tmp_path / "whole", **options))
    assert "undesirable answers; KTO eq. 8 asks for desirable_weight" in caplog.text
    rows = read_metrics(whole.run_dir / "metrics.jsonl")
    first, *_, last = [row for row in rows if row["split"] == "eval"]
    assert first["rewards/accuracy"] == pytest.approx(0.5)  # policy and reference are one
    assert first["loss/total"] == pytest.approx(0.5)
    assert last["loss/total"] < 0.48
    assert last["rewards/chosen"] > last["rewards/rejected"]
    assert all(np.isfinite(row["kl/baseline"]) for row in rows)
    part = tiny_config(
        "kto", run_dir=tmp_path / "parts", **options | {"training": TRAINING | {"max_steps": 6}}
    )
    train(part)
    training = dataclasses.replace(part.training, max_steps=16)
    rest = train(dataclasses.replace(part, training=training))

    def of_steps(run_dir):
        return [row for row in values(run_dir) if row["split"] == "train"]

    assert of_steps(rest.run_dir) == of_steps(whole.run_dir)
    for a, b in zip(params_of(rest.export_dir), params_of(whole.export_dir), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        KTOConfig(reference="online"),
        KTOConfig(loss_type="apo_zero_unpaired"),
        DPOConfig(loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.1)),
        DPOConfig(loss_type="aot"),
        DPOConfig(loss_type="aot_unpaired", reference="online"),
    ],
    ids=lambda config: f"{type(config).__name__}-{config.loss_type}",
)
def test_microbatches_change_nothing(algorithm, tiny_config, tmp_path):
    """Whole steps, whatever they are split into: scores before the step included."""
    found = []
    for parts in (1, 4):
        config = tiny_config(
            "dpo",
            algorithm=algorithm,
            run_dir=tmp_path / str(parts),
            training={"max_steps": 3, "num_microbatches": parts, "pack": False},
            optimizer={"learning_rate": 1e-4},
        )
        train(config)
        found.append(read_metrics(tmp_path / str(parts) / "metrics.jsonl"))
    for one, other in zip(*found, strict=True):
        for name in {"loss/total", "rewards/accuracy", "kl/baseline", "loss/sft"} & one.keys():
            np.testing.assert_allclose(one[name], other[name], rtol=2e-3, atol=2e-4, err_msg=name)
