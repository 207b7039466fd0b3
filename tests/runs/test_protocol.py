"""The protocol of a comparison: accepted starts, tuning, own samples, cells that can be made
again."""

import json
import pathlib
import shlex

import pytest

from rlhf_jax.cli.main import main
from rlhf_jax.config import ConfigError, StageConfig, make_compare
from rlhf_jax.io import read_metrics
from rlhf_jax.runs import compare
from rlhf_jax.runs.cells import (
    fingerprint,
)
from rlhf_jax.runs.draws import best_places, draw, sorted_out
from rlhf_jax.runs.making import check_accepted
from rlhf_jax.runs.quickstart import MODEL

SHORT = {"max_steps": 2, "batch_size": 4, "eval_every": 1, "save_every": 1, "eval_batch_size": 8}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
}


def tree(run_dir):
    """Two seeds of one-digit sums, whose start is right now and then after a few steps."""
    return {
        "run_dir": str(run_dir),
        "seeds": [0, 1],
        "common": {
            "data": {
                "path": "synthetic:arithmetic?size=256&digits=1",
                "eval_size": 8,
                "max_length": 16,
                "num_buckets": 1,
            },
            "mesh": {"fsdp": 1},
            "training": {"eval_batch_size": 8},
            "logging": {"tensorboard": False, "save_completions": "none", "plot": False},
        },
        "prompts": {
            "rollout": {"max_new_tokens": 3, "max_prompt_len": 8},
            "rewards": [{"function": "exact_match"}],
            "evaluation": {"samples": 2, "max_prompts": 8},
        },
        "start": {
            "name": "sft",
            "accept": {"accuracy/mean@2": [0.0, 1.0]},
            "config": {
                "algorithm": {"name": "sft"},
                "tokenizer": "byte",
                "model": {"config": MODEL | SMALL},
                "training": SHORT
                | {"max_steps": 40, "batch_size": 32, "save_every": 0}
                | {"eval_every": 0},
                "optimizer": {"learning_rate": 0.01},
            },
        },
        "tuning": {"values": [1e-4, 1e-3], "seeds": [100], "runs": ["grpo"]},
        "preparations": [{"name": "own", "draw": {"prompts": 64, "samples": 8}}],
        "runs": [
            {"name": "best_of_4", "best_of": 4},
            {
                "name": "sft_own",
                "config": {
                    "algorithm": {"name": "sft"},
                    "data": {"path": "{own}/correct.jsonl", "eval_size": 0},
                    "training": SHORT | {"eval_every": 0},
                },
            },
            {"name": "grpo", "config": {"algorithm": {"name": "grpo"}, "training": SHORT}},
        ],
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_compare(tree(tmp_path_factory.mktemp("protocol") / "run"))


@pytest.fixture(scope="module")
def found(config):
    return compare(config, progress=False)


def cells(folder):
    document = json.loads((folder / "results.json").read_text())
    return document, {(cell["run"], cell["seed"]): cell for cell in document["cells"]}


def numbers(cell):
    """All of a cell that no clock has a part in."""
    points = [{k: v for k, v in point.items() if k != "seconds"} for point in cell["evaluations"]]
    names = ("metrics", "learning_rate", "generated_tokens", "drawn_tokens", "steps", "entropy")
    return [points, [cell[name] for name in names]]


@pytest.mark.slow
def test_every_run_and_seed_has_a_cell_and_tuning_seeds_have_none(config, found):
    document, made = cells(found.folder)
    names = ("best_of_4", "sft_own", "grpo")
    assert list(made) == [(name, seed) for name in names for seed in (0, 1)]
    tuning = document["tuning"]["grpo"]
    assert [(one["value"], one["seed"]) for one in tuning["trials"]] == [(1e-4, 100), (1e-3, 100)]
    assert all(made["grpo", seed]["learning_rate"] == tuning["value"] for seed in (0, 1))
    assert made["best_of_4", 0]["learning_rate"] is None
    assert made["best_of_4", 0]["convergence"] is None
    assert set(made["grpo", 1]["convergence"]) == {"own", "common"}
    assert {run.seed for run in found.runs} == {0, 1}
    assert document["config"]["seeds"] == [0, 1] and document["commit"]
    for cell in made.values():
        shares = cell["by_prompt"]["accuracy/mean@2"]
        assert len(shares) == 8
        assert sum(shares) / 8 == pytest.approx(cell["metrics"]["accuracy/mean@2"], abs=1e-5)


@pytest.mark.slow
def test_every_seed_has_a_start_of_its_own_that_its_runs_share(config, found):
    _, made = cells(found.folder)
    for seed in (0, 1):
        before = [made[name, seed]["evaluations"][0] for name in ("best_of_4", "sft_own")]
        assert before[0] == before[1]
    weights = [
        (config.folder(config.start, seed) / "export" / "model.safetensors").read_bytes()
        for seed in (0, 1)
    ]
    assert weights[0] != weights[1]


@pytest.mark.slow
def test_what_a_draw_generated_is_counted_to_the_run_that_learns_from_it(config, found):
    _, made = cells(found.folder)
    for seed in (0, 1):
        folder = config.folder(config.preparations[0], seed)
        counts = json.loads((folder / "draw.json").read_text())
        assert counts["samples"] == 64 * 8
        rows = [json.loads(line) for line in (folder / "correct.jsonl").read_text().splitlines()]
        assert len(rows) == counts["correct"] > 0
        assert [set(row) for row in rows] == [{"prompt", "completion"}] * len(rows)
        points = made["sft_own", seed]["evaluations"]
        assert [point["tokens"] for point in points] == [0.0] + [counts["tokens"]] * 2
        assert made["sft_own", seed]["drawn_tokens"] == counts["tokens"] > 0
        assert made["grpo", seed]["drawn_tokens"] == 0


@pytest.mark.slow
def test_the_best_of_several_is_as_often_right_as_any_of_them(found):
    """The reward says right or wrong, so the best is right wherever one is."""
    _, made = cells(found.folder)
    for seed in (0, 1):
        metrics = made["best_of_4", seed]["metrics"]
        assert metrics["accuracy/mean@2"] == metrics["rewards/sampled"]
        assert metrics["answer/tokens"] > 4 and made["best_of_4", seed]["generated_tokens"] == 0


@pytest.mark.slow
def test_a_cell_that_is_there_is_not_made_again(config, found):
    files = [config.folder(stage, 1) / "metrics.jsonl" for stage in config.runs[1:]]
    rows = [read_metrics(file) for file in files]
    (config.folder(config.runs[2], 1) / "cell.json").unlink()
    before = cells(found.folder)[1]
    kept = (config.folder(config.runs[1], 1) / "cell.json").stat().st_mtime_ns
    compare(config, progress=False)
    again = cells(found.folder)[1]
    assert (config.folder(config.runs[1], 1) / "cell.json").stat().st_mtime_ns == kept
    assert [read_metrics(file) for file in files] == rows
    assert numbers(again["grpo", 1]) == numbers(before["grpo", 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best_of_4", "sft_own", "grpo"])
def test_the_command_of_a_cell_gives_the_same_numbers_to_the_bit(found, name):
    first = cells(found.folder)[1][name, 1]
    words = shlex.split(first["command"])
    assert words[:2] == ["rlhf-jax", "compare"]
    assert main([*words[1:], "--no-progress"]) == 0
    (folder,) = (word.removeprefix("run_dir=") for word in words if word.startswith("run_dir="))
    again = cells(pathlib.Path(folder))[1]
    assert list(again) == [(name, 1)]
    assert numbers(again[name, 1]) == numbers(first)


@pytest.mark.slow
def test_a_cell_of_another_configuration_is_refused(config, found):
    changed = tree(found.folder)
    changed["prompts"]["evaluation"]["max_prompts"] = 4
    with pytest.raises(ValueError, match="was made with another configuration"):
        compare(make_compare(changed | {"tuning": None}), progress=False)


def test_a_cell_does_not_depend_on_the_band_of_its_start_nor_on_titles(config):
    grpo = config.run("grpo")
    changed = tree(config.run_dir)
    changed["start"] |= {"accept": {"accuracy/greedy": [0.0, 0.9]}, "title": "another"}
    assert fingerprint(make_compare(changed), grpo, 0) == fingerprint(config, grpo, 0)
    changed["start"]["config"]["training"]["max_steps"] += 1
    assert fingerprint(make_compare(changed), grpo, 0) != fingerprint(config, grpo, 0)


@pytest.mark.slow
def test_a_draw_of_another_configuration_is_refused(config, found):
    assert draw(config, config.preparations[0], 0)["samples"] == 64 * 8
    changed = make_compare(tree(found.folder), ["preparations[0].draw.temperature=0.5"])
    with pytest.raises(ValueError, match="was drawn with another configuration"):
        draw(changed, changed.preparations[0], 0)


def test_a_start_is_accepted_up_to_the_bounds_of_its_band():
    changed = tree("runs/x")
    changed["start"]["accept"] = {"accuracy/greedy": [0.05, 0.15]}
    config = make_compare(changed)
    for value in (0.05, 0.1, 0.15):
        check_accepted(config, 3, {"accuracy/greedy": value})
    for value in (0.049, 0.151, float("nan")):
        with pytest.raises(ValueError, match=r"seed 3 has accuracy/greedy=.* \[0.05, 0.15\]"):
            check_accepted(config, 3, {"accuracy/greedy": value})
    with pytest.raises(ValueError, match="accuracy/greedy is not measured"):
        check_accepted(config, 3, {"rewards/greedy": 0.1})


@pytest.mark.slow
def test_a_trial_reaches_what_the_run_does_that_is_measured_more_often(config, found, tmp_path):
    document, _ = cells(found.folder)
    trials = document["tuning"]["grpo"]["trials"]
    compared, trial = config.trial("grpo", 1e-3)
    rows = read_metrics(compared.folder(trial, 100))
    steps = [row["step"] for row in rows if row["split"] == "eval"]
    assert steps == [0, 2], "the run itself is measured after each of its two steps"
    changed = tree(tmp_path) | {"tuning": None, "seeds": [100]}
    changed["runs"][2]["config"]["optimizer"] = {"learning_rate": 1e-3}
    whole = compare(make_compare(changed), cell=("grpo", 100), progress=False)
    assert [point["step"] for point in whole.runs[0].curve] == [0, 1, 2]
    assert trials[1]["reached"] == whole.runs[0].curve[-1]["accuracy/mean@2"]


def test_samples_become_right_ones_and_pairs():
    right = [True, False, True, False, False, None]
    correct, pairs = sorted_out(["p"] * 3 + ["q"] * 3, list("abcdef"), right, 3)
    assert correct == [{"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "c"}]
    assert pairs == [{"prompt": "p", "chosen": "a", "rejected": "b"}]


def test_an_empty_sample_becomes_no_row():
    """The reader of the rows would refuse it."""
    texts, right = ["", "a", " ", "b"], [False, True, True, False]
    correct, pairs = sorted_out(["p"] * 4, texts, right, 4)
    assert correct == [{"prompt": "p", "completion": "a"}]
    assert pairs == [{"prompt": "p", "chosen": "a", "rejected": "b"}]


def test_the_best_place_is_the_first_of_the_highest_reward():
    nan = float("nan")
    assert best_places([0.0, 1.0, 1.0, nan, -2.0, nan, nan, nan, nan], 3) == [1, 4, 6]


def test_a_stage_needs_what_it_names_and_what_that_needs():
    config = make_compare(tree("runs/x"))
    needed = {run.name: [one.name for one in config.needed(run)] for run in config.runs}
    assert needed == {"best_of_4": ["sft"], "sft_own": ["sft", "own"], "grpo": ["sft"]}


def test_a_start_whose_seed_is_fixed_is_made_once():
    shared = tree("runs/x")
    shared["start"]["config"]["seed"] = 7
    for changed, parts in ((shared, 1), (tree("runs/x"), 2)):
        config = make_compare(changed)
        assert len({config.folder(config.start, seed) for seed in (0, 1)}) == parts
        assert len({config.folder(config.preparations[0], seed) for seed in (0, 1)}) == parts


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tuning.seeds=[1]"], "tuning.seeds=[1] holds 1, which is reported too"),
        (["tuning.runs=[best_of_4]"], "'best_of_4' is no run that trains"),
        (["tuning.values=[]"], "values=[] must be at least one"),
        (["tuning.key=optimizer.rate"], "optimizer.rate: unknown key"),
        (["start.accept={accuracy/greedy: [0.5, 0.1]}"], "must be the lowest and the highest"),
        (["runs[2].accept={accuracy/greedy: [0, 1]}"], "grpo: accept belongs to start"),
        (["runs[0].draw={prompts: 4}"], "best_of_4: draw belongs to preparations"),
        (["preparations[0].best_of=2"], "own: best_of belongs to runs"),
        (["runs[0].best_of=0"], "best_of=0 must be at least 1"),
        (["preparations[0].draw.samples=1"], "samples=1 must be at least 2"),
        (["preparations[0].draw.temperature=0"], "temperature=0.0 must be above 0"),
        (["preparations[0].config={seed: 1}"], "draw and best_of train nothing"),
        (["runs[1].config.data.path='{other}/pairs.jsonl'"], "names no earlier run"),
        (["common.seed=5"], "common gives seed=5, which would make all of the seeds [0, 1] the"),
        (["runs[2].config.seed=5"], "grpo: config gives seed=5"),
        (["tuning.key=seed"], "a seed is luck"),
        (["runs[2].config.evaluation.max_prompts=3"], "grpo: with evaluation.max_prompts=3 this"),
        (["runs[2].config.evaluation.samples=3"], "grpo: with evaluation.samples=3 this run"),
        (["runs[2].config.data.eval_size=9"], "grpo: with data.eval_size=9 this run would be"),
        (["runs[2].config.rollout.max_new_tokens=2"], "grpo: with rollout.max_new_tokens=2 this"),
        (["runs[2].config.rewards=[{function: math}]"], "its rewards lack exact_match"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(overrides, message):
    with pytest.raises(ConfigError) as error:
        make_compare(tree("runs/x"), overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_run_may_train_on_other_rows_and_rewards_than_it_is_measured_by():
    more = [{"function": "exact_match", "weight": 0.5}, {"function": "repetition", "weight": 1}]
    changed = tree("runs/x")
    changed["runs"][2]["config"] |= {"rewards": more, "data": {"num_buckets": 2}}
    config = make_compare(changed)
    assert [one.weight for one in config.run_config(config.run("grpo"), 0).rewards] == [0.5, 1.0]
    changed["common"]["data"] |= {"eval_path": "held_out.jsonl", "eval_size": 0}
    changed["runs"][2]["config"]["data"] = {"path": "other.jsonl"}
    config = make_compare(changed)
    assert config.run_config(config.run("grpo"), 0).data.path == "other.jsonl"


def test_a_stage_says_whether_it_is_trained():
    assert StageConfig(name="a").is_trained
    assert not StageConfig(name="a", best_of=2).is_trained
