"""The countdown reward: right, wrong, hostile expressions; generated ones grade as made."""

import pytest

from rlhf_jax.data.synthetic import synthetic_rows
from rlhf_jax.rewards import REWARDS, RewardConfig, make_rewards
from rlhf_jax.rewards.config import PoolConfig
from rlhf_jax.rewards.countdown import countdown_reward, expression_of, work_out


def score(text, nums=(3, 5, 2), target=16, **options):
    (value,) = countdown_reward(["p"], [text], nums=[list(nums)], target=[target], **options)
    return value


@pytest.mark.parametrize(
    "text",
    [
        "(3+5)*2",
        " 2 * (5 + 3) ",
        "(3+5)*2 = 16",
        "First 3+5 = 8.\nThen:\n(3+5)*2",
        "<think>3*5+2 = 17, no</think>\n<answer>(3+5)*2</answer>",
        "so \\boxed{(3+5)\\times 2}",
        "#### (3 + 5) × 2",
        [{"role": "assistant", "content": "<answer> (5+3)*2 </answer>"}],
    ],
)
def test_right(text):
    assert score(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "16",
        "3*5+1",  # a number that was not given
        "(3+5)*2*1",
        "(3+5)+3+5",  # numbers used twice
        "3+5*2",  # misses the target
        "(3+5)**2",
        "(3+5)*2.0",
        "-(-3-5)*2",
        "(3+5)*2)",
        "(3+5)*2; 1",
        "3 5 2",
        "__import__('os').getcwd()",
        "(3,5)*2",
        "16 if 1 else 3+5+2",
        "3+5-2/0",
        "(" * 99 + "3+5" + ")" * 99 + "*2",
        "(" * 5000,
        "9**9**9**9",
        "1_6+3+5+2",
    ],
)
def test_wrong(text):
    assert score(text) == 0.0


def test_exact_fractions_and_division_by_zero():
    assert score("8/(3-8/3)", nums=(8, 3, 8, 3), target=24) == 1.0
    assert score("1/3*3", nums=(1, 3, 3), target=1) == 1.0
    assert score("6/(3-3)", nums=(6, 3, 3), target=2) == 0.0
    assert work_out("6/(3-3)") == ({6: 1, 3: 2}, None)
    assert work_out("2*3+4") == ({2: 1, 3: 1, 4: 1}, 10)


def test_format_score_is_for_the_right_numbers_only():
    assert score("3+5*2", format_score=0.25) == 0.25
    assert score("3+5", format_score=0.25) == 0.0
    assert score("(3+5)*2", format_score=0.25) == 1.0


def test_a_row_without_target_is_not_graded():
    assert countdown_reward(["p", "p"], ["1+1", "1+1"], nums=[[1, 1], None], target=[2, 2]) == [
        1.0,
        None,
    ]


def test_missing_column():
    with pytest.raises(
        ValueError,
        match="^reward countdown needs a column 'target', the data has nums: rename it with data",
    ):
        countdown_reward(["p"], ["1"], nums=[[1]])


def test_expression_of_takes_the_last_line():
    assert expression_of("1+1\n\n2+2 = 4\n") == "2+2"


@pytest.mark.parametrize(
    "options",
    ["", "numbers=5&max_number=30&max_target=200", "numbers=2&ops=+&max_number=9", "ops=-/"],
)
def test_generated_problems(options):
    path = f"synthetic:countdown?size=300&{options}"
    prompts, pairs = (list(synthetic_rows(path, kind)) for kind in ("prompts", "pairs"))
    columns = {name: [row[name] for row in prompts] for name in ("nums", "target")}
    right, wrong = ([row[name] for row in pairs] for name in ("chosen", "rejected"))
    assert countdown_reward([""] * 300, right, **columns) == [1.0] * 300
    assert countdown_reward([""] * 300, wrong, **columns) == [0.0] * 300


def test_by_name():
    assert REWARDS["countdown"] is countdown_reward
    with make_rewards(
        [RewardConfig(function="countdown", options={"format_score": 0.5})], PoolConfig()
    ) as rewards:
        scores = rewards.score(
            ["p", "p"], ["1+2", "1*2"], [[1], [1]], {"nums": [[1, 2]] * 2, "target": [3, 3]}
        )
    assert scores.total.tolist() == [1.0, 0.5] and scores.failures == {}
