"""configs/evidence/: the comparisons ask for what their tasks give."""

import dataclasses
import gzip
import itertools
import json
import pathlib

import pytest

from rlhf_jax.config.bases import read_with_base
from rlhf_jax.config.compare import load_compare
from rlhf_jax.config.document import settled
from rlhf_jax.data import DataConfig, byte_tokenizer, load_examples
from rlhf_jax.data.named_tokenizers import train_tokenizer
from rlhf_jax.data.synthetic import parse_task, synthetic_rows
from rlhf_jax.rewards import REWARDS
from tests.config.test_configs import checked_header

FILES = sorted(
    path
    for path in (pathlib.Path(__file__).resolve().parents[2] / "configs" / "evidence").glob(
        "*.yaml"
    )
    if path.stem != "claims"  # what is said of the comparisons
)
RUNS = {"best_of_8", "sft_own", "dpo", "ppo", "grpo", "dapo"}
ABOUT_ONE_TASK = {"dapo_parts": "long_sums", "safety_kl": "safety"}
"""Comparisons that go further on the task and the starts of another."""


def tree_of(path):
    return settled(read_with_base(path).tree)


def test_there_are_four():
    tasks = [path.stem for path in FILES if path.stem not in ABOUT_ONE_TASK]
    assert tasks == ["countdown", "long_sums", "programs", "safety"]


@pytest.mark.parametrize(("path", "of"), ABOUT_ONE_TASK.items())
def test_what_goes_further_has_the_starts_of_its_task(path, of):
    one, other = (load_compare(FILES[0].parent / f"{name}.yaml") for name in (path, of))
    for section in ("seeds", "common", "prompts", "start"):
        assert getattr(one, section) == getattr(other, section), section
    assert all(stage in other.preparations for stage in one.preparations)
    known = {run.name: run.config for run in other.runs}
    same = {run.name: run.config for run in one.runs if run.name in known}
    assert same
    for name, config in same.items():
        assert config["algorithm"] == known[name]["algorithm"]
        assert config == known[name] or path == "safety_kl"  # slower, and measured more often


PUBLISHED = sorted((FILES[0].parent / "results").glob("*.json.gz"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_published_results_are_of_their_file(path):
    """Whoever changes the file makes the results again, or takes them away. A run has all seeds or
    is not there."""
    document = json.loads(gzip.decompress(path.read_bytes()))
    config = load_compare(path.parent.parent / f"{path.name.removesuffix('.json.gz')}.yaml")
    asked, of_file = document["config"], settled(dataclasses.asdict(config))
    for run in asked["runs"] + of_file["runs"]:
        run["config"].get("optimizer", {}).pop("learning_rate", None)  # the tuned one
    assert asked == of_file | {"tuning": asked["tuning"]}
    made = {(cell["run"], cell["seed"]) for cell in document["cells"]}
    runs = {run for run, _ in made}
    assert runs <= {run.name for run in config.runs}
    assert runs and made == set(itertools.product(runs, config.seeds))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_each_states(path):
    checked_header(path, "compare")
    tree = tree_of(path)
    assert tree["run_dir"] == f"runs/evidence/{path.stem}"
    assert len(tree["seeds"]) == 10
    if path.stem not in ABOUT_ONE_TASK:
        assert {run.name for run in load_compare(path).runs} >= RUNS
    if tree.get("tuning") is not None:
        assert not set(tree["seeds"]) & set(tree["tuning"]["seeds"])
        assert len(tree["tuning"]["values"]) >= 4
    for low, high in tree["start"]["accept"].values():
        assert 0 < low < high < 1


def tokenizer_of(tree):
    """Of the start: the built-in one, or one that is trained on the same rows."""
    kind, _, size = tree["start"]["config"]["tokenizer"].partition(":")
    if kind == "byte":
        return byte_tokenizer()
    rows = itertools.islice(synthetic_rows(tree["common"]["data"]["path"], "prompts"), 4000)
    return train_tokenizer((f"{row['prompt']} {row['answer']}" for row in rows), int(size))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_prompts_and_right_answers_fit(path):
    """No prompt is left out, and no right answer is cut, but for the longest of one task."""
    tree = tree_of(path)
    rollout, data = tree["prompts"]["rollout"], tree["common"]["data"]
    tokenizer = tokenizer_of(tree)
    task = dataclasses.replace(parse_task(data["path"]), size=2000)
    cut = 0
    for number, row in enumerate(synthetic_rows(data["path"], "prompts")):
        if number == task.size:
            break
        prompt, answer = len(tokenizer.encode(row["prompt"])), len(tokenizer.encode(row["answer"]))
        assert prompt <= rollout["max_prompt_len"], row
        assert prompt + answer + 1 <= data["max_length"], row
        cut += answer + 1 > rollout["max_new_tokens"]
    assert (0.1 < cut / task.size < 0.5) if "long_sums" in data["path"] else cut == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_rewards_grade_the_answers_of_the_task(path):
    tree = tree_of(path)
    data = DataConfig(**{key: tree["common"]["data"][key] for key in ("path", "eval_size")})
    rows = load_examples(data, kind="prompts", split="eval").rows[:200]
    columns = {name: [row.columns[name] for row in rows] for name in rows[0].columns}
    for reward in tree["prompts"]["rewards"]:
        if reward["function"] == "model":
            continue
        found = REWARDS[reward["function"]](
            [row.prompt for row in rows], columns["answer"], **reward.get("options", {}), **columns
        )
        right = sum(found) / len(found)
        low, high = {"harmful": (0, 0), "safety": (0.8, 0.95)}.get(reward["function"], (1, 1))
        assert low <= right <= high, "an eighth of the safe answers is padded"


def test_the_judge_learns_from_two_thousand_pairs_on_no_held_out_prompt():
    (path,) = [path for path in FILES if path.stem == "safety"]
    tree = tree_of(path)
    common = tree["common"]["data"]
    held_out = load_examples(
        DataConfig(path=common["path"], eval_size=common["eval_size"]), kind="prompts", split="eval"
    ).rows
    learning = [*tree["preparations"], *tree["runs"]]
    for name in ("reward_model", "dpo"):
        (config,) = [stage["config"] for stage in learning if stage["name"] == name]
        pairs = load_examples(DataConfig(path=common["path"], **config["data"]), kind="pairs").rows
        assert abs(len(pairs) - 2000) < 5
        assert not {row.prompt for row in pairs} & {row.prompt for row in held_out}
