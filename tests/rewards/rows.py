"""Rows in formats of public data sets, by hand: columns, a right completion, wrong ones."""

import base64
import json
import pickle
import zlib
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row and answers to it."""

    columns: dict[str, Any]
    right: str
    wrong: tuple[str, ...]
    prompt: Any = "Solve it."


def packed(cases: list[dict[str, Any]]) -> str:
    """Private test cases as LiveCodeBench keeps them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


SQUARES = "n = int(input())\nprint(*[i * i for i in range(1, n + 1)])\n"
SUM = "def total(numbers):\n    return sum(numbers)\n"
METHOD = (
    "class Solution:\n    def total(self, numbers: List[int]) -> int:\n"
    "        return sum(numbers)\n"
)
PAIR = "def swap(a, b):\n    return b, a\n"
MEAN = "def mean(x):\n    return sum(x) / len(x)\n"
HEAD = '''from typing import List


def twice(x: int) -> int:
    return 2 * x


def total(numbers: List[int]) -> int:
    """ Twice the sum.
    >>> total([1])
    2
    """
'''
HEAD_TEST = """
METADATA = {'author': 'x'}


def check(candidate):
    assert candidate([1, 2]) == twice(3)
    assert candidate([]) == 0
"""
PYTESTS = """
from solution import total

def test_small():
    assert total([1]) == 1

def test_large():
    assert total([1, 2]) == 3
"""
UNITTESTS = """
import unittest
class TestIt(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(total([1, 2]), 3)
        with self.assertRaises(TypeError):
            total(None)
"""

ROWS = {
    "APPS, function": Row(
        {
            "problem_id": 1,
            "input_output": json.dumps(
                {"fn_name": "total", "inputs": [[[1, 2]], [[]]], "outputs": [[3], [0]]}
            ),
            "solutions": json.dumps([METHOD]),
        },
        METHOD,
        (METHOD.replace("sum", "max"), SUM.replace("total", "other"), "The sum is 3."),
    ),
    "APPS, results that are lists and tuples": Row(
        {
            "input_output": json.dumps(
                {
                    "fn_name": "swap",
                    "inputs": [[1, "a"], [[], None]],
                    "outputs": [["a", 1], [[None, []]]],
                }
            )
        },
        PAIR,
        (PAIR.replace("b, a", "a, b"),),
    ),
    "APPS, whole numbers as keys": Row(
        {
            "input_output": json.dumps(
                {"fn_name": "inv", "inputs": [[{"1": 2}]], "outputs": [{"2": 1}]}
            )
        },
        "def inv(d): return {v: k for k, v in d.items()}",
        ("def inv(d): return d", "def inv(d): return {k: v + 1 for k, v in d.items()}"),
    ),
    "APPS, program": Row(
        {
            "input_output": json.dumps({"inputs": ["3\n", "1\n"], "outputs": ["1 4 9\n", "1\n"]}),
            "solutions": json.dumps(["print 1", SQUARES]),
        },
        SQUARES,
        (SQUARES.replace("i * i", "i + i"), "print(1)", "1 4 9"),
    ),
    "APPS, program with lines in lists": Row(
        {"input_output": json.dumps({"inputs": [["1 2", "3"]], "outputs": [["6", "ok"]]})},
        "import sys\nprint(sum(map(int, sys.stdin.read().split())))\nprint('ok')",
        ("print(6)",),
    ),
    "TACO": Row(
        {
            "input_output": json.dumps({"inputs": ["2 4\n"], "outputs": ["0.5\n"]}),
            "solutions": ["a, b = map(int, input().split())\nprint(a / b)"],
        },
        "a, b = map(int, input().split())\nprint('%.4f' % (a / b))",
        ("print(0.50001)", "print(0.5, 0)"),
    ),
    "PRIME/Eurus, function": Row(
        {
            "test_cases": json.dumps(
                {
                    "fn_name": "swap",
                    "inputs": ['1\n"a"', "[1]\n{}"],
                    "outputs": ['["a", 1]', "[{}, [1]]"],
                }
            )
        },
        PAIR,
        (PAIR.replace("b, a", "a, b"), "def swap(*a): return a"),
    ),
    "PRIME/Eurus, one argument of two digits": Row(
        {"test_cases": json.dumps({"fn_name": "f", "inputs": ["12"], "outputs": ["[13]"]})},
        "def f(n): return n + 1",
        ("def f(a, b=0): return 1", "def f(*a): return 3"),
    ),
    "PRIME/Eurus in verl's rows": Row(
        {
            "data_source": "taco",
            "ability": "code",
            "reward_model": {
                "style": "rule",
                "ground_truth": json.dumps({"inputs": ["3\n"], "outputs": ["1 4 9\n"]}),
            },
        },
        SQUARES,
        (SQUARES.replace("* i", "* 2"),),
    ),
    "PRIME/Eurus, asserts": Row(
        {"reward_model.ground_truth": json.dumps({"assert_case": ["assert total([1, 2]) == 3"]})},
        SUM,
        (SUM.replace("sum", "len"),),
    ),
    "LiveCodeBench, program": Row(
        {
            "question_id": "abc300_a",
            "public_test_cases": json.dumps(
                [{"input": "3\n", "output": "1 4 9\n", "testtype": "stdin"}]
            ),
            "private_test_cases": packed(
                [{"input": "4\n", "output": "1 4 9 16\n", "testtype": "stdin"}]
            ),
            "metadata": "{}",
        },
        SQUARES,
        ("input()\nprint('1 4 9')", SQUARES.replace("n + 1", "n")),
    ),
    "LiveCodeBench, function": Row(
        {
            "question_id": "2730",
            "starter_code": "class Solution:\n    def total(self, numbers: List[int]) -> int:\n"
            "        ",
            "public_test_cases": json.dumps(
                [{"input": "[1, 2]", "output": "3", "testtype": "functional"}]
            ),
            "private_test_cases": packed(
                [{"input": "[5, -5, 1]", "output": "1", "testtype": "functional"}]
            ),
            "metadata": json.dumps({"func_name": "total"}),
        },
        METHOD,
        (
            METHOD.replace("sum", "max"),
            METHOD.replace("return sum(numbers)", "return [sum(numbers)]"),
            METHOD.replace("sum(", "str("),
        ),
    ),
    "LiveCodeBench, private cases as JSON": Row(
        {
            "public_test_cases": [],
            "private_test_cases": json.dumps(
                [{"input": '[1]\n"x"', "output": '["x", [1]]', "testtype": "functional"}]
            ),
            "metadata": {"func_name": "swap"},
        },
        PAIR,
        (PAIR.replace("b, a", "a, b"),),
    ),
    "MBPP": Row(
        {
            "task_id": 11,
            "text": "Sum.",
            "code": SUM,
            "test_setup_code": "ONE = 1",
            "test_list": ["assert total([ONE, 2]) == 3", "assert total((0.1, 0.2)) > 0"],
            "challenge_test_list": [],
        },
        SUM,
        (SUM.replace("sum", "max"), "def total(x): return 3 if len(x) == 2 and x[0] == 1 else 0"),
    ),
    "MBPP, sanitized": Row(
        {
            "task_id": 12,
            "code": MEAN,
            "test_imports": ["import math"],
            "test_list": ["assert math.isclose(mean([1, 2]), 1.5, rel_tol=1e-3)"],
        },
        MEAN,
        (
            MEAN.replace("sum", "max"),
            "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef mean(x): return 7",
        ),
    ),
    "MBPP, name of a built-in": Row(
        {
            "task_id": 126,
            "code": "def sum(a, b):\n    return a + b",
            "test_list": ["assert sum(10, 15) == 25", "assert sum(1, 1) == 2"],
        },
        "def sum(a, b):\n    return a + b",
        ("def sum(a, b):\n    return 25", "x = 1"),
    ),
    "HumanEval, continued": Row(
        {
            "task_id": "HumanEval/1",
            "entry_point": "total",
            "test": HEAD_TEST,
            "canonical_solution": "    return twice(sum(numbers))\n",
        },
        "    return 2 * sum(numbers)\n",
        ("    return sum(numbers)\n", "    pass\n", ""),
        HEAD,
    ),
    "HumanEval, whole": Row(
        {
            "task_id": "HumanEval/1",
            "entry_point": "total",
            "test": HEAD_TEST,
            "canonical_solution": "    return twice(sum(numbers))\n",
        },
        "```python\ndef total(numbers):\n    return twice(sum(numbers))\n```",
        (
            "```python\ndef total(numbers):\n    return sum(numbers)\n```",
            "```python\ndef twice(x): return 0\n```",
        ),
        [{"role": "user", "content": f"Complete this.\n```python\n{HEAD}```"}],
    ),
    "CodeContests": Row(
        {
            "name": "1_A. Squares",
            "public_tests": {"input": ["3\n"], "output": ["1 4 9\n"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["2\n", "1\n"], "output": ["1 4\n", "1\n"]},
            "solutions": {"language": [2, 1, 3], "solution": ["int main() {}", "print 1", SQUARES]},
        },
        SQUARES,
        ("input()\nprint('1 4 9')", SQUARES.replace("i * i", "i")),
    ),
    "verification_info": Row(
        {
            "verification_info": json.dumps(
                {
                    "language": "python",
                    "test_cases": [
                        {
                            "fn_name": "swap",
                            "input": [1, 2],
                            "output": [[2, 1]],
                            "type": "function_call",
                        }
                    ],
                }
            ),
            "gold_standard_solution": f"```python\n{PAIR}```",
        },
        PAIR,
        (PAIR.replace("b, a", "a, b"),),
    ),
    "DeepCoder": Row(
        {
            "tests": json.dumps(
                [
                    {
                        "input": "[1, 2]",
                        "output": "3",
                        "testtype": "functional",
                        "metadata": {"func_name": "total"},
                    }
                ]
            )
        },
        METHOD,
        (METHOD.replace("sum", "max"),),
    ),
    "KodCode": Row(
        {
            "question_id": "k1",
            "test": PYTESTS,
            "solution": SUM,
        },
        SUM,
        (SUM.replace("sum", "min"), SUM.replace("total", "other")),
    ),
    "unittest": Row(
        {
            "test": UNITTESTS,
        },
        SUM,
        (SUM.replace("sum", "len"), "def total(x): return 3"),
    ),
}
