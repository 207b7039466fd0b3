"""The code reward: where the code is, which tests there are, what they are worth."""

import json

import pytest

from rlhf_jax.rewards import PoolConfig, RewardConfig, make_rewards
from rlhf_jax.rewards.code import Case, checks_of, code_of, code_reward
from tests.rewards.hostile import SNIPPETS

RIGHT = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
WRONG = "```python\ndef add(a, b):\n    return a - b\n```"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("a\n```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nthen\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nprints\n```\n1\n```", "x = 1\n"),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1", "```python\nx = 1"),
        ([{"role": "assistant", "content": "x = 1"}], "x = 1"),
    ],
)
def test_code_of(text, code):
    assert code_of(text) == code


@pytest.mark.parametrize(
    ("columns", "cases", "setup", "statements"),
    [
        ({"tests": [["assert f(1)"]]}, (), "", ("assert f(1)",)),
        ({"test_list": [["assert f(1)"]], "test_setup_code": ["import re"]}, (), "import re", ("assert f(1)",)),
        ({"test_cases": [json.dumps(["assert f(1)", "assert f(2)"])]}, (), "", ("assert f(1)", "assert f(2)")),
        ({"test": ["def check(f): assert f(1)"], "entry_point": ["g"]}, (), "", ("def check(f): assert f(1)\ncheck(g)\n",)),
        ({"tests": ["[f(x) for x in y]"]}, (), "", ("[f(x) for x in y]",)),
        ({"tests": [[{"input": "1", "output": 2}]]}, (Case("1", "2"),), "", ()),
        ({"tests": [{"inputs": ["1\n", ["2", "3"]], "outputs": ["x", "y"]}]}, (Case("1\n", "x"), Case("2\n3", "y")), "", ()),
        ({"tests": ['{"inputs": [[1, "a"]], "outputs": [[2]], "fn_name": "f"}']}, (), "", ("assert f(*[1, 'a']) == [2]",)),
    ],
)
def test_formats_of_tests(columns, cases, setup, statements):
    assert checks_of(columns, 0) == (cases, setup, statements)


def test_rows_without_tests_and_bad_formats():
    assert checks_of({"tests": [None]}, 0) is None
    with pytest.raises(ValueError, match=r"no column with tests: answer; needed is one of tests, test_cases"):
        checks_of({"answer": ["x"]}, 0)
    with pytest.raises(ValueError, match=r"column 'tests', row 0: tests are statements"):
        checks_of({"tests": [[1, 2]]}, 0)


def test_grades():
    tests = [["assert add(1, 2) == 3", "assert add(0, 0) == 0"]] * 3
    assert code_reward(None, [RIGHT, WRONG, "no code here"], tests=tests) == [1.0, 0.0, 0.0]
    assert code_reward(None, [RIGHT, WRONG, "no code here"], partial=True, tests=tests) == [1.0, 0.5, 0.0]
    assert code_reward(None, [RIGHT], tests=[None]) == [None]
    program = "```python\nn = int(input())\nprint(n // 3)\nassert n < 9\n```"
    cases = [[{"input": "3", "output": " 1 \n"}, {"input": "9", "output": "3"}, {"input": "6", "output": "3"}]]
    assert code_reward(None, [program], tests=cases) == [0.0]
    assert code_reward(None, [program], partial=True, tests=cases) == [pytest.approx(1 / 3)]


def test_time_is_for_all_cases_together():
    program = "import time\ntime.sleep(0.4)\nprint(1)"
    cases = [[{"input": "", "output": "1"}] * 5]
    assert code_reward(None, [program], timeout=1.0, partial=True, tests=cases) == [pytest.approx(0.4)]


def test_hostile_completions_in_a_batch():
    """The run goes on: right code is graded right beside hostile code, which gets 0."""
    names = [
        "fork bomb",
        "memory bomb",
        "endless loop",
        "writes outside",
        "reads the environment",
        "opens sockets",
        "ignores signals",
    ]
    completions = [RIGHT] + [f"```python\n{SNIPPETS[name]}\n```" for name in names] + [RIGHT]
    tests = [["assert add(1, 2) == 3"]] * len(completions)
    config = RewardConfig(function="code", options={"timeout": 0.6, "memory_mb": 256})
    with make_rewards([config], PoolConfig(workers=2, timeout=20.0)) as rewards:
        scores = rewards.score(["p"] * len(completions), completions, [[1]] * len(completions), {"tests": tests})
    assert scores.total.tolist() == [1.0] + [0.0] * len(names) + [1.0] and scores.failures == {}


def test_limits_that_contradict_each_other():
    config = RewardConfig(function="code", options={"timeout": 10.0})
    with pytest.raises(ValueError, match=r"rewards\.options\.timeout 10\.0 of 'code' must be below reward_pool\.timeout 10\.0"):
        make_rewards([config], PoolConfig())
    with make_rewards([RewardConfig(function="code")]) as rewards:
        with pytest.raises(ValueError, match="reward 'code': the data has no column with tests"):
            rewards.score(["p"], ["c"], [[1]], {"answer": ["x"]})
