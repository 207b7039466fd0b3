"""Where the code in a completion is."""

import time

import pytest

from rlhf_jax.rewards.blocks import bound_names, code_of, defines, parsed


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("a\n```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nthen\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nprints\n```\n1\n```", "x = 1\n"),
        ("```Python title='a.py'\nx = 1\n```", "x = 1\n"),
        ("```{python}\nx = 1\n```", "x = 1\n"),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1", "x = 1"),
        ("Here it is:\n```\ndef f():\n    return 1\n", "def f():\n    return 1\n"),
        ("```python\ndef f(:\n", "```python\ndef f(:\n"),
        ("```python\nx = 1\n```\nUse:\n```python\ny = 2", "x = 1\n"),
        ("```\n1 2\n```\n```python\ny = 2", "y = 2"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("~~~\nx = '''\n```\n'''\n~~~\n", "x = '''\n```\n'''\n"),
        ("\ufeff```python\nx = 1\n```", "x = 1\n"),
        ("\ufeffx = 1", "x = 1"),
        (
            "```python\ndef f():\n    '''Example:\n    ```\n    f()\n    ```\n    '''\n    return "
            "1\n```\nDone.",
            "def f():\n    '''Example:\n    ```\n    f()\n    ```\n    '''\n    return 1\n",
        ),
        (
            "```python\ndef f():\n    '''\n```python\nf()\n```\n'''\n    return "
            "1\n```\nand\n```\n1\n```",
            "def f():\n    '''\n```python\nf()\n```\n'''\n    return 1\n",
        ),
        ("```python\ndef f(:\n```\nBetter:\n```python\nx = 2\n```", "x = 2\n"),
        (
            "1. First:\n   ```python\n   def f():\n       return 1\n   ```\n",
            "def f():\n    return 1\n",
        ),
        ("- a\n\t```\n\tif x:\n\t\ty\n\t```", "if x:\n\ty\n"),
        ("```python\ns = '''\n   \n'''\n```", "s = '''\n   \n'''\n"),
        ("Use ```x``` inline.\n```x```\n```\ny\n```", "y\n"),
        ("````python\nx = 1\n````", "x = 1\n"),
        ([{"role": "assistant", "content": "x = 1"}], "x = 1"),
        ("```python\ndef f():\n    return 1```", "def f():\n    return 1\n"),
        ("```python\nx = 1``` \nThat is all.", "x = 1\n"),
        ("```\nx = 1```<|im_end|>\nmore", "x = 1\n"),
        ("```python\nx = 1```\nThen:\n```python\ny = 2\n```", "y = 2\n"),
        ("```python\nx = 1```\nIt prints:\n```\n1 2\n```", "x = 1\n"),
        ("```python\ns = '''a```\n'''\n```", "s = '''a```\n'''\n"),
        ("```python\nx = (```", "```python\nx = (```"),
        ("```python\nx = 1\n```<|im_end|>", "x = 1\n"),
        ("```python\nx = 1\n``` </s>\n", "x = 1\n"),
        ("```python\nx = 1\n```<｜end▁of▁sentence｜>", "x = 1\n"),
        ("```python\nx = 1\n```<|im_end|>\n<|im_start|>user", "x = 1\n"),
        ("```python\nx = 1\n```</answer><|eot_id|>", "x = 1\n"),
        ("x = 1\n<|im_end|>\n", "x = 1\n"),
        ("s = '<|im_end|>'\n", "s = '<|im_end|>'\n"),
        ("[PYTHON]\nx = 1\n[/PYTHON]", "x = 1"),
        ("Sure.\n[PYTHON]\nx = 1\n[/PYTHON]\n[TESTS]", "x = 1"),
        ("[PYTHON]\nx = 1", "x = 1"),
        ("I add.\n<answer>\ndef f():\n    return 1\n</answer><|im_end|>", "def f():\n    return 1"),
        ("<answer>\n```python\nx = 1\n```\n</answer>", "x = 1\n"),
        ("s = '<answer>1</answer>'", "s = '<answer>1</answer>'"),
        ("<answer>\nthe sum is odd\n</answer>", "<answer>\nthe sum is odd\n</answer>"),
        ("Here is the code:\n\ndef f():\n    return 1\n", "\ndef f():\n    return 1\n"),
        ("Here's the `f` function (in Python):\nx = 1", "x = 1"),
        ("Sure! This prints it.\nprint(1)", "print(1)"),
        ("Sure!\n\nHere is the code:\n\nx = 1", "\nx = 1"),
        ("**Solution:**\n\nx = 1", "\nx = 1"),
        ("here is the code:\nx = 1", "x = 1"),
        ("Here is the code: ```python\nx = 1\n```", "x = 1\n"),
        ("<answer>```python\nx = 1\n```</answer>", "x = 1\n"),
        ("```python\n'''In ```python\n```'''\nx = 1\n```", "'''In ```python\n```'''\nx = 1\n"),
        ("I write it in ```python\n```python\nx = 1\n```", "x = 1\n"),
        ("else:\nx = 1", "else:\nx = 1"),
        ("while x:\nx = 1", "while x:\nx = 1"),
        ("print x.\nx = 1", "print x.\nx = 1"),
        ("def f(:\nx = 1", "def f(:\nx = 1"),
        ("Foo(x:\nx = 1", "Foo(x:\nx = 1"),
        ("x = (1:\nx = 1", "x = (1:\nx = 1"),
        ("The answer is:\n42", "The answer is:\n42"),
        ("The code is:\nx = 1\nIt is simple.", "The code is:\nx = 1\nIt is simple."),
        ("The code is:\n    x = 1", "The code is:\n    x = 1"),
    ],
)
def test_code_of(text, code):
    assert code_of(text) == code


_F = "def f(a):\n    return a\n"


@pytest.mark.parametrize(
    ("last", "is_example"),
    [
        ("print(f(1))\n", True),
        (">>> f(1)\n1\n", True),
        ("def test_f():\n    assert f(1) == 1\n", True),
        ("def f(a):\n    return -a\n", False),
        ("f = abs\n", False),
        ("def f(a:\n", False),
        ("The result is 1\n", False),
    ],
)
@pytest.mark.parametrize("mark", ["python", ""])
def test_a_last_block_that_is_an_example_of_the_one_that_the_tests_call(last, is_example, mark):
    text = f"```{mark}\n{_F}```\nUse:\n```{mark}\n{last}```\n"
    assert code_of(text, wanted={"f"}) == (_F if is_example else last)
    assert code_of(text) == code_of(text, wanted={"g"}) == last


@pytest.mark.parametrize(
    "unit",
    [
        "`",
        "```",
        "```" + "a" * 1000,
        "```\n",
        "``` ```",
        "a```",
        "a```\n",
        "<|a|>",
        "\n<|a|> ",
        "</answer>\n",
        "<answer>",
        "A (b) c. ",
        "Aa bb.\n",
        "a ```python\n",
        "a ``",
        " ```python\n",
        "\n",
        "<think></think>",
        "```a\n``",
        "```python\nf(\n```\n",
        "```python\nx\n```\n",
        "~~~\n",
    ],
)
def test_linear_time(unit):
    text = unit * (200_000 // len(unit))  # what is not linear takes minutes
    start = time.process_time()
    code_of(text)
    assert time.process_time() - start < 1.0


def test_names_that_are_bound():
    code = """
import a.b, c as d
from e import f
if x:
    def g(): h = 1
else:
    class I: j = 1
for k in l: m = (n := 1)
with o as p: pass
"""
    assert bound_names(parsed(code).body) == {"a", "d", "f", "g", "I", "k", "m", "n", "p"}
    assert (
        defines(code, "g")
        and defines(code, "I().j")
        and not defines(code, "h")
        and not defines("def g(:", "g")
    )
    assert parsed("\x00") is None and parsed("(" * 10_000) is None
