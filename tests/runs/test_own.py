"""What one brings oneself: algorithm, model, sampler, environment, grader, callbacks."""

import dataclasses
import json
import string

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import ALGORITHMS, GRPOConfig, make_algorithm, register
from rlhf_jax.config import ConfigError, load_config
from rlhf_jax.errors import TrainingError
from rlhf_jax.fused import FusedConfig, GenerationShape, PromptSet, make_fused_loop
from rlhf_jax.io import read_metrics
from rlhf_jax.loops.grading import Grades
from rlhf_jax.models import ModelConfig, init_model, save_pretrained
from rlhf_jax.rewards import PoolConfig, RewardConfig
from rlhf_jax.rollout import with_environment
from rlhf_jax.runs import train
from rlhf_jax.runs.replay import read_batch
from rlhf_jax.types import Algorithm, Models, Sampling
from tests.loops.conftest import MODEL
from tests.runs.own import (
    BigramConfig,
    DistillConfig,
    Echo,
    ReinforceConfig,
    StubSampler,
    bigram,
    make_distill,
    make_reinforce,
)

EVEN = '''
"""A completion that begins with an even token is worth 1."""


def grade(prompts, completions, completion_ids, **columns):
    return [float(ids[0] % 2 == 0) for ids in completion_ids]
'''


@pytest.fixture
def even(tmp_path):
    """(data section, rewards)."""
    rows = [{"prompt": f"{i:02d}:"} for i in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "even.py").write_text(EVEN)
    data = {"path": str(tmp_path / "prompts.jsonl"), "eval_size": 0}
    return data, (RewardConfig(function=f"{tmp_path / 'even.py'}:grade"),)


def rewards_of(run_dir):
    return [row["rewards/mean"] for row in read_metrics(run_dir) if row["split"] == "train"]


@pytest.mark.slow
def test_reinforce_learns_and_resumes_with_the_same_bits(online_config, even, tmp_path):
    """An algorithm of 40 lines, with a state of its own, through `train()`."""
    data, rewards = even
    options = {
        "algorithm": ReinforceConfig(group_size=8),
        "data": data,
        "rewards": rewards,
        "training": {"batch_size": 8, "max_steps": 12, "eval_every": 0, "save_every": 4},
        "optimizer": {"learning_rate": 3e-2},
    }
    whole = train(online_config("reinforce", run_dir=tmp_path / "whole", **options), progress=False)
    found = rewards_of(whole.run_dir)
    assert np.mean(found[-3:]) > np.mean(found[:3]) + 0.15
    broken = online_config("reinforce", run_dir=tmp_path / "broken", **options)
    first = train(broken, callbacks=[lambda step, metrics: step == 6], progress=False)
    assert first.steps == 6
    second = train(broken, progress=False)
    assert second.steps == 12 and rewards_of(second.run_dir) == found
    baselines = [
        [row["baseline"] for row in read_metrics(result.run_dir) if row["split"] == "train"]
        for result in (whole, second)
    ]
    assert baselines[0] == baselines[1] and baselines[0][-1] > 0.1


def even_start(rollout, answers):
    """1 for a completion that begins with an even token."""
    first = jnp.argmax(rollout.completion_mask, axis=1)
    tokens = jnp.take_along_axis(rollout.tokens, first[:, None], axis=1)[:, 0]
    return (tokens % 2 == 0).astype(jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reinforce", "distill"])
def test_they_run_in_one_program(name):
    """Through the fused loop; the teacher is a tree of its own, of another architecture."""
    tiny = ModelConfig.from_hf(MODEL)
    model, params = init_model(tiny, jax.random.key(0))
    large, teacher = init_model(
        ModelConfig.from_hf({**MODEL, "hidden_size": 64, "num_hidden_layers": 3}), jax.random.key(1)
    )
    model = model._replace(roles=(("ref", large),))
    config = {"reinforce": ReinforceConfig(group_size=8), "distill": DistillConfig(group_size=8)}
    algorithm = make_algorithm(config[name], model)
    run = make_fused_loop(
        algorithm,
        model,
        optax.adam(1e-2),
        size=FusedConfig(num_steps=8, batch_size=4),
        shape=GenerationShape(max_new_tokens=3, eos_id=1, pad_id=0),
        reward=even_start,
    )
    prompts = PromptSet(jnp.arange(2, 10).reshape(4, 2), jnp.full(4, 2))
    frozen = {"ref": teacher} if name == "distill" else {}
    _, history = jax.jit(run)({"policy": params}, prompts, None, jax.random.key(2), frozen)
    metric = history.steps["rewards/mean" if name == "reinforce" else "kl/ref"]
    if name == "reinforce":
        assert float(metric[-3:].mean()) > float(metric[:3].mean())
    else:
        assert 0 < float(metric[-1]) < float(metric[0])


@pytest.mark.slow
def test_distillation_from_a_larger_teacher(online_config, even, tmp_path):
    """No reward; the reverse KL to the teacher falls."""
    data, _ = even
    large = {**MODEL, "hidden_size": 64, "num_hidden_layers": 3}
    model, params = init_model(ModelConfig.from_hf(large), jax.random.key(5))
    scale = lambda x: 4 * x  # noqa: E731  a teacher that prefers some tokens
    save_pretrained(tmp_path / "teacher", model, jax.tree.map(scale, params))
    base = online_config(
        "grpo",
        data=data,
        rewards=(RewardConfig(function="length"),),
        training={"batch_size": 8, "max_steps": 10, "eval_every": 0, "save_every": 0},
        optimizer={"learning_rate": 1e-2},
    )
    config = dataclasses.replace(
        base,
        algorithm=DistillConfig(group_size=8),
        rewards=(),
        reward_pool=PoolConfig(),
        model=dataclasses.replace(base.model, reference=str(tmp_path / "teacher")),
    )
    result = train(config, progress=False)
    rows = [row for row in read_metrics(result.run_dir) if row["split"] == "train"]
    assert rows[-1]["kl/ref"] < 0.8 * rows[0]["kl/ref"]
    assert not any(name.startswith("rewards/") for name in rows[0])
    missing = dataclasses.replace(config.model, reference=None)
    with pytest.raises(ValueError, match=r"model.reference is null, but algorithm.name=distill"):
        dataclasses.replace(config, model=missing)


def test_a_model_and_a_sampler_of_ones_own(online_config, even, tmp_path):
    """Thirty lines of pure functions and a sampler on the host, in place of everything of ours."""
    data, rewards = even
    config = online_config(
        "grpo",
        algorithm=GRPOConfig(group_size=8),
        data=data,
        rewards=rewards,
        run_dir=tmp_path / "bigram",
        training={"batch_size": 8, "max_steps": 12, "eval_every": 0, "save_every": 5},
        model={"config": None, "given": True},
        mesh={"replicate": (".*",)},
        optimizer={"learning_rate": 0.3},
    )
    given = (bigram(320), {"table": {"kernel": jnp.zeros((320, 320))}})
    assert isinstance(given[0].config, BigramConfig)
    result = train(config, model=given, sampler=StubSampler(), progress=False)
    found = rewards_of(result.run_dir)
    assert found[-1] > 0.85 > 0.65 > found[0]
    first = next(row for row in read_metrics(result.run_dir) if row["split"] == "train")
    assert first["sampler/logp_diff"] < 1e-5 and result.export_dir is None
    with pytest.raises(ValueError, match="it cannot sample: give train"):
        train(dataclasses.replace(config, run_dir=str(tmp_path / "b")), model=given, progress=False)
    with pytest.raises(ValueError, match="model.given=true: a model of one's own"):
        train(dataclasses.replace(config, run_dir=str(tmp_path / "c")), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_two_turns_with_an_environment(online_config, even, tmp_path, chat):
    """Its tokens are present and not chosen; trainer and sampler agree about all others."""
    data, rewards = even
    if chat:
        rows = [{"prompt": [{"role": "user", "content": f"{i:02d}:"}]} for i in range(24)]
        (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        template = (
            "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
            "{% if add_generation_prompt %}a:{% endif %}"
        )
        data = data | {"path": str(tmp_path / "chat.jsonl"), "chat_template": template}
    environment = Echo()
    config = online_config(
        "grpo",
        data=data,
        rewards=rewards,
        algorithm=GRPOConfig(group_size=4, kl_coef=0.1),
        training={"batch_size": 4, "max_steps": 3, "eval_every": 0, "save_every": 0},
        # a random model must end its turns somewhere
        rollout={"record": str(tmp_path / "batches"), "stop": tuple(string.ascii_letters)},
    )
    result = train(
        config,
        sampler=lambda built_in, tokenizer: with_environment(
            built_in, environment, tokenizer, max_turns=2, max_reply_len=16
        ),
        progress=False,
    )
    rows = [row for row in read_metrics(result.run_dir) if row["split"] == "train"]
    assert all(row["sampler/logp_diff"] < 1e-5 for row in rows)
    assert environment.asked and all(
        turns[-1]["role"] == "assistant" for turns in environment.asked
    )
    batch = read_batch(tmp_path / "batches", 0)
    holes = batch.mask & ~batch.completion_mask
    first, last = batch.completion_mask.argmax(1), batch.mask.sum(1) - 1
    inside = np.arange(batch.mask.shape[1])[None, :]
    between = holes & (inside > first[:, None]) & (inside < last[:, None])
    assert between.any()
    assert (batch.completion_mask.sum(1) <= 8).all()
    np.testing.assert_allclose(rows[0]["kl/ref"], 0.0, atol=1e-5)


@pytest.mark.slow
def test_a_grader_of_ones_own(online_config, even):
    """It needs no reward function that the library knows."""
    data, rewards = even

    def longer(built_in):
        class Longer:
            names, judge, held_out = built_in.names, built_in.judge, built_in.held_out

            def __call__(self, prompts, sampled, *, state, training):
                length = np.asarray(sampled.rollout.completion_mask).sum(1).astype(np.float32)
                texts = [""] * len(length)
                return Grades(length, length[:, None], {}, texts, np.zeros(len(length), bool))

        return Longer()

    config = online_config(
        "grpo", data=data, rewards=rewards, training={"max_steps": 2, "eval_every": 0}
    )
    result = train(config, grader=longer, progress=False)
    for row in read_metrics(result.run_dir):
        assert row["rewards/mean"] == pytest.approx(row["length/mean"])


def test_callbacks_see_every_step_and_may_stop(tiny_config):
    seen = []

    def callback(step, metrics):
        seen.append((step, metrics["loss/total"]))
        return step == 3

    result = train(tiny_config("sft"), callbacks=[callback], progress=False)
    assert [step for step, _ in seen][:3] == [1, 2, 3] and not result.interrupted
    assert 3 <= result.steps < 8 and result.export_dir is not None
    rows = {row["step"]: row["loss/total"] for row in read_metrics(result.run_dir)}
    assert all(rows[step] == loss for step, loss in seen if step != result.steps)


@pytest.mark.slow
def test_record_and_replay_give_the_same_updates(online_config, even, tmp_path):
    """Without prompts, sampler and rewards: every training figure is the same."""
    data, rewards = even
    algorithm = GRPOConfig(group_size=4, num_minibatches=2, kl_coef=0.1)
    options = {"algorithm": algorithm, "data": data, "rewards": rewards}
    folder = str(tmp_path / "batches")
    recorded = online_config("grpo", run_dir=tmp_path / "a", rollout={"record": folder}, **options)
    replayed = online_config("grpo", run_dir=tmp_path / "b", rollout={"replay": folder}, **options)
    first, second = (train(each, progress=False) for each in (recorded, replayed))
    names = ("loss/total", "grad_norm", "rewards/mean", "kl/ref", "policy/entropy")
    figures = [
        [
            [row[name] for name in names]
            for row in read_metrics(r.run_dir)
            if row["split"] == "train"
        ]
        for r in (first, second)
    ]
    assert figures[0] == figures[1] and len(figures[0]) == 4
    assert len(list((tmp_path / "batches").iterdir())) == 4
    longer = dataclasses.replace(
        replayed,
        run_dir=str(tmp_path / "c"),
        training=dataclasses.replace(replayed.training, max_steps=5),
    )
    with pytest.raises(TrainingError, match="holds no batch of step 4 .*it has 4"):
        train(longer, progress=False)
    with pytest.raises(ValueError, match="what is replayed is recorded"):
        dataclasses.replace(recorded.rollout, replay="x")


FILE = '''
"""REINFORCE of a file."""

from rlhf_jax.algorithms import register
from tests.runs.own import ReinforceConfig, make_reinforce


class FileConfig(ReinforceConfig):
    pass


register("mine", FileConfig, make_reinforce)
'''


def test_an_algorithm_is_named_by_its_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace("class FileConfig", "@dataclass(frozen=True)\nclass FileConfig"))
    path.write_text("from dataclasses import dataclass\n" + path.read_text().lstrip())
    yaml = tmp_path / "run.yaml"
    yaml.write_text(
        f"algorithm: {{name: '{path}:mine', group_size: 6}}\nrun_dir: runs/x\ntokenizer: byte\n"
        "model: {config: {model_type: qwen2}}\ndata: {path: x.jsonl}\n"
        "rewards: [{function: exact_match}]\n"
    )
    config = load_config(yaml)
    assert config.algorithm.group_size == 6 and "mine" not in ALGORITHMS
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config
    with pytest.raises(ConfigError, match="is code that would be run.*--trust-rewards"):
        load_config(yaml, trusted=False)
    for name, message in (
        (f"{path}:other", "registers no 'other'"),
        (f"{tmp_path}/none.py:mine", "there is no file"),
        ("no.such.module:mine", "No module named 'no'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(yaml, [f"algorithm.name={name}"])


def test_what_an_algorithm_needs_is_checked_when_it_is_made():
    def make(config, model):
        algorithm = make_distill(config, model)
        return dataclasses.replace(algorithm, sampling=config.sampling)

    @dataclasses.dataclass(frozen=True)
    class Without(DistillConfig):
        models = Models()

    register("without_reference", Without, make)
    with pytest.raises(ValueError, match=r"needs ref_logps; this run has no reference"):
        make_algorithm(Without(), bigram(4))

    @dataclasses.dataclass(frozen=True)
    class Once(DistillConfig):
        models = Models(reference="once")

    register("reads_once", Once, make)
    with pytest.raises(ValueError, match="needs ref_logps before every step"):
        make_algorithm(Once(), bigram(4))
    ALGORITHMS.pop("reinforce")
    other = lambda config, model: dataclasses.replace(  # noqa: E731
        make_reinforce(config, model), sampling=Sampling(group_size=3)
    )
    register("other_sampling", ReinforceConfig, other)
    with pytest.raises(ValueError, match="hand config.sampling on"):
        make_algorithm(ReinforceConfig(), bigram(4))
    with pytest.raises(ValueError, match="among needs and cached"):
        score = lambda trees, batch: batch  # noqa: E731
        Algorithm(loss=None, weigh=None, needs={"x": score}, cached={"x": score})
