"""A row's own solutions, and the program that a completion makes."""

import json

import pytest

from rlhf_jax.rewards.references import name_of, program_of, references_of

HEAD = "import math\n\ndef helper(): return 1\n\ndef f(x):\n    '''Says so.'''\n"


@pytest.mark.parametrize(
    ("completion", "prompt", "entry", "program"),
    [
        ("def f(x): return 1", HEAD, "", "def f(x): return 1"),
        ("def f(x): return 1", "Write f.", "f", "def f(x): return 1"),
        ("    return x\n", HEAD, "f", f"{HEAD}    return x\n"),
        ("return x\n", HEAD, "f", f"{HEAD}    return x\n"),
        ("```python\nreturn x\n```", HEAD, "f", f"{HEAD}    return x\n"),
        ("def f(x): return 1", HEAD, "f", f"{HEAD}\n\ndef f(x): return 1"),
        (
            "```\ndef f(x): return 1\n```",
            [{"role": "user", "content": f"Do:\n```\n{HEAD}```"}],
            "f",
            f"{HEAD}\n\ndef f(x): return 1\n",
        ),
        (
            "from __future__ import annotations\ndef f(x): return 1",
            HEAD,
            "f",
            "from __future__ import annotations\ndef f(x): return 1",
        ),
        ("I cannot do that.", HEAD, "f", "I cannot do that."),
    ],
)
def test_programs(completion, prompt, entry, program):
    assert program_of(completion, prompt, entry) == program
    assert program_of(f"{completion}<|im_end|>", prompt, entry).rstrip() == program.rstrip()


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"solution": "x = 1"}, ["x = 1"]),
        ({"solutions": json.dumps(["x = 1", "y = 2"])}, ["x = 1", "y = 2"]),
        (
            {"solutions": {"language": [1, 2, 3], "solution": ["print 1", "int x;", "x = 1"]}},
            ["x = 1"],
        ),
        (
            {
                "solutions": [
                    {"language": "python", "code": "x = 1"},
                    {"language": "cpp", "code": "x"},
                ]
            },
            ["x = 1"],
        ),
        ({"canonical_solution": "    return 1\n"}, ["    return 1\n"]),
        ({"solution": "The answer is 3."}, []),
        ({"solution": "```python\nx = 1\n```"}, ["```python\nx = 1\n```"]),
        ({"solution": None, "code": "[1, 2"}, []),
        ({"answer": "x = 1"}, []),
    ],
)
def test_references(row, found):
    assert references_of(row, None) == found


def test_names_of_rows():
    assert references_of({"mine": "x = 1", "solution": "y = 1"}, "mine") == ["x = 1"]
    assert name_of({"task_id": 11, "id": "b"}) == "task_id 11" and name_of({}).startswith(
        "a row without a name"
    )
