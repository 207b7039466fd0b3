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
            "```python\ndef f():\n    '''Example:\n    ```\n    f()\n    ```\n    '''\n    return 1\n```\nDone.",
            "def f():\n    '''Example:\n    ```\n    f()\n    ```\n    '''\n    return 1\n",
        ),
        (
            "```python\ndef f():\n    '''\n```python\nf()\n```\n'''\n    return 1\n```\nand\n```\n1\n```",
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
    ],
)
def test_code_of(text, code):
    assert code_of(text) == code


@pytest.mark.parametrize(
    "unit",
    [
        "`",
        "```",
        "```" + "a" * 1000,
        "```\n",
        "``` ```",
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
    text = unit * (400_000 // len(unit))
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
    assert defines(code, "g") and defines(code, "I().j") and not defines(code, "h") and not defines("def g(:", "g")
    assert parsed("\x00") is None and parsed("(" * 10_000) is None
