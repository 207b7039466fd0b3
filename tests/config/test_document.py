"""YAML text to trees and back."""

import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.config.document import (
    Plain,
    parse_document,
    parse_value,
    read_scalar,
    render,
    settled,
)
from rlhf_jax.config.errors import ConfigError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
TREES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc_.:- 1", min_size=1), inner),
        max_leaves=8,
    ),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("3", 3),
        ("-1_000", -1000),
        ("010", 10),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("no", "no"),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("1-2", "1-2"),
        ("infinity", "infinity"),
        ("\u0661\u0662", "\u0661\u0662"),
        ("0x10", "0x10"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    reading = read_scalar(text)
    assert reading == Plain(text, value)
    assert type(reading.value) is type(value)


def test_nan_is_read():
    assert math.isnan(read_scalar(".nan").value)


@given(TREES)
@settings(max_examples=150, deadline=None)
def test_render_reads_back_equal(tree):
    assert settled(parse_document(render(tree), "x").tree) == tree


def test_quoted_scalars_stay_text_and_lines_are_known():
    document = parse_document('a:\n  b: "1"\n  c: [1, two]\n', "x.yaml")
    assert document.tree == {"a": {"b": "1", "c": [Plain("1", 1), Plain("two", "two")]}}
    assert document.lines == {"a": 1, "a.b": 2, "a.c": 3}


def test_anchors_are_expanded():
    document = parse_document("a: &x {k: 1}\nb: *x\n", "x")
    assert settled(document.tree) == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.lines == {"a": 1, "a.k": 1, "b": 2, "b.k": 1}
    assert document.tree["a"] is not document.tree["b"], "an override of one is none of the other"


def test_empty_document_is_an_empty_mapping():
    assert parse_document("# nothing\n", "x").tree == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml: line 3: 'a' is given twice (first on line 1); keep one"),
        (
            "s:\n  a: 1\n  a: 2\n",
            "x.yaml: line 3: 's.a' is given twice (first on line 2); keep one",
        ),
        (
            "- 1\n- 2\n",
            "x.yaml: the top level must be a mapping of sections (key: value), not a sequence",
        ),
        (
            "just text",
            "x.yaml: the top level must be a mapping of sections (key: value), not a scalar",
        ),
        ("a: [1, 2\nb: 3\n", "x.yaml: not valid YAML: line 2: "),
        ("a: &x [*x]\n", "x.yaml: line 1: an alias refers to a value that contains it"),
        ("[1, 2]: 3\n", "x.yaml: line 1: a key must be plain text, not a sequence"),
        ("a: 1\n\tb: 2\n", "x.yaml: not valid YAML: line 2: "),
        ("a: \x00\n", "x.yaml: not valid YAML: "),
    ],
)
def test_mistakes_are_one_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse_document(text, "x.yaml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("runs/a: b #c", "runs/a: b #c"),
        ("@x", "@x"),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{a: 1, b: [c]}", {"a": 1, "b": ["c"]}),
        ('"1"', "1"),
        ("'it''s'", "it's"),
        ("5", 5),
    ],
)
def test_override_values(text, value):
    assert settled(parse_value(text, "override")) == value


def test_broken_override_value():
    with pytest.raises(ConfigError, match=r"override 'a=\[1': not valid YAML"):
        parse_value("[1", "override 'a=[1'")


def _aliases(levels: int, width: int, opening: str = "[", closing: str = "]") -> str:
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {opening}{inner}{closing}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_aliases(30, 8), "more than 100,000 values once its aliases are written out"),
        (_aliases(9, 9), "more than 100,000 values once its aliases are written out"),
        (_aliases(60, 1, "[" * 10, "]" * 10), "nested more than 50 deep"),
        ("a: " + "[" * 20_000 + "]" * 20_000, "nested more than 50 deep"),
        ("a: " + "{b: " * 20_000 + "}" * 20_000, "nested more than 50 deep"),
        (
            "\n".join(" " * depth + "a:" for depth in range(2000)),
            "x.yaml: line 51: nested more than 50 deep",
        ),
    ],
    ids=["aliases", "just too many", "deep through aliases", "brackets", "braces", "indentation"],
)
def test_hostile_sizes_are_refused_in_one_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse_document(text, "x.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_ordinary_aliases_and_nesting_are_read():
    text = _aliases(4, 3) + "\nb: " + "[" * 40 + "]" * 40
    assert settled(parse_document(text, "x").tree)["a2"] == [[["x"]] * 3] * 3


def test_a_number_of_thousands_of_digits_is_a_float():
    assert read_scalar("9" * 5000).value == math.inf
    assert read_scalar("9" * 4000).value == 10**4000 - 1


def test_values_of_other_libraries_are_written():
    tree = {"rate": np.float64(1e-5), "path": pathlib.Path("a/b"), 3: (1, 2), "none": {}}
    text = render(tree)
    assert text == 'rate: 1.0e-05\npath: a/b\n"3": [1, 2]\nnone: {}\n'
    assert settled(parse_document(text, "x").tree) == {
        "rate": 1e-5,
        "path": "a/b",
        "3": [1, 2],
        "none": {},
    }
