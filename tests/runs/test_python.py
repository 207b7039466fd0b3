"""`train` without files: rows, reward functions, models and tokenizers as Python objects."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import transformers
import yaml

import rlhf_jax
from rlhf_jax.config import load_config
from rlhf_jax.data import byte_tokenizer
from rlhf_jax.errors import TrainingError
from rlhf_jax.io import RunFolderError, read_metrics
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.runs import train
from rlhf_jax.runs.arguments import settle
from tests.loops.conftest import MODEL

ROWS = [{"prompt": f"{i:02d}:", "even": i % 2 == 0} for i in range(24)]
TREE = {
    "algorithm": {"name": "grpo", "group_size": 4},
    "model": {"config": MODEL},
    "tokenizer": "byte",
    "rollout": {"max_new_tokens": 3, "max_prompt_len": 8},
    "training": {"batch_size": 4, "max_steps": 4, "eval_every": 0, "save_every": 2},
    "optimizer": {"learning_rate": 3e-3},
    "mesh": {"fsdp": 1},
    "logging": {"tensorboard": False, "plot": False},
}
LENGTH = {"function": "length", "weight": 0.0, "options": {"max_len": 3}}
TIMING = ("time/", "tokens_per_second", "sampler/tokens_per_second")


def first_even(completion_ids, **columns):
    """1 for a completion that begins with an even token."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def values(run_dir):
    """Training rows without what depends on the clock."""
    return [
        {name: value for name, value in row.items() if not name.startswith(TIMING)}
        for row in read_metrics(run_dir)
        if row["split"] == "train"
    ]


def test_rows_and_a_closure_are_a_run_and_give_arrays(tmp_path):
    """In a temporary folder; a second call with an edited value is another run."""
    calls = []
    scale = 2.0

    def noted(completions, even, log_metric, trainer_state, **columns):
        calls.append(trainer_state.global_step)
        log_metric("even", sum(even) / len(even))
        pairs = zip(completions, even, strict=True)
        return [scale * (len(completion) + each) for completion, each in pairs]

    result = train(TREE, data=ROWS, rewards=[noted, LENGTH])
    assert result.steps == 4 and calls == [0, 1, 2, 3]
    assert (
        result.run_dir.name.startswith("rlhf_jax-")
        and (result.export_dir / "config.json").is_file()
    )
    history = result.history
    assert history.train["step"].tolist() == [1, 2, 3, 4]
    assert history.train["rewards/mean"].shape == (4,)
    np.testing.assert_array_equal(
        history.train["rewards/noted"], history.frame()["rewards/noted"].to_numpy()
    )
    assert 0 <= history.train["rewards/noted/even"].min() <= 1
    with pytest.raises(KeyError, match="no metric of train; did you mean 'rewards/mean'"):
        history.train["rewards/men"]
    assert history.eval["step"].tolist() == [] and "none, as there is no row" in str(
        pytest.raises(KeyError, history.eval.__getitem__, "rewards/mean").value
    )
    tree = yaml.safe_load((result.run_dir / "config.yaml").read_text())
    assert tree["data"]["path"].startswith("<24 rows ")
    assert [(each["function"], each["name"]) for each in tree["rewards"]] == [
        ("<callable noted>", "noted"),
        ("length", None),
    ]
    model, params, tokenizer = result.loaded
    assert result.params is params and result.model is model and result.tokenizer is tokenizer
    found = result.complete(["01:", "02:"], n=2, max_new_tokens=3)
    assert len(found.texts) == 4 and found.logps.shape == (4,)
    again = train(TREE | {"seed": 1}, data=ROWS, rewards=[noted])
    assert again.run_dir != result.run_dir and again.steps == 4


@pytest.mark.slow
def test_it_resumes_with_the_same_bits_when_everything_is_given_again(tmp_path):
    def run(name, **more):
        tree = TREE | {"run_dir": str(tmp_path / name)}
        return train(tree, **({"data": ROWS, "rewards": [first_even]} | more))

    whole = values(run("whole").run_dir)
    first = run("broken", callbacks=[lambda step, metrics: step == 3])
    assert first.steps == 3
    config = tmp_path / "broken" / "config.yaml"
    assert dataclasses.asdict(load_config(config))["rewards"][0]["function"] == (
        "<callable first_even>"
    )
    message = r"^data.path=<24 rows \w+> was handed over by the program .*train\(..., data=rows"
    with pytest.raises(ValueError, match=message):
        train(config)
    with pytest.raises(
        ValueError, match=r"^rewards.function=<callable first_even> was handed over"
    ):
        train(config, data=ROWS)
    with pytest.raises(RunFolderError, match=r"another configuration \(data.path: '<24 rows"):
        run("broken", data=ROWS[:-1])
    assert run("broken").steps == 4 and values(first.run_dir) == whole


@pytest.mark.slow
def test_held_out_rows_a_model_and_a_tokenizer(tmp_path):
    """Of one's own: from `init_model`, and one of transformers."""
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(3))
    byte_tokenizer().save(tmp_path / "tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    tree = {name: section for name, section in TREE.items() if name not in ("model", "tokenizer")}
    tree = tree | {
        "algorithm": {"name": "sft"},
        "data": {"max_length": 16, "num_buckets": 1},
        "rollout": {},
        "optimizer": {"learning_rate": 1e-2},
    }
    rows = [{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(20)]
    given = {"eval_data": rows[:4], "model": (model, params), "tokenizer": tokenizer}
    result = train(tree, data=rows[4:], **given)
    losses = result.history.eval["loss/total"]
    assert result.history.eval["step"].tolist() == [0, 4] and losses[1] < losses[0]
    config = load_config(result.run_dir / "config.yaml")
    assert config.model.given and config.tokenizer.startswith("<tokenizer ")
    assert jax.tree.all(jax.tree.map(lambda x: not x.is_deleted(), params)), (
        "the caller's parameters stay"
    )
    onward = train(tree, data=rows, model=result.loaded)
    assert onward.metrics["train/loss/total"] < result.metrics["train/loss/total"]


def test_a_function_that_always_raises_ends_the_run_in_one_line():
    def broken(completions, **columns):
        return [1 / 0 for _ in completions]

    message = r"^reward 'broken' \(<callable broken>\) raised on every completion .*ZeroDivision"
    with pytest.raises(TrainingError, match=message):
        train(TREE, data=ROWS, rewards=[broken])


CONFIG = {"run_dir": "r", **TREE, "data": {"path": "synthetic:arithmetic"}}


def test_a_dict_a_file_and_a_config_take_the_same_arguments(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"rewards": [{"function": "math"}]}))
    given = {"data": ROWS, "eval_data": ROWS[:4], "rewards": [first_even], "tokenizer": "byte"}
    forms = (CONFIG, path, str(path), load_config(path))
    found = [settle(form, **given) for form in forms]
    config = found[0].config
    assert all(each.config == config and not each.is_temporary for each in found)
    assert config.data.path.startswith("<24 rows") and config.data.eval_path.startswith("<4 rows")
    assert [reward.label for reward in config.rewards] == ["first_even"]
    assert set(found[0].objects) == {
        config.data.path,
        config.data.eval_path,
        "<callable first_even>",
    }
    named = settle(CONFIG, data=ROWS, rewards=["math"], model=pathlib.Path("somewhere"))
    assert (named.config.model.path, named.config.model.config) == ("somewhere", None)


REFUSED = [
    ({"rewards": first_even}, r"^rewards=the function first_even: give a list, rewards=\[f\]$"),
    ({"rewards": [{"function": first_even, "wieght": 1}]}, "wieght: unknown key.*did you mean"),
    ({"rewards": [first_even, first_even]}, r"^rewards\[1\]: 'first_even' names two functions"),
    ({"model": 3}, r"^model=3: give a folder or hub id, \(model, params\), or what rlhf_jax.load"),
    ({"tokenizer": 3}, "^tokenizer=3: give a folder or hub id"),
    ({"data": "rows.jsonl"}, "^data='rows.jsonl' is text"),
    ({"config": 3}, "^config=3: give a nested dict, the path of a YAML file or a Config$"),
    ({"config": {"algorithm": "grpo"}}, "^algorithm.name: 'grpo' has no name; allowed"),
    (
        {"config": CONFIG | {"data": {"path": ROWS}}, "data": None},
        r"^data.path: \[{'prompt'.* allowed: text",
    ),
    ({"config": CONFIG | {"training": {"max_setps": 3}}}, "did you mean 'training.max_steps'"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_mistakes_are_one_line(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        train(**({"config": CONFIG, "data": ROWS, "rewards": [first_even]} | given))
    assert "\n" not in str(caught.value)


def test_a_frame_without_pandas_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss/total": 0.5}\n')
    history = rlhf_jax.runs.History(tmp_path)
    assert history.frame().columns.tolist() == ["step", "split", "loss/total"]
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="^a data frame needs pandas: pip install pandas"):
        history.frame()
