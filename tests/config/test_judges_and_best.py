"""Which rewards judge, and whether a large or a small metric is best, as they are configured."""

import pytest

from rlhf_jax.config import ConfigError, describe_section, dump_config, load_config
from rlhf_jax.config.sections import CheckpointConfig, EvaluationConfig

DAPO = """
algorithm: {name: dapo}
run_dir: runs/dapo
model: {path: m}
data: {path: prompts.jsonl, eval_fraction: 0.1}
rewards: [{function: math}, {function: code}, {function: format}]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "dapo.yaml"
    path.write_text(DAPO)
    return path


@pytest.mark.parametrize("section", ["algorithm", "evaluation"])
@pytest.mark.parametrize(
    ("text", "value"), [("math", "math"), ("[math, code]", ("math", "code")), ("null", None)]
)
def test_one_name_or_several(file, tmp_path, section, text, value):
    config = load_config(file, [f"{section}.accuracy_reward={text}"])
    assert config.__dict__[section].accuracy_reward == value
    dump_config(config, tmp_path / "config.yaml")
    assert (
        load_config(tmp_path / "config.yaml") == config
        and config.changes_since(tmp_path / "config.yaml") == []
    )


def test_prompts_are_retired_by_a_reward_that_says_right_or_wrong(file):
    retire = "algorithm.retire_pass_rate=0.9"
    both = "rewards=[{function: model, options: {path: m}}, {function: math}]"
    with pytest.raises(ConfigError, match="algorithm.retire_pass_rate needs a reward that says"):
        load_config(file, [retire, both])
    load_config(file, [both])
    load_config(file, [retire, both, "algorithm.accuracy_reward=math"])


def test_a_wrong_name_is_one_line(file):
    with pytest.raises(ConfigError) as error:
        load_config(file, ["algorithm.accuracy_reward=[math, cod]"])
    assert str(error.value).startswith(
        "algorithm.accuracy_reward='cod' is not among the rewards, which are math, code, format; "
        "did you mean 'code'?"
    )
    with pytest.raises(
        ConfigError,
        match="algorithm.accuracy_reward: {'a': 3} is not allowed; allowed: text or a list",
    ):
        load_config(file, ["algorithm.accuracy_reward={a: 3}"])


def test_the_judges_of_a_run_decide_what_is_trained_those_of_evaluation_do_not(file, tmp_path):
    dump_config(load_config(file), tmp_path / "config.yaml")
    assert (
        load_config(file, ["evaluation.accuracy_reward=code"]).changes_since(
            tmp_path / "config.yaml"
        )
        == []
    )
    assert load_config(file, ["algorithm.accuracy_reward=code"]).changes_since(
        tmp_path / "config.yaml"
    )


def test_the_type_in_words():
    docs = {doc.key: doc for doc in describe_section(EvaluationConfig)}
    assert docs["accuracy_reward"].type == "text or a list (text each) or null"


@pytest.mark.parametrize(
    ("metric", "mode", "wanted"),
    [
        ("loss/total", None, "min"),
        ("rewards/accuracy", None, "max"),
        ("length/greedy", None, "min"),
        ("accuracy/pass@8", None, "max"),
        ("loss/total", "max", "max"),
        ("policy/entropy", "min", "min"),
    ],
)
def test_the_direction_of_a_metric(metric, mode, wanted):
    assert CheckpointConfig(best_metric=metric, best_mode=mode).mode == wanted


@pytest.mark.parametrize("metric", ["policy/entropy", "grad_norm", "rewards/rejected", "mine"])
def test_a_metric_without_a_meaning_needs_a_direction(file, metric):
    with pytest.raises(ConfigError) as error:
        load_config(file, [f"checkpoint.best_metric={metric}"])
    assert (
        f"checkpoint.best_metric={metric!r} does not say whether a large or a small value is good; "
        "give best_mode=" in str(error.value)
    )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["step", "split", "sample", "kept", "trained_step", "generation_batch", "ungraded_sampled"],
)
def test_columns_of_the_completions_are_no_names(file, name):
    with pytest.raises(ConfigError, match=f"the name '{name}' is taken by a metric or column"):
        load_config(file, [f"rewards[0].name={name}"])
