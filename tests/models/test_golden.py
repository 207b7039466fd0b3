"""Logits and rewards equal those of transformers for the stored folders (make_golden.py)."""

import json

import jax
import numpy as np
import pytest

from rlhf_jax.models import ModelConfig, load_pretrained
from tests.models.tiny import CASES, FAMILY_NAMES, GOLDEN


def test_every_family_has_a_golden():
    types = {
        json.loads((GOLDEN / case / "config.json").read_text())["model_type"] for case in CASES
    }
    assert types == set(FAMILY_NAMES)


def test_versions_are_recorded():
    versions = json.loads((GOLDEN / "versions.json").read_text())
    assert set(versions) == {"python", "torch", "transformers"}


CONTEXT = {"llama_dynamic": 20}
"""Transformers stretches by the longest row of the batch; here that is the context, which has to be
said."""


@pytest.mark.parametrize("case", [name for name in CASES if not name.endswith("reward")])
def test_logits_equal_transformers(case):
    expected = np.load(GOLDEN / case / "expected.npz")
    model, params = load_pretrained(GOLDEN / case, context=CONTEXT.get(case))
    logits = jax.jit(model.logits)(params, expected["tokens"], expected["mask"])
    difference = np.abs(np.asarray(logits) - expected["out"])
    assert np.isfinite(np.asarray(logits)).all()
    assert difference[expected["mask"]].max() < 1e-4
    assert np.abs(expected["out"]).max() > 1.0


@pytest.mark.parametrize("case", [name for name in CASES if name.endswith("reward")])
def test_rewards_equal_transformers(case):
    expected = np.load(GOLDEN / case / "expected.npz")
    model, params = load_pretrained(GOLDEN / case, head="reward")
    assert model.scores is not None
    scores = np.asarray(jax.jit(model.scores)(params, expected["tokens"], expected["mask"]))
    last = expected["mask"].sum(1) - 1
    assert scores.shape == expected["tokens"].shape and scores.dtype == np.float32
    assert np.abs(scores[np.arange(len(last)), last] - expected["out"][:, 0]).max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_stored_configurations_round_trip(case):
    config = ModelConfig.from_hf(json.loads((GOLDEN / case / "config.json").read_text()))
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config
