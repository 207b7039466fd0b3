"""The files in configs/: each loads, states its cost and result, and holds differences only."""

import pathlib
import re
import shutil
import textwrap

import pytest

from rlhf_jax.config import Config, load_config, make_config
from rlhf_jax.config.compare import load_compare
from rlhf_jax.config.document import parse_document, settled
from rlhf_jax.data import load_examples
from rlhf_jax.fields import flat

REPO = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"
EVERY = [*sorted(CONFIGS.glob("*.yaml")), *sorted(CONFIGS.glob("smollm2/*.yaml"))]
COMPARISONS = [path for path in EVERY if "rlhf-jax compare" in path.read_text()]
FILES = [path for path in EVERY if path not in COMPARISONS]
HEADER = {
    "command": r"rlhf-jax train configs/NAME( [\w.]+=\S+)*",
    "hardware": r".+",
    "minutes": r"\d.*|not measured: .+",
    "metric": r".*\d.*|not measured: .+",
}


def test_there_are_configurations():
    assert {
        "sft_hh",
        "reward_hh",
        "dpo_hh",
        "dpo_hub",
        "ppo_hh",
        "sft_gsm8k",
        "grpo_gsm8k",
        "dapo_gsm8k",
    } <= {path.stem for path in FILES}
    assert {path.stem for path in CONFIGS.glob("smollm2/*.yaml")} == {
        *("sft", "reward_model", "dpo", "ppo", "sums", "grpo", "dapo")
    }


def checked_header(path, command):
    """What a file's first lines state."""
    text = path.read_text().partition("\n\n")[0]
    header = dict(
        re.findall(r"^#\s+(command|hardware|minutes|metric):[ ]*(.*)$", text, re.MULTILINE)
    )
    assert list(header) == list(HEADER), "the header states command, hardware, minutes, metric"
    for name, pattern in HEADER.items():
        name_of = str(path.relative_to(CONFIGS))
        wanted = pattern.replace("NAME", re.escape(name_of)).replace(
            "rlhf-jax train", f"rlhf-jax {command}"
        )
        assert re.fullmatch(wanted, header[name]), f"{name}: {header[name]!r}"
    return header


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_comparison(path):
    checked_header(path, "compare")
    config = load_compare(path)
    assert config.run_dir == f"runs/{path.stem}" and len(config.runs) >= 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_configuration(path, tmp_path):
    header = checked_header(path, "train")
    overrides = re.findall(r"[\w.]+=\S+", header["command"])
    config = load_config(path, overrides)
    assert isinstance(config, Config)
    assert config.run_dir == f"runs/{path.relative_to(CONFIGS).with_suffix('')}"
    assert config.data.has_eval, "every example measures on held-out rows"
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_configuration_holds_differences_only(path):
    tree = settled(parse_document(path.read_text(), path.name).tree)
    config = load_config(path)
    needed = {
        "algorithm": {"name": tree["algorithm"]["name"]},
        "run_dir": "x",
        "data": {"path": "x"},
        "model": {"path": "x"},
    }
    if "rewards" in tree:
        needed["rewards"] = [{"function": f"x{index}"} for index in range(len(tree["rewards"]))]
    from_nothing = flat(make_config(needed).to_tree())
    given = {key: value for key, value in flat(tree).items() if key != "algorithm.name"}
    repeated = [
        key
        for key, value in given.items()
        if key in from_nothing and flat(config.to_tree())[key] == from_nothing[key]
    ]
    assert repeated == [], "these repeat the default"


COMMAND = re.compile(r"command: .*\.yaml (.*data\.path=.*)$", re.MULTILINE)
REAL = {"pairs.jsonl": "hh-rlhf/pairs.jsonl", "gsm8k": "gsm8k"}
"""What the commands call their data -> where it lies beside the repository."""


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if COMMAND.search(path.read_text())],
    ids=lambda path: str(path.relative_to(CONFIGS)),
)
def test_the_command_finds_its_data(path, shared_data, tmp_path, monkeypatch):
    (overrides,) = COMMAND.findall(path.read_text())
    (name,) = re.findall(r"data\.path=(\S+)", overrides)
    is_short = name == "short_pairs.jsonl"
    if is_short:
        monkeypatch.chdir(tmp_path)
        shutil.copy(shared_data / REAL["pairs.jsonl"], "pairs.jsonl")
        page = (CONFIGS.parent / "docs" / "smollm2.md").read_text()
        recipe = page[page.index("    import json, pathlib, re") :]
        exec(textwrap.dedent(recipe), {})
    place = tmp_path / name if is_short else shared_data / REAL[name]
    overrides = overrides.replace(f"path={name}", f"path={place}")
    config = load_config(path, overrides.split())
    kind = config.algorithm.data
    train, held_out = (
        load_examples(config.data, kind=kind, split=split).rows for split in ("train", "eval")
    )
    if is_short:
        assert len(train) + len(held_out) == 240 and len(held_out) == 24
    else:
        assert len(train) > 500 and len(held_out) >= 100
    assert not {str(row.prompt) for row in train} & {str(row.prompt) for row in held_out}
    if "gsm8k" in path.name:
        assert train[0].prompt.endswith(
            "?\nReason step by step and end with #### and the number.\n"
        )
