"""Several rewards over one batch."""

import ast
import math
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

import rlhf_jax.rewards
from rlhf_jax.rewards import PoolConfig, RewardConfig, make_rewards

GRADERS = pathlib.Path(__file__).with_name("graders.py")
PACKAGE = pathlib.Path(rlhf_jax.rewards.__file__).parent
BUILT_IN = [
    RewardConfig(function="exact_match"),
    RewardConfig(function="overlong", weight=0.5, options={"max_len": 4, "buffer_len": 2}),
    RewardConfig(function="repetition", weight=0.0, options={"n": 1}, name="repeats"),
]


def test_built_ins_need_no_process():
    with make_rewards(BUILT_IN) as rewards:
        assert rewards.names == ("exact_match", "overlong", "repeats") and rewards._rooms == []
        scores = rewards.score(
            ["p"] * 3, ["7", "7 7", "8"], [[1] * 2, [1] * 3, [1] * 9], {"answer": ["7", "7", None]}
        )
    np.testing.assert_array_equal(scores.by_name["exact_match"], [1.0, 0.0, np.nan])
    np.testing.assert_array_equal(scores.by_name["repeats"], [0.0, -0.5, 0.0])
    # 1 + 0, 0 - 0.25, and the None of a row without an answer takes no part: -0.5
    assert scores.total.tolist() == [1.0, -0.25, -0.5]
    assert scores.failures == {"exact_match/none": 1}


def test_total_is_trls_for_none_and_nan_for_failures():
    """None of one function: others count. None of all: NaN. A failure of any: NaN."""
    configs = [
        RewardConfig(function=f"{GRADERS}:by_word"),
        RewardConfig(function="length", options={"max_len": 5}),
    ]
    words = ["good", "none", "raise"]
    with make_rewards(configs, PoolConfig(workers=1)) as rewards:
        both = rewards.score(["p"] * 3, words, [[1]] * 3, {})
    np.testing.assert_array_equal(both.total, [5.0, 1.0, np.nan])


def test_a_reward_without_weight_is_only_logged():
    configs = [
        RewardConfig(function=f"{GRADERS}:by_word"),
        RewardConfig(function=f"{GRADERS}:by_word", weight=0.0, name="logged"),
    ]
    with make_rewards(configs, PoolConfig(workers=1)) as rewards:
        scores = rewards.score(["p"] * 3, ["good", "none", "raise"], [[1]] * 3, {})
    np.testing.assert_array_equal(scores.total, [4.0, np.nan, np.nan])
    assert scores.failures == {
        "by_word/none": 1,
        "by_word/error": 1,
        "logged/none": 1,
        "logged/error": 1,
    }


def test_arguments_reach_the_function():
    with make_rewards(
        [RewardConfig(function=f"{GRADERS}:everything")], PoolConfig(workers=1)
    ) as rewards:
        chat = [[{"role": "assistant", "content": text}] for text in ("a", "b")]
        scores = rewards.score(
            ["xy", "z"], chat, [[1, 2], [3]], {"answer": ["a", "a"], "level": [3, 3]}
        )
    assert scores.total.tolist() == [23.0, 11.0], scores.failures


def test_math_in_the_pool_and_an_expression_that_never_ends():
    with make_rewards(
        [RewardConfig(function="math")], PoolConfig(workers=2, timeout=2.0)
    ) as rewards:
        completions = [r"\boxed{\frac{36}{2}}", r"\boxed{\sqrt{9^{9^{9^9}}}}", "#### 17"]
        scores = rewards.score(["p"] * 3, completions, [[1]] * 3, {"answer": [r"\sqrt{324}"] * 3})
    assert scores.total[[0, 2]].tolist() == [1.0, 0.0]
    assert math.isnan(scores.total[1]) or scores.total[1] == 0.0


def test_missing_columns_are_one_line():
    given = (["p"], ["c"], [[1]])
    with make_rewards([RewardConfig(function="exact_match")]) as rewards:
        with pytest.raises(
            ValueError,
            match="reward 'exact_match': the data has no column with the right answer: question",
        ):
            rewards.score(*given, {"question": ["a"]})
    configs = [RewardConfig(function="math"), RewardConfig(function=f"{GRADERS}:with_columns")]
    with make_rewards(configs, PoolConfig(workers=1)) as rewards:
        with pytest.raises(
            ValueError, match="reward 'math': the data has no column with the right answer: none"
        ):
            rewards.score(*given, {"none": ["a"]})
        with pytest.raises(
            ValueError, match="reward 'with_columns' needs a column 'answer', the data has solution"
        ):
            rewards.score(*given, {"solution": ["a"]})


def test_wrong_numbers_of_rows_and_empty_batches():
    with make_rewards(BUILT_IN) as rewards:
        with pytest.raises(ValueError, match="prompts has 1 rows for 2 completions"):
            rewards.score(["p"], ["a", "b"], [[1]] * 2, {"answer": ["a"] * 2})
        with pytest.raises(ValueError, match="column answer has 3 rows for 2 completions"):
            rewards.score(["p"] * 2, ["a", "b"], [[1]] * 2, {"answer": ["a"] * 3})
        assert rewards.score([], [], [], {"answer": []}).total.shape == (0,)


def test_mistakes_in_the_list():
    with pytest.raises(ValueError, match="rewards is empty"):
        make_rewards([])
    with pytest.raises(ValueError, match=r"rewards\.name 'math' occurs twice"):
        make_rewards([RewardConfig(function="math"), RewardConfig(function="math")])
    with pytest.raises(ValueError, match="'maths' is unknown"):
        make_rewards([RewardConfig(function="maths")])
    with pytest.raises(ValueError, match="has no 'nothing'"):
        make_rewards([RewardConfig(function=f"{GRADERS}:nothing")], PoolConfig(workers=1))


def test_an_inline_function_that_raises_costs_one_row():
    with make_rewards(
        [RewardConfig(function="overlong", options={"max_len": 4, "buffer_len": 2})]
    ) as rewards:
        scores = rewards.score(["p"] * 3, ["a"] * 3, [[1], None, [1] * 4], {})
    np.testing.assert_array_equal(scores.total, [0.0, np.nan, -1.0])
    assert scores.failures == {"overlong/error": 1}


def test_scores_from_several_threads():
    with make_rewards(
        [RewardConfig(function=f"{GRADERS}:by_word")], PoolConfig(workers=2)
    ) as rewards:
        results = {}

        def score(length):
            results[length] = rewards.score(
                ["p"] * 20, ["x" * length] * 20, [[1]] * 20, {}
            ).total.tolist()

        threads = [threading.Thread(target=score, args=(length,)) for length in range(6, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {length: [float(length)] * 20 for length in range(6, 10)}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_only_the_reward_model_imports_jax(path):
    """Workers start fast and hold little: nothing on their way imports JAX but the package."""
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert ("jax" in imported) == (path.name == "model.py")


def test_importing_rewards_loads_no_sympy():
    code = (
        "import sys, rlhf_jax.rewards; assert not {'sympy', 'math_verify', 'transformers'} & "
        "set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_column_named_like_an_option_of_a_builtin_is_no_value_for_it():
    configs = [RewardConfig(function="think_format"), RewardConfig(function="exact_match")]
    columns = {
        "answer": ["4"],
        "opened": [True],
        "extract": [""],
        "reasoning": ["long"],
        "strict": ["no"],
    }
    with make_rewards(configs, PoolConfig()) as rewards:
        scores = rewards.score(["q"], ["<think>2 + 2</think> The answer is 4."], [[1]], columns)
    assert [scores.by_name[name].tolist() for name in rewards.names] == [[1.0], [1.0]]
