"""`algorithm.preset` in files: what it sets, what wins, and what config.yaml says. And several
losses of DPO."""

import logging

import pytest

from rlhf_jax.cli.main import main
from rlhf_jax.config import ConfigError, load_config, make_config
from rlhf_jax.runs.parts import log_preset

BASE = {
    "run_dir": "runs/x",
    "tokenizer": "byte",
    "model": {"config": {"model_type": "llama"}},
    "data": {"path": "synthetic:arithmetic"},
    "rewards": [{"function": "math"}],
    "rollout": {"max_new_tokens": 24},
}


def config_of(**algorithm):
    return make_config(BASE | {"algorithm": {"name": "grpo", **algorithm}})


def test_a_preset_shows_in_the_complete_configuration(tmp_path):
    config = config_of(preset="dr_grpo")
    written = config.to_tree()["algorithm"]
    assert written["preset"] == "dr_grpo" and written["normalize_std"] is False
    assert written["aggregation"] == "constant" and written["clip_high"] == 0.2
    # the constant is the run's own limit
    assert config.resolved_algorithm.max_new_tokens == 24
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_what_is_given_wins_and_is_said(caplog):
    config = config_of(preset="dr_grpo", normalize_std=True)
    assert config.to_tree()["algorithm"]["normalize_std"] is True
    with caplog.at_level(logging.INFO):
        log_preset(config.algorithm)
        log_preset(config_of(preset="gspo").algorithm)
    assert [record.getMessage() for record in caplog.records] == [
        "algorithm.preset=dr_grpo, except normalize_std=True"
    ]


def test_an_override_on_the_command_line_wins():
    tree = BASE | {"algorithm": {"name": "grpo", "preset": "gspo"}}
    config = make_config(tree, ["algorithm.clip_low=0.1"])
    assert (config.algorithm.clip_low, config.algorithm.clip_high) == (0.1, 4e-4)


def test_an_unknown_preset():
    with pytest.raises(ConfigError, match="preset='drgrpo' is not known: .*did you mean 'dr_grpo'"):
        config_of(preset="drgrpo")


def test_presets_are_listed_with_their_papers(capsys):
    for command in (["algorithms"], ["algorithms", "grpo"]):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "dr_grpo: normalize_std=false, aggregation=constant\n" in out
        assert "arXiv:2503.20783" in out and "lite_ppo: normalize_std=batch" in out


def test_several_losses_of_dpo(tmp_path):
    offline = {name: BASE[name] for name in ("run_dir", "tokenizer", "model", "data")}
    tree = offline | {
        "algorithm": {"name": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.1]}
    }
    config = make_config(tree)
    assert config.algorithm.loss_type == ("sigmoid", "sft")
    assert config.algorithm.loss_weights == (1.0, 0.1)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config and config.changes_since(path) == []
    one = make_config(tree, ["algorithm.loss_type=ipo", "algorithm.loss_weights=null"])
    assert one.algorithm.loss_type == "ipo"
    several = make_config(tree, ["algorithm.loss_type=[ipo, apo_zero]"])
    assert several.algorithm.loss_type == ("ipo", "apo_zero")
    with pytest.raises(ConfigError, match="loss_weights=.1.0, 0.1. has 2 numbers for 1 losses"):
        make_config(tree, ["algorithm.loss_type=sigmoid"])
