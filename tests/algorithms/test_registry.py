"""Algorithms by name, by class and by file; what a registration must say."""

import dataclasses

import pytest

from rlhf_jax.algorithms import ALGORITHMS, SFTConfig, registry
from rlhf_jax.types import Algorithm, Models, Sampling

FILE = """
import dataclasses
from rlhf_jax.algorithms import SFTConfig, register, sft

@dataclasses.dataclass(frozen=True)
class Own(SFTConfig):
    summary = "as sft"

register("own", Own, sft.make)
"""


@pytest.fixture(autouse=True)
def as_before():
    """Whatever a test registers is gone after it."""
    tables = (registry.ALGORITHMS, registry._CONFIGS)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def configuration(**values):
    cls = dataclasses.make_dataclass("Made", [("beta", float, 0.1)], frozen=True)
    for name, value in ({"data": "text", "models": Models(), "sampling": None} | values).items():
        setattr(cls, name, value)
    return cls


def algorithm(**fields):
    return Algorithm(loss=None, weigh=None, elements=None, **fields)


def test_a_file_registers_under_its_whole_name(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    name = f"{path}:own"
    assert registry.find_algorithm(name) == name == registry.find_algorithm(name)
    assert "own" not in ALGORITHMS and name in ALGORITHMS
    config = registry.algorithm_config(name)
    assert registry.algorithm_name(config()) == name
    assert registry.algorithm_name(SFTConfig()) == "sft" == registry.find_algorithm("sft")


def test_a_module_may_not_replace_an_algorithm_of_the_library(tmp_path, monkeypatch):
    (tmp_path / "own_sft.py").write_text(FILE.replace('"own"', '"sft"'))
    monkeypatch.syspath_prepend(tmp_path)
    before = ALGORITHMS["sft"], registry.algorithm_config("sft")
    assert registry.find_algorithm("own_sft:sft") == "own_sft:sft"
    assert (ALGORITHMS["sft"], registry.algorithm_config("sft")) == before


@pytest.mark.parametrize(
    "name, message",
    [
        ("nothing", "algorithm='nothing'"),
        ("nowhere.py:own", "there is no file nowhere.py"),
        ("json:own", "importing json registers no 'own'"),
    ],
)
def test_what_is_not_there_is_one_line(name, message):
    with pytest.raises(ValueError, match=message):
        registry.find_algorithm(name)


def test_a_registration_says_what_it_trains_on():
    with pytest.raises(ValueError, match="is no dataclass"):
        registry.register("made", object(), lambda config, model: algorithm())
    with pytest.raises(ValueError, match=r"Made.data='rows' is none of"):
        registry.register("made", configuration(data="rows"), lambda config, model: algorithm())
    incomplete = configuration()
    del incomplete.sampling
    with pytest.raises(ValueError, match=r"Made.sampling is missing"):
        registry.register("made", incomplete, lambda config, model: algorithm())


@pytest.mark.parametrize(
    "values, fields, message",
    [
        ({}, {"sampling": Sampling()}, "hand config.sampling on"),
        ({}, {"needs": {"ref_logps": None}}, "needs ref_logps; this run has no reference"),
        (
            {"models": Models(reference="once")},
            {"needs": {"ref_logps": None}},
            "needs ref_logps before every step",
        ),
        ({"models": Models(trained={})}, {}, "and no policy"),
    ],
)
def test_an_algorithm_is_what_its_configuration_says(values, fields, message):
    cls = configuration(**values)
    registry.register("made", cls, lambda config, model: algorithm(**fields))
    with pytest.raises(ValueError, match=message):
        registry.make_algorithm(cls(), model=None)


def test_a_configuration_of_no_algorithm_is_one_line():
    with pytest.raises(ValueError, match="Made is not the configuration of an algorithm; known"):
        registry.algorithm_name(configuration()())


def test_a_make_that_cannot_work_is_one_line():
    cls = configuration()
    for make, message in (
        (lambda config: algorithm(), "<lambda> cannot be called so: too many positional arguments"),
        (lambda *, config, model: algorithm(), "<lambda> cannot be called so"),
        ("make", "'make' is no such function"),
        (Algorithm, "the class Algorithm is no such function"),
    ):
        with pytest.raises(ValueError, match="^made: make is called as make") as caught:
            registry.register("made", cls, make)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    registry.register("made", cls, lambda config, model, *, flag=False: None)
    with pytest.raises(ValueError, match=r"^made: make returned None, not a rlhf_jax.Algorithm"):
        registry.make_algorithm(cls(), model=None)


def test_one_put_in_by_hand_harms_no_other():
    ALGORITHMS["mine"] = lambda config, model: algorithm()
    assert registry.algorithm_name(SFTConfig()) == "sft"
    with pytest.raises(ValueError, match=r"by hand.*rlhf_jax.register\('mine', Config, make\)"):
        registry.algorithm_config("mine")
