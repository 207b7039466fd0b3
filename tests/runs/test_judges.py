"""Which options of a run name who says right or wrong, and which names cannot."""

import dataclasses

import pytest

from rlhf_jax.config import measure_config
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs.online import make_online_parts
from tests.loops.conftest import ONLINE


def test_which_option_decides(online_config, tmp_path):
    rewards = tuple(RewardConfig(function="exact_match", name=name) for name in ("a", "b"))
    dapo = dataclasses.replace(ONLINE["dapo"], accuracy_reward=("b",))
    config = online_config("dapo", algorithm=dapo, rewards=rewards)

    def judges_of(config, name):
        grader = make_online_parts(config, tmp_path / name).grader
        return grader.judge.judges, grader.held_out.judges

    assert judges_of(config, "dapo") == ((1,), (1,))
    assert measure_config(config).evaluation.accuracy_reward == ("b",)
    other = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, accuracy_reward="a")
    )
    # what is trained does not change
    assert judges_of(other, "other") == ((1,), (0,))
    grpo = dataclasses.replace(other, algorithm=ONLINE["grpo"])
    assert judges_of(grpo, "grpo") == ((0,), (0,))
    # DAPO's choice of nobody is one too: the rule without names
    nobody = dataclasses.replace(other, algorithm=ONLINE["dapo"])
    grader = make_online_parts(nobody, tmp_path / "nobody").grader
    assert (grader.judge.judges, grader.judge.candidates) == ((0,), (1,))
    assert (grader.held_out.judges, grader.held_out.candidates) == ((0,), ())
    # named, it also reports where all groups are kept
    kept = dataclasses.replace(other, algorithm=dataclasses.replace(dapo, dynamic_sampling=False))
    assert judges_of(kept, "kept") == ((1,), (0,))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("aa", "evaluation.accuracy_reward='aa' is not among the rewards, which are a, b, model"),
        (("a", "x"), "evaluation.accuracy_reward='x' is not among the rewards"),
        (("a", "a"), "evaluation.accuracy_reward: 'a' stands there twice"),
        ((), r"evaluation.accuracy_reward=\[\] names nothing"),
        (
            ("a", "model"),
            "evaluation.accuracy_reward: 'model' is a reward model, which grades everything",
        ),
    ],
)
def test_names_that_cannot_judge(online_config, named, message):
    rewards = (
        RewardConfig(function="exact_match", name="a"),
        RewardConfig(function="exact_match", name="b"),
        RewardConfig(function="model", options={"path": "x"}),
    )
    config = online_config("grpo", rewards=rewards)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(
            config, evaluation=dataclasses.replace(config.evaluation, accuracy_reward=named)
        )
