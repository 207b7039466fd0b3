"""constraints.txt pins every dependency and extra once for each Python that the library names."""

import pathlib
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
_CLASSIFIER = "Programming Language :: Python :: "
PYTHONS = [c.removeprefix(_CLASSIFIER) for c in PROJECT["classifiers"] if _CLASSIFIER in c]


def _pins(python: str) -> dict[str, str]:
    pins: dict[str, str] = {}
    for line in (REPO / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is not None and not pin.marker.evaluate({"python_version": python}):
            continue
        (specifier,) = pin.specifier
        name = canonicalize_name(pin.name)
        assert specifier.operator == "==" and name not in pins, line
        pins[name] = specifier.version
    return pins


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_pin_that_it_allows(python):
    pins = _pins(python)
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        wanted = Requirement(text)
        version = pins.get(canonicalize_name(wanted.name))
        assert version is not None, f"constraints.txt has no {wanted.name} for Python {python}"
        assert wanted.specifier.contains(version), f"{text} does not allow {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_built_with_jax_is_of_its_version(python):
    pins = _pins(python)
    assert len({pins[n] for n in ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda12-pjrt")}) == 1
