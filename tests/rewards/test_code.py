"""The code reward: which answers to which rows earn what."""

import re

import pytest

from rlhf_jax.rewards import PoolConfig, RewardConfig, code, make_rewards
from rlhf_jax.rewards.code import code_reward
from rlhf_jax.rewards.sandbox import MachineTooSlow
from tests.rewards.hostile import SNIPPETS
from tests.rewards.idioms import FUNCTIONS
from tests.rewards.rows import ROWS

RIGHT = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
WRONG = "```python\ndef add(a, b):\n    return a - b\n```"
ADD = ["assert add(1, 2) == 3"]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """What was said once before does not count here."""
    monkeypatch.setattr(code, "_said", set())


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_public_data_sets(name):
    row = ROWS[name]
    completions = [row.right, *row.wrong]
    columns = {column: [value] * len(completions) for column, value in row.columns.items()}
    scores = code_reward([row.prompt] * len(completions), completions, **columns)
    assert scores == [1.0] + [0.0] * len(row.wrong)


def test_grades():
    tests = [["assert add(1, 2) == 3", "assert add(0, 0) == 0"]] * 3
    assert code_reward(None, [RIGHT, WRONG, "no code here"], tests=tests) == [1.0, 0.0, 0.0]
    assert code_reward(None, [RIGHT, WRONG, "no code here"], partial=True, tests=tests) == [
        1.0,
        0.5,
        0.0,
    ]
    assert code_reward(None, [RIGHT], tests=[None]) == [None]
    program = "```python\nn = int(input())\nprint(n // 3)\nassert n < 9\n```"
    cases = [
        [
            {"input": "3", "output": " 1 \n"},
            {"input": "9", "output": "3"},
            {"input": "6", "output": "3"},
        ]
    ]
    assert code_reward(None, [program], tests=cases) == [0.0]
    assert code_reward(None, [program], partial=True, tests=cases) == [pytest.approx(1 / 3)]
    calls = [{"fn_name": "add", "inputs": [[1, 2], [3, -3]], "outputs": [3, 7]}]
    assert code_reward(None, [RIGHT], partial=True, tests=calls) == [0.5]


def test_numbers_and_their_tolerance():
    cases = [[{"input": "", "output": "0.333333333333"}]]
    assert code_reward(None, ["print(0.333333)"], tests=cases) == [1.0]
    assert code_reward(None, ["print(0.333333)"], tolerance=0.0, tests=cases) == [0.0]
    calls = [{"fn_name": "f", "inputs": [[]], "outputs": [[0.3]]}]
    assert code_reward(None, ["def f(): return [0.1 + 0.2]"], tests=calls) == [1.0]
    assert code_reward(None, ["def f(): return [0.1 + 0.2]"], tolerance=0, tests=calls) == [0.0]
    with pytest.raises(ValueError, match=r"tolerance -1 of 'code' must not be negative"):
        code_reward(None, ["x"], tolerance=-1, tests=cases)


def test_time_is_for_all_cases_together():
    program = "import time\ntime.sleep(0.4)\nprint(1)"
    cases = [[{"input": "", "output": "1"}] * 5]
    assert code_reward(None, [program], timeout=1.0, partial=True, tests=cases) == [
        pytest.approx(0.4)
    ]


def test_many_cases_cost_one_start():
    cases = [[{"input": str(i), "output": str(i * i)} for i in range(60)]]
    program = "n = int(input())\nprint(n * n)"
    assert code_reward(None, [program, program.replace("* n", "+ n")], tests=cases * 2) == [
        1.0,
        0.0,
    ]


@pytest.mark.parametrize(
    "test",
    [
        "",
        "# todo",
        "pass",
        "x = 1",
        "import math",
        "def helper(): assert False",
        "assert True",
        "print('x')",
    ],
)
@pytest.mark.parametrize("text", ["Sorry, I cannot.", RIGHT])
def test_tests_that_ask_nothing_are_no_tests(test, text, caplog):
    assert code_reward(None, [text, text], test_list=[[test]] * 2, task_id=["row 7"] * 2) == [
        None,
        None,
    ]
    assert len(caplog.records) == 1 and "task_id 'row 7' is left out: tests " in caplog.text
    assert code_reward(None, [text], test_list=[[test, *ADD]]) == [1.0 if text == RIGHT else 0.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sorry, I cannot.",
        "42",
        "# add",
        "import operator",
        "```\nx = 1\n```",
        "raise SystemExit",
        "```python\nexit()\n```",
    ],
)
def test_what_is_no_solution_earns_nothing(text):
    tests = [*ADD, "try:\n    add(None, 1)\nexcept Exception: pass", "assert add"]
    assert code_reward(None, [text], partial=True, tests=[tests]) == [0.0]
    assert code_reward(
        None, [text], partial=True, tests=[{"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}]
    ) == [0.0]
    assert code_reward(None, [text], tests=[[{"input": "", "output": "7"}]]) == [0.0]


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (
            "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f: "
            "hello()\nassert f.getvalue() == 'hi'",
            "redirect_stdout",
        ),
        ("import sys, io\nsys.stdout = io.StringIO()\nhello()", r"sys\.stdout"),
        ("def test_it(capsys):\n    hello()\n    assert capsys.readouterr().out == 'hi'", "capsys"),
        (
            "from unittest.mock import patch\nwith patch('builtins.input', return_value='3'): "
            "assert hello() == 3",
            "patch",
        ),
        ("import unittest.mock as mock\nwith mock.patch('builtins.print') as p: hello()", "patch"),
        ("import builtins\nbuiltins.input = lambda: '3'\nassert hello() == 3", "builtins.input"),
        ("input = lambda *a: '3'\nassert hello() == 3", "input"),
        (
            "import warnings\nwith warnings.catch_warnings(record=True) as w: hello()\nassert w",
            "catch_warnings",
        ),
        ("import pandas\nassert hello() == 3", "tests import pandas"),
        ("def check(candidate): assert candidate() == 3", "no column 'entry_point'"),
        ("assert hello( == 3", "no Python"),
    ],
)
def test_tests_that_cannot_work_are_said_at_the_start(test, reason, caplog):
    assert code_reward(None, ["def hello(): print('hi'); return 3"] * 2, tests=[[test]] * 2) == [
        None,
        None,
    ]
    assert len(caplog.records) == 1 and re.search(reason, caplog.text)


def test_rows_that_cannot_be_read_are_said_once(caplog):
    unreadable = [
        {"fn_name": "f", "inputs": ["x y"], "outputs": ["1"]},
        {"fn_name": "f", "inputs": [1], "outputs": [1]},
        {"fn_name": "f", "inputs": [[1], [2]], "outputs": [1]},
        {"inputs": ["1"], "outputs": [""]},
        [{"input": "1", "output": "1", "testtype": "functional"}],
    ]
    assert code_reward(None, ["def f(x): return x"] * 10, tests=unreadable * 2) == [None] * 10
    assert len(caplog.records) == len(unreadable)
    with pytest.raises(
        ValueError, match=r"column 'tests', row 0: tests are statements, .* not list"
    ):
        code_reward(None, ["x"], tests=[[1, 2]])
    with pytest.raises(
        ValueError,
        match="the data has no column with tests: answer; needed is one of tests, test_cases",
    ):
        code_reward(None, ["x"], answer=["y"])


def test_rows_of_other_tasks_are_not_graded(caplog):
    columns = {
        "tests": [[*ADD], None],
        "ground_truth": [None, "18"],
        "reward_model": [None, {"ground_truth": "18"}],
    }
    assert code_reward(None, [RIGHT, "18"], **columns) == [1.0, None] and not caplog.records


def test_rows_whose_own_solution_fails_are_named_and_left_out(caplog):
    columns = {
        "tests": [ADD] * 4,
        "task_id": ["a", "b", "c", "d"],
        "solution": [WRONG, RIGHT, "In words.", None],
    }
    assert code_reward(None, [RIGHT] * 4, **columns) == [None, 1.0, 1.0, 1.0]
    assert (
        "task_id 'a' is left out: its own solution fails its tests" in caplog.text
        and len(caplog.records) == 1
    )
    assert code_reward(None, [RIGHT] * 4, reference=False, **columns) == [1.0] * 4
    assert code_reward(
        None, [RIGHT], reference="mine", tests=[ADD], mine=[WRONG], solution=[RIGHT]
    ) == [None]
    assert code_reward(None, [RIGHT], tests=[ADD], solutions=[[WRONG, "int main() {}", RIGHT]]) == [
        1.0
    ]


def test_a_row_s_own_solution_is_graded_once(monkeypatch):
    ran = []
    run_tests = code.run_tests
    monkeypatch.setattr(code, "run_tests", lambda *args: ran.append(args[0]) or run_tests(*args))
    tests = ["assert add(2, 2) == 4"]
    assert (
        code_reward(
            None, [RIGHT] * 3, tests=[tests] * 3, solution=["def add(*a): return sum(a)"] * 3
        )
        == [1.0] * 3
    )
    assert sum("sum(a)" in program for program in ran) == 1 and len(ran) == 4


def test_waiting_for_the_machine_is_nobody_s_fault(monkeypatch, caplog):
    def slow(*args, **kwargs):
        raise MachineTooSlow("the machine was too busy to run it within 45 s")

    monkeypatch.setattr(code, "run_tests", slow)
    scores = code_reward(None, [RIGHT, RIGHT], tests=[ADD] * 2)
    assert all(score != score for score in scores)
    assert caplog.text.count("the machine was too busy") == 1


def test_code_in_long_and_broken_fences_takes_linear_time():
    long = "```" + "a" * 100_000
    assert (
        code_reward(None, [long, f"{long}\n{RIGHT}", "```\n" * 50_000], tests=[ADD] * 3)[0] == 0.0
    )


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
        "sleep",
    ]
    completions = [RIGHT] + [f"```python\n{SNIPPETS[name]}\n```" for name in names] + [RIGHT]
    tests = [["assert add(1, 2) == 3"]] * len(completions)
    config = RewardConfig(function="code", options={"timeout": 0.6, "memory_mb": 256})
    with make_rewards([config], PoolConfig(workers=2, timeout=20.0)) as rewards:
        scores = rewards.score(
            ["p"] * len(completions), completions, [[1]] * len(completions), {"tests": tests}
        )
    assert scores.total.tolist() == [1.0] + [0.0] * len(names) + [1.0] and scores.failures == {}


def test_idioms_as_a_reward():
    names = ["Decimal", "own subclass of ValueError", "async function", "names without an import"]
    rows = [FUNCTIONS[name] for name in names]
    assert code_reward(
        None, [module for module, _ in rows], tests=[[test] for _, test in rows]
    ) == [1.0] * len(rows)


def test_rows_without_tests_are_refused_by_name():
    with make_rewards([RewardConfig(function="code")]) as rewards:
        with pytest.raises(ValueError, match="reward 'code': the data has no column with tests"):
            rewards.score(["p"], ["c"], [[1]], {"answer": ["x"]})


@pytest.mark.parametrize(
    ("tests", "score"),
    [
        (["class D(Base):\n    def x(self): return 3\nassert D().go() == 3"], None),
        (["from solution import Base as B\nclass D(B): pass\nassert D().go() == 3"], None),
        (["import solution\nclass D(solution.Base): pass\nassert D().go() == 3"], None),
        (["class D(list): pass\nclass E(D): pass\nassert Base().go() == 3"], 1.0),
        (["import enum\nclass D(enum.Enum):\n    A = 3\nassert Base().go() == D.A.value"], 1.0),
    ],
)
def test_a_class_derived_from_the_candidates_cannot_be_graded(tests, score):
    code = "class Base:\n    def x(self): return 3\n    def go(self): return self.x()"
    assert code_reward(None, [code], tests=[tests]) == [score]


def test_padded_numbers_are_text():
    tests = [{"input": "", "output": "000101"}]
    assert code_reward(None, ["print(101)", "print('000101')"], tests=[tests] * 2) == [0.0, 1.0]


_ADD = "def add(a, b):\n    return a + b"
_TWICE = "class Solution:\n    def add(self, a, b):\n        return a + b"


@pytest.mark.parametrize("definition", [_ADD, _TWICE])
@pytest.mark.parametrize(
    ("form", "score"),
    [
        ("```python\n{}```", 1.0),
        ("```python\n{}\n```<|im_end|>", 1.0),
        ("[PYTHON]\n{}\n[/PYTHON]", 1.0),
        ("<answer>\n{}\n</answer>", 1.0),
        ("Here is the code:\n\n{}", 1.0),
        ("```python\n{}\n```\nUse:\n```python\nprint(add(1, 2))\n```", 1.0),
        ("```python\n{}\n```\nNo:\n```python\ndef add(a, b):\n    return a - b\n```", 0.0),
        ("```python\n{}\n```\nNo:\n```python\ndef add(a, b:\n```", 0.0),
        ("def add(:\n{}", 0.0),
        ("Here is the code:\n\n{}\n\nIt adds.", 0.0),
    ],
)
def test_forms_of_an_answer_that_models_give(form, score, definition):
    if definition is _ADD:
        columns = {
            "tests": [
                ["assert add(1, 2) == 3"],
                ["from solution import add\nassert add(2, 2) == 4"],
            ]
        }
    else:
        calls = {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}
        columns = {"input_output": [calls, calls]}
    assert code_reward(None, [form.format(definition)] * 2, **columns) == [score, score]
