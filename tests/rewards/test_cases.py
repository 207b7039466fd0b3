"""Rows into tests."""

import base64
import json
import pickle
import zlib

import pytest

from rlhf_jax.rewards import cases as module
from rlhf_jax.rewards.cases import Call, Case, check_present
from rlhf_jax.rewards.statements import NotGradable
from tests.rewards.rows import packed


def checks_of(row):
    return module.checks_of({name: [value] for name, value in row.items()}, 0)


@pytest.mark.parametrize(
    ("row", "setup", "statements", "entry"),
    [
        ({"tests": ["assert f(1)"]}, "", ("assert f(1)",), ""),
        (
            {"test_list": ["assert f(1)"], "test_setup_code": "import re"},
            "import re",
            ("assert f(1)",),
            "",
        ),
        (
            {"test_list": ["assert f(1)"], "test_imports": ["import re", "import os"]},
            "import re\nimport os",
            ("assert f(1)",),
            "",
        ),
        (
            {"test_cases": json.dumps(["assert f(1)", "", "assert f(2)"])},
            "",
            ("assert f(1)", "assert f(2)"),
            "",
        ),
        (
            {"test": "def check(f): assert f(1)", "entry_point": "g"},
            "",
            ("def check(f): assert f(1)\ncheck(g)\n",),
            "g",
        ),
        (
            {"test": "def check(c): assert c(1)", "entry_point": "Solution().g"},
            "",
            ("def check(c): assert c(1)\ncheck(Solution().g)\n",),
            "Solution().g",
        ),
        ({"tests": "[f(x) for x in y]"}, "", ("[f(x) for x in y]",), ""),
        ({"tests": ["assert sum(1, 2) == 3"]}, "", ("assert sum(1, 2) == 3",), "sum"),
        ({"tests": ["x = f(1)\nassert abs(x) == 3"]}, "", ("x = f(1)\nassert abs(x) == 3",), ""),
        ({"test_cases": {"assert_case": ["assert f(1)"]}}, "", ("assert f(1)",), ""),
        ({"tests": None, "test_list": ["assert f(1)"]}, "", ("assert f(1)",), ""),
    ],
)
def test_statements(row, setup, statements, entry):
    checks = checks_of(row)
    assert (checks.setup, checks.statements, checks.entry, checks.total) == (
        setup,
        statements,
        entry,
        len(statements),
    )


@pytest.mark.parametrize(
    ("row", "cases"),
    [
        ({"tests": [{"input": "1", "output": 2}]}, (Case("1", "2"),)),
        (
            {"tests": {"inputs": ["1\n", ["2", "3"]], "outputs": ["x", "y"]}},
            (Case("1\n", "x"), Case("2\n3", "y")),
        ),
        (
            {"input_output": json.dumps({"inputs": ["1"], "outputs": ["2"], "fn_name": None})},
            (Case("1", "2"),),
        ),
        (
            {
                "tests": [{"input": "1", "output": "2", "type": "stdin_stdout"}],
                "metadata": '{"func_name": "f"}',
            },
            (Case("1", "2"),),
        ),
        ({"official_tests": [{"input": "1", "output": "2"}]}, (Case("1", "2"),)),
        (
            {
                "public_tests": {"input": ["1"], "output": ["2"]},
                "private_tests": None,
                "generated_tests": [{"input": "3", "output": "4"}],
            },
            (Case("1", "2"), Case("3", "4")),
        ),
    ],
)
def test_programs(row, cases):
    assert checks_of(row).cases == cases


@pytest.mark.parametrize(
    ("value", "call"),
    [
        ({"fn_name": "f", "inputs": [[1, "a"]], "outputs": [[2]]}, Call(([1, "a"], {}), [2], True)),
        (
            {"fn_name": "f", "inputs": ['1\n"a"'], "outputs": ["[2]"]},
            Call(([1, "a"], {}), [2], True),
        ),
        ({"fn_name": "f", "inputs": [""], "outputs": ["2"]}, Call(([], {}), 2, True)),
        ({"fn_name": "f", "inputs": [["1"]], "outputs": ["2"]}, Call((["1"], {}), "2", True)),
        ({"fn_name": "f", "inputs": [{"x": 1}], "outputs": [2]}, Call(([], {"x": 1}), 2, True)),
        (
            {"fn_name": "f", "inputs": [[{"1": 2}, {"1": 2}]], "outputs": [{"1": 2}]},
            Call(([{1: 2}, {"1": 2}], {}), {"1": 2}, True),
        ),
        (
            [
                {
                    "testtype": "functional",
                    "input": "1",
                    "output": "[2]",
                    "metadata": {"func_name": "f"},
                }
            ],
            Call(([1], {}), [2], False),
        ),
        (
            [{"type": "function_call", "fn_name": "f", "input": [1], "output": [2]}],
            Call(([1], {}), [2], True),
        ),
    ],
)
def test_functions(value, call):
    for form in (value, json.dumps(value)):
        checks = checks_of({"tests": form})
        assert checks.function == "f" and checks.calls == (call,) and checks.total == 1


def test_packed_cases_are_read_and_never_unpickled(tmp_path):
    cases = [{"input": "1", "output": "2", "testtype": "stdin"}]
    row = {"public_test_cases": [], "private_test_cases": packed(cases)}
    assert checks_of(row).cases == (Case("1", "2"),)
    for protocol in range(6):
        text = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases), protocol))).decode()
        assert checks_of({"private_test_cases": text}).cases == (Case("1", "2"),)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    for evil in (Evil(), [Evil(), json.dumps(cases)], [json.dumps(cases)], b"bytes"):
        row["private_test_cases"] = base64.b64encode(zlib.compress(pickle.dumps(evil))).decode()
        with pytest.raises(NotGradable, match="packed tests hold more than"):
            checks_of(row)
    assert not list(tmp_path.iterdir())
    for broken in (packed(cases)[:-8], base64.b64encode(zlib.compress(b"\x80\x05X")).decode()):
        row["private_test_cases"] = broken
        with pytest.raises((NotGradable, TypeError), match="packed tests are damaged|no inputs"):
            checks_of(row)


def test_packed_cases_have_a_largest_size(monkeypatch):
    monkeypatch.setattr("rlhf_jax.rewards.cases._LARGEST", 1000)
    with pytest.raises(NotGradable, match="damaged, or larger than"):
        checks_of({"private_test_cases": packed([{"input": "1" * 2000, "output": "2"}])})


@pytest.mark.parametrize(
    "row",
    [
        {"tests": None},
        {"tests": []},
        {"tests": "[]"},
        {"tests": {"inputs": [], "outputs": []}},
        {"ground_truth": "18"},
        {"ground_truth": "[1, 2]"},
        {"reward_model": {"ground_truth": "x"}},
        {"answer": "x"},
    ],
)
def test_rows_without_tests(row):
    assert checks_of({"tests": None, **row}) is None


def test_columns_that_may_hold_tests():
    check_present({"answer": ["x"], "reward_model": [{}]})
    with pytest.raises(
        ValueError,
        match="the data has no column with tests: answer; needed is one of tests, test_cases",
    ):
        check_present({"answer": ["x"]})
    with pytest.raises(
        ValueError, match=r"column 'tests', row 0: tests are statements, .* not list"
    ):
        checks_of({"tests": [1, 2]})
