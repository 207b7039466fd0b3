"""Whether a metric is good when large or small."""

import pytest

from rlhf_jax.algorithms.directions import better
from rlhf_jax.algorithms.metrics import METRICS


@pytest.mark.parametrize(
    ("names", "mode"),
    [
        (
            "loss/total loss/policy loss/value length/greedy length/truncated_greedy kl/ref "
            "kl/ref_sequence",
            "min",
        ),
        (
            "eval/nll token_nll perplexity eval/perplexity loss eval_loss rewards/ungraded "
            "rewards/failed/judge/error",
            "min",
        ),
        (
            "rewards/accuracy rewards/greedy rewards/sampled rewards/margin rewards/chosen "
            "rewards/mean",
            "max",
        ),
        (
            "accuracy/greedy accuracy/mean@4 accuracy/pass@16 accuracy/maj@2 data/accuracy "
            "logps/chosen value/explained_variance",
            "max",
        ),
        (
            "kl/coef rewards/rejected logps/rejected rewards/std loss/weight grad_norm lr "
            "policy/entropy anything time/step",
            None,
        ),
    ],
)
def test_the_meaning_of_a_name(names, mode):
    assert {name: better(name) for name in names.split()} == dict.fromkeys(names.split(), mode)


def test_no_loss_is_good_when_large():
    for name in METRICS:
        if name.startswith(("loss/", "length/", "kl/")):
            assert better(name) in ("min", None), name
