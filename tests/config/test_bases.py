"""Comparisons that go on from another file, and runs that differ from another in a few options."""

import textwrap

import pytest

from rlhf_jax.config import ConfigError, load_compare, make_compare

BASE = """
run_dir: runs/below
seeds: [0, 1]
common:
  data: {path: "synthetic:arithmetic?size=40", eval_size: 8, max_length: 16, num_buckets: 1}
  tokenizer: byte
  model:
    config: {model_type: qwen2, vocab_size: 320, hidden_size: 32, num_hidden_layers: 2,
      num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 64,
      max_position_embeddings: 64}
prompts:
  rewards: [{function: exact_match, weight: 2}, {function: repetition}]
  rollout: {max_new_tokens: 4, max_prompt_len: 8}
tuning: {key: optimizer.learning_rate, values: [1e-4, 1e-3], seeds: [9], runs: [grpo]}
runs:
  - {name: best, best_of: 4}
  - name: grpo
    title: groups
    config: {algorithm: {name: grpo, group_size: 4}, optimizer: {learning_rate: 1e-3}}
  - {name: ppo, config: {algorithm: {name: ppo}}}
"""


def load(tmp_path, text, *overrides, base=BASE):
    (tmp_path / "below.yaml").write_text(base)
    (tmp_path / "mine.yaml").write_text(textwrap.dedent(text))
    return load_compare(tmp_path / "mine.yaml", overrides)


def test_sections_are_laid_over_those_of_the_base(tmp_path):
    text = "{base: below.yaml, run_dir: runs/mine, seeds: [3], common: {mesh: {fsdp: 1}}}"
    config = load(tmp_path, text)
    below = load_compare(tmp_path / "below.yaml")
    assert config.run_dir == "runs/mine" and config.seeds == (3,)
    assert config.runs == below.runs and config.tuning == below.tuning
    assert config.common == below.common | {"mesh": {"fsdp": 1}}


def test_stages_are_taken_by_name_and_changed_by_like(tmp_path):
    text = """
        base: below.yaml
        run_dir: runs/mine
        tuning: null
        runs:
          - ppo
          - name: small
            like: grpo
            config: {algorithm: {group_size: 2}}
          - {name: smaller_steps, like: small, config: {optimizer: {learning_rate: 1e-5}}}
    """
    config = load(tmp_path, text)
    assert [run.name for run in config.runs] == ["ppo", "small", "smaller_steps"]
    ppo, small, steps = config.runs
    assert ppo.config == {"algorithm": {"name": "ppo"}} and config.tuning is None
    assert small.config["algorithm"] == {"name": "grpo", "group_size": 2} and small.title is None
    assert steps.config["algorithm"] == small.config["algorithm"]
    assert steps.config["optimizer"] == {"learning_rate": 1e-5}
    assert small.config["optimizer"] == {"learning_rate": 1e-3}
    written = config.to_yaml()
    assert "like" not in written and "base" not in written
    (tmp_path / "whole.yaml").write_text(written)
    assert load_compare(tmp_path / "whole.yaml") == config


def test_an_override_changes_one_run_only(tmp_path):
    text = "{base: below.yaml, run_dir: r, runs: [grpo, {name: b, like: grpo}, {name: c, like: b}]}"
    config = load(tmp_path, text, "runs[1].config.optimizer.learning_rate=0.5")
    rates = [run.config["optimizer"]["learning_rate"] for run in config.runs]
    assert rates == [1e-3, 0.5, 1e-3]


def test_a_base_may_have_a_base_and_stands_beside_its_file(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    top = "{base: deep/mine.yaml, run_dir: runs/top, seeds: [7]}"
    load(tmp_path / "deep", "{base: below.yaml, run_dir: runs/mine, runs: [grpo]}")
    (tmp_path / "top.yaml").write_text(top)
    monkeypatch.chdir("/")
    config = load_compare(tmp_path / "top.yaml")
    assert [run.name for run in config.runs] == ["grpo"] and config.seeds == (7,)


def test_a_dict_may_have_both(tmp_path, monkeypatch):
    (tmp_path / "below.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    mine = {"name": "mine", "like": "grpo", "config": {"algorithm": {"kl_coef": 0.1}}}
    tree = {"base": "below.yaml", "run_dir": "runs/mine", "runs": ["grpo", mine]}
    config = make_compare(tree)
    assert config.run("mine").config["algorithm"]["kl_coef"] == 0.1
    assert tree["runs"] == ["grpo", mine], "the caller's own is left as it was"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{base: below.yaml}", "run_dir: required and not given"),
        ("{base: belov.yaml, run_dir: r}", "belov.yaml: no such configuration file; did you mean"),
        ("{base: [below.yaml], run_dir: r}", "base: ['below.yaml'] must be the file of a"),
        ("{base: mine.yaml, run_dir: r}", "mine.yaml: is named as a base by itself or by its own"),
        ("{base: , run_dir: r}", "base: None must be the file of a comparison"),
        (
            "{base: below.yaml, run_dir: r, runs: [gpro]}",
            "runs[0]: 'gpro' is not in the base; what is: best, grpo, ppo; did you mean 'grpo'?",
        ),
        ("{base: below.yaml, run_dir: r, preparations: [own]}", "'own' is not in the base; what"),
        (
            "{base: below.yaml, run_dir: r, runs: [{name: a, like: c}, {name: c, like: grpo}]}",
            "runs[0].like: 'c' is not earlier in the list and not in the base; what is: best, grpo",
        ),
        (
            "{base: below.yaml, run_dir: r, runs: [{name: a, like: best}]}",
            "runs[0].like: 'best' has no config that another could be like",
        ),
        (
            "{base: below.yaml, run_dir: r, runs: [{name: a, like: ppo, best_of: 2}]}",
            "a: draw and best_of train nothing",
        ),
        (
            "{base: below.yaml, run_dir: r, runs: [{name: grpo, like: grpo, titel: x}]}",
            "runs[0].titel: unknown key",
        ),
        ("{base: below.yaml, run_dir: r, runs: [ppo, ppo, grpo]}", "'ppo' names two runs"),
        ("{run_dir: r, runs: [grpo]}", "runs[0]: 'grpo' is not a section"),
        ("{run_dir: r, runs: [{like: grpo}]}", "what is: none"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_of_the_base_is_told_with_its_place(tmp_path):
    wrong = BASE.replace("group_size: 4", "group_sice: 4")
    for text in ("{base: below.yaml, run_dir: r}", "{base: below.yaml, run_dir: r, runs: [grpo]}"):
        with pytest.raises(ConfigError, match="group_sice"):
            load(tmp_path, text, base=wrong)
    text = "{base: below.yaml, run_dir: r, runs: [{nam: x}, grpo]}"
    with pytest.raises(ConfigError, match=r"runs\[0\]\.nam: .*mine\.yaml line 1"):
        load(tmp_path, text)
    unknown = BASE.replace("title: groups", "titel: groups")
    with pytest.raises(ConfigError, match=r"runs\[1\]\.titel: .*below\.yaml line 18"):
        load(tmp_path, "{base: below.yaml, run_dir: r, runs: [ppo, grpo]}", base=unknown)


def test_a_list_that_replaces_one_has_no_place_in_the_base(tmp_path):
    text = "{base: below.yaml, run_dir: r, prompts: {rewards: [{weight: 1}]}, runs: [grpo]}"
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert "below.yaml" not in str(error.value)
