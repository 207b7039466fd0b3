"""Our DPO losses and KTO against values of TRL (see make_trl_preferences.py)."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import DPOConfig, KTOConfig, dpo, kto
from rlhf_jax.algorithms.pair_losses import LOSS_TYPES
from rlhf_jax.types import Model, PairBatch, UnpairedBatch
from tests.golden.arrays import array, boolean, close

HERE = pathlib.Path(__file__).parent
TRL = json.loads((HERE / "trl_preferences.json").read_text())


def behind_a_prompt(x):
    return np.pad(np.asarray(x), ((0, 0), (1, 0)))


def handing_out(of_rows):
    """A model whose log-probabilities are parameters: (parameters, tokens) -> log-probabilities."""

    def token_logps(
        params, tokens, mask, *, segment_ids=None, scored=None, temperature=1.0, entropy=True
    ):
        return of_rows(params, tokens), jnp.zeros(tokens.shape)

    return Model(config=None, hidden=None, logits=None, token_logps=token_logps)


def stepped(algorithm, trees, batch):
    """Scores, credit, weights and loss, as `training.make_step` puts them together."""

    def loss(trees, batch):
        filled = {name: score(trees, batch) for name, score in algorithm.needs.items()}
        batch, _, prepared = algorithm.prepare(batch._replace(**filled), {})
        value, metrics = algorithm.loss(trees, algorithm.weigh(batch), jax.random.key(0))
        return value, prepared | metrics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(trees, batch)


def test_all_of_trls_losses_are_there():
    names = [case["options"]["loss_type"] for case in TRL["dpo"]]
    assert {name for name in names if isinstance(name, str)} == set(LOSS_TYPES)
    assert TRL["versions"]["trl"] == "1.16.0"
    assert pathlib.Path(HERE, pathlib.Path(TRL["made_by"]).name).is_file()


@pytest.mark.parametrize(
    "case", TRL["dpo"], ids=lambda c: "-".join(str(x) for x in c["options"].values())
)
def test_dpo(case):
    """Through `make`: all of the loss's steps, ranks taken before the step included."""
    mask = behind_a_prompt(case["completion_mask"])
    pairs = len(mask) // 2

    def paired(x):
        x = np.asarray(x)
        return np.stack([x[:pairs], x[pairs:]], axis=1)

    model = handing_out(lambda params, tokens: params["logps"].reshape(tokens.shape))
    batch = PairBatch(
        tokens=jnp.zeros((pairs, 2, mask.shape[1]), jnp.int32),
        mask=jnp.ones((pairs, 2, mask.shape[1]), bool),
        completion_mask=boolean(paired(mask)),
        valid=jnp.ones(pairs, bool),
        ref_logps=array(paired(case["ref"])),
    )
    trees = {"policy": {"logps": array(paired(behind_a_prompt(case["logps"])))}}
    algorithm = dpo.make(DPOConfig(**case["options"]), model)
    (loss, metrics), gradient = stepped(algorithm, trees, batch)
    close(loss, case["loss"])
    wanted = paired(np.asarray(case["gradient"]) * case["completion_mask"])
    close(gradient["policy"]["logps"][..., 1:], wanted)
    close(metrics["rewards/chosen"], case["metrics"]["rewards/chosen"])
    close(metrics["rewards/margin"], case["metrics"]["rewards/margins"])
    close(metrics["rewards/accuracy"], case["metrics"]["rewards/accuracies"])


@pytest.mark.parametrize(
    "case", TRL["kto"], ids=lambda c: "-".join(str(x) for x in c["options"].values())
)
def test_kto(case):
    """Through `make`: which answer is which says the token."""
    mask, unrelated = (behind_a_prompt(case[name]) for name in ("mask", "unrelated_mask"))
    rows = len(mask)
    tokens = jnp.broadcast_to(jnp.arange(2, dtype=jnp.int32)[:, None], (rows, 2, mask.shape[1]))
    batch = UnpairedBatch(
        tokens=tokens,
        mask=jnp.ones(tokens.shape, bool),
        completion_mask=boolean(np.stack([mask, unrelated], axis=1)),
        valid=jnp.ones(rows, bool),
        label=boolean(case["label"]),
        ref_logps=array(np.stack([case["ref"], case["ref_unrelated"]], axis=1)),
    )
    trees = {
        "policy": {name: array(behind_a_prompt(case[name])) for name in ("logps", "unrelated")}
    }

    def of_rows(params, tokens):
        return jnp.where(tokens == 1, params["unrelated"], params["logps"])

    algorithm = kto.make(KTOConfig(**case["options"]), handing_out(of_rows))
    (loss, metrics), gradient = stepped(algorithm, trees, batch)
    close(loss, case["loss"])
    close(gradient["policy"]["logps"][:, 1:], np.asarray(case["gradient"]) * case["mask"])
    assert (gradient["policy"]["unrelated"] == 0).all()
    for ours, theirs in (
        ("rewards/chosen", "rewards/chosen"),
        ("rewards/rejected", "rewards/rejected"),
        ("logps/chosen", "logps/chosen"),
        ("logps/rejected", "logps/rejected"),
    ):
        close(metrics[ours], case["metrics"][theirs])
    if case["options"]["loss_type"] == "kto":
        close(metrics["kl/baseline"], case["metrics"]["kl"])
