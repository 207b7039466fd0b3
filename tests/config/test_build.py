"""The strict builder, on dataclasses of this test."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from rlhf_jax.config.build import Context, build
from rlhf_jax.config.document import parse_document
from rlhf_jax.config.errors import ConfigError, nearest
from rlhf_jax.fields import FieldDoc, describe_section


@dataclass(frozen=True)
class Reward:
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Sampling:
    """How to sample."""

    temperature: float = 1.0
    """softmax temperature; 0 is
    greedy."""
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative")


@dataclass(frozen=True)
class Section:
    """A section."""

    kind: ClassVar[str] = "test"
    size: int = 8
    """rows per step"""
    rate: float = 1e-3
    """Step
    size."""
    flag: bool = False
    mode: Literal["auto", "scan"] = "auto"
    name: str | None = None
    buckets: tuple[int, ...] = (8, 16)
    names: list[str] = field(default_factory=list)
    extra: dict[str, Any] | None = None
    either: int | str = 0
    sampling: Sampling = Sampling()
    maybe: Sampling | None = None
    rewards: tuple[Reward, ...] = ()
    pair: tuple[float, int] = (0.0, 1)


@dataclass(frozen=True)
class Top:
    path: str
    section: Section = Section()


def read(text: str) -> Top:
    parsed = parse_document(text, "x.yaml")
    return build(
        Top,
        parsed.tree,
        context=Context({key: f"x.yaml line {line}" for key, line in parsed.lines.items()}),
    )


def test_values_are_typed_by_their_fields():
    top = read(
        "path: 2024\n"
        "section: {size: 1e3, rate: 1e-5, flag: true, mode: scan, name: true, buckets: [1, 2], "
        "names: [1, on], either: 5,\n"
        "  extra: {a: 1e-3, b: [x, {c: null}], 1: on}, sampling: {temperature: 0}, maybe: {top_p: "
        "1},\n"
        "  rewards: [{name: a}, {name: b, weight: 2}], pair: [1, 2]}\n"
    )
    assert top.path == "2024"
    section = top.section
    assert (section.size, type(section.size)) == (1000, int)
    assert section.rate == 1e-5
    assert section.flag is True
    assert (section.mode, section.name, section.either) == ("scan", "true", 5)
    assert section.buckets == (1, 2)
    assert section.names == ["1", "on"]
    assert section.extra == {"a": 1e-3, "b": ["x", {"c": None}], "1": "on"}
    assert section.sampling == Sampling(temperature=0)
    assert section.maybe == Sampling(top_p=1.0)
    assert section.rewards == (Reward("a"), Reward("b", 2.0))
    assert section.pair == (1.0, 2)


@dataclass(frozen=True)
class Choices:
    number_or_word: int | Literal["auto", "1e2"] = 0
    rate_or_text: float | str = 0.0
    switch_or_text: bool | str = False
    many: dict[str, Sampling] = field(default_factory=dict)
    section_or_text: Sampling | str = "x"
    anything: Any = None


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("number_or_word: 1e3", 1000),
        ("number_or_word: 1e2", "1e2"),
        ("rate_or_text: 3", 3.0),
        ("rate_or_text: no", "no"),
        ("switch_or_text: true", True),
        ("switch_or_text: 1", "1"),
        ("many: {a: {temperature: 2}, b: null}", {"a": Sampling(2.0), "b": Sampling()}),
        ("section_or_text: {top_p: 1}", Sampling(top_p=1.0)),
        ("section_or_text: 010", "010"),
        ("anything: [010, x, {a: 1e3}]", [10, "x", {"a": 1000.0}]),
    ],
)
def test_a_scalar_is_read_as_one_of_several_types(line, value):
    name = line.partition(":")[0]
    read_value = getattr(build(Choices, parse_document(line, "x").tree), name)
    assert read_value == value and type(read_value) is type(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("section_or_text: null", "section_or_text: 'null' is not allowed; allowed: "),
        ("many: {a: {top: 1}}", "many.a.top: unknown key; allowed in many.a: temperature, top_p"),
        ("many: {a: {top_p: x}}", "many.a.top_p: 'x' is not allowed; allowed: a number or null"),
        ("many: {a: {temperature: -1}}", "many.a.temperature: temperature=-1.0 must not be neg"),
    ],
)
def test_mistakes_inside_them_are_named(line, message):
    with pytest.raises(ConfigError) as error:
        build(Choices, parse_document(line, "x").tree)
    assert str(error.value).startswith(message)


def test_null_sections_and_infinite_numbers():
    section = read(
        "path: x\nsection: {maybe: null, sampling: null, rate: .inf, name: null}\n"
    ).section
    assert section == Section(rate=math.inf)


TOP = "unknown key; allowed at the top level: path, section; did you mean"
SAMPLING = "unknown key; allowed in section.sampling: temperature, top_p; did you mean"
WHOLE_NUMBERS = "is not allowed; allowed: a list (a whole number each)"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sektion: {}", f"sektion: {TOP} 'section'?"),
        ("size: 3", f"size: {TOP} 'section.size'?"),
        (
            "section: {sampling: {temprature: 1}}",
            f"section.sampling.temprature: {SAMPLING} 'section.sampling.temperature'?",
        ),
        ("section: {size: many}", "section.size: 'many' is not allowed; allowed: a whole number"),
        ("section: {size: 1.5}", "section.size: '1.5' is not allowed; allowed: a whole number"),
        ("section: {size: true}", "section.size: 'true' is not allowed; allowed: a whole number"),
        ("section: {size: null}", "section.size: 'null' is not allowed; allowed: a whole number"),
        ("section: {rate: yes}", "section.rate: 'yes' is not allowed; allowed: a number"),
        ("section: {rate: '1'}", "section.rate: '1' is not allowed; allowed: a number"),
        ("section: {flag: 1}", "section.flag: '1' is not allowed; allowed: true or false"),
        (
            "section: {mode: scna}",
            "section.mode: 'scna' is not allowed; allowed: one of: auto, scan; did you mean "
            "'scan'?",
        ),
        ("section: {buckets: 3}", f"section.buckets: '3' {WHOLE_NUMBERS}"),
        ("section: {buckets: [1, b]}", f"section.buckets: [1, 'b'] {WHOLE_NUMBERS}"),
        (
            "section: {pair: [1]}",
            "section.pair: [1] is not allowed; allowed: a list of a number, a whole number",
        ),
        (
            "section: {rewards: [{nam: a}]}",
            "section.rewards[0].nam: unknown key; allowed in section.rewards[0]: name, weight",
        ),
        (
            "section: {rewards: a}",
            "section.rewards: 'a' is not allowed; allowed: a list (a mapping with name, weight "
            "each)",
        ),
        ("section: 3", "section: '3' is not a section; allowed: a mapping with size, rate, "),
        (
            "section: {sampling: {temperature: -1}}",
            "section.sampling.temperature: temperature=-1.0 must not be negative",
        ),
    ],
)
def test_mistakes_are_one_line_with_key_value_and_place(line, message):
    with pytest.raises(ConfigError) as error:
        read(f"path: x\n{line}")
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(" (x.yaml line 2)")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("section: {}", "path: required and not given; allowed: text"),
        ("path: [a]", "path: ['a'] is not allowed; allowed: text (x.yaml line 1)"),
        ("path:", "path: '' is not allowed; allowed: text (x.yaml line 1)"),
    ],
)
def test_required_text(text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value) == message


def test_nearest_knows_the_last_part():
    assert nearest("beta", ["algorithm.beta", "data.path"]) == "algorithm.beta"
    assert nearest("zzzz", ["algorithm.beta", "data.path"]) is None
    assert nearest("x", []) is None


def test_documentation_comes_from_the_class():
    rows = {row.key: row for row in describe_section(Section, "section.")}
    assert rows["section.size"] == FieldDoc("section.size", "a whole number", "8", "rows per step")
    assert rows["section.rate"] == FieldDoc("section.rate", "a number", "0.001", "Step size.")
    assert rows["section.sampling.temperature"].doc == "softmax temperature; 0 is greedy."
    assert rows["section.name"].type == "text or null"
    assert rows["section.buckets"].default == "[8, 16]"
    assert rows["section.names"].default == "[]"
    assert rows["section.flag"].default == "false"
    assert describe_section(Top)[0] == FieldDoc("path", "text", "(required)", "")
    assert "section.kind" not in rows
