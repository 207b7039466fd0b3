"""The files in configs/: each loads, states its cost and result, and holds differences only."""

import pathlib
import re

import pytest

from rlhf_jax.config import Config, load_config, make_config
from rlhf_jax.config.document import parse_document, settled
from rlhf_jax.config.fields import flat

REPO = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted((REPO / "configs").glob("*.yaml"))
HEADER = {
    "command": r"rlhf-jax train configs/NAME( [\w.]+=\S+)*",
    "hardware": r".+",
    "minutes": r"\d.*|not measured: .+",
    "metric": r".*\d.*|not measured: .+",
}


def test_there_are_configurations():
    assert {"sft_hh", "reward_hh", "dpo_hh", "dpo_hub"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_configuration(path, tmp_path):
    text = path.read_text()
    header = dict(re.findall(r"^#\s+(command|hardware|minutes|metric):[ ]*(.*)$", text.partition("\n\n")[0], re.MULTILINE))
    assert list(header) == list(HEADER), "the header states command, hardware, minutes, metric"
    for name, pattern in HEADER.items():
        assert re.fullmatch(pattern.replace("NAME", re.escape(path.name)), header[name]), f"{name}: {header[name]!r}"
    overrides = re.findall(r"[\w.]+=\S+", header["command"])
    config = load_config(path, overrides)
    assert isinstance(config, Config)
    assert config.run_dir == f"runs/{path.stem}"
    assert config.data.has_eval, "every example measures on held-out rows"
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_configuration_holds_differences_only(path):
    tree = settled(parse_document(path.read_text(), path.name).tree)
    config = load_config(path)
    needed = {"algorithm": {"name": tree["algorithm"]["name"]}, "run_dir": "x", "data": {"path": "x"}, "model": {"path": "x"}}
    from_nothing = flat(make_config(needed).to_tree())
    given = {key: value for key, value in flat(tree).items() if key != "algorithm.name"}
    repeated = [key for key, value in given.items() if key in from_nothing and flat(config.to_tree())[key] == from_nothing[key]]
    assert repeated == [], "these repeat the default"
