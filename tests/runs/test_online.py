"""PPO, GRPO and DAPO from a configuration to an exported model, interrupted and not."""

import dataclasses
import json
import pathlib
import signal

import jax
import numpy as np
import pandas
import pytest

from rlhf_jax.algorithms import GRPOConfig, PPOConfig
from rlhf_jax.errors import TrainingError
from rlhf_jax.io import read_metrics
from rlhf_jax.models import load_pretrained
from rlhf_jax.rewards import PoolConfig, RewardConfig
from rlhf_jax.runs import export, train
from rlhf_jax.runs.export import load_checkpoint
from rlhf_jax.runs.online import OnlineParts
from rlhf_jax.sharding import make_mesh
from tests.loops.conftest import ONLINE
from tests.runs.test_train import values

BAD = '''
"""Graders that misbehave on some completions: those of prompts whose number has a remainder."""

import os
import time


def bad(prompts, completions, number, **columns):
    if number[0] % 4 == 1:
        time.sleep(60)
    if number[0] % 4 == 2:
        raise RuntimeError("a bug of the user's")
    if number[0] % 4 == 3:
        os._exit(7)
    return [None if number[0] % 8 == 4 else float(len(completions[0]) % 2)]
'''


def arrays(run_dir, step=None):
    params = load_checkpoint(
        pathlib.Path(run_dir), step, mesh=make_mesh({}, devices=jax.devices()[:1])
    )[1]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def rows_of(run_dir, split="train"):
    return [row for row in read_metrics(pathlib.Path(run_dir)) if row["split"] == split]


@pytest.mark.parametrize(
    "name", ["grpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ppo", "dapo"))]
)
def test_a_run_from_start_to_export(online_config, mixed_task, name, tmp_path):
    data, rewards = mixed_task
    algorithm = (
        dataclasses.replace(ONLINE["dapo"], dynamic_sampling=False) if name == "dapo" else None
    )
    config = online_config(name, algorithm=algorithm, data=data | {"eval_size": 6}, rewards=rewards)
    result = train(config, progress=False)
    assert result.steps == 4 and not result.interrupted
    first, *_ = rows_of(result.run_dir)
    assert first["sampler/logp_diff"] < 1e-5
    if name != "ppo":  # one update: the whole first step is on the policy
        assert first["policy/ratio_max"] == 1.0 and first["sampler/on_policy"] == pytest.approx(1.0)
    else:
        assert (
            first["sampler/on_policy"] == pytest.approx(0.25)
            and "value/explained_variance" in first
        )
        policies = [arrays(result.run_dir, step) for step in (2, 4)]
        assert any((a != b).any() for a, b in zip(*policies, strict=True))
        critic, _ = load_pretrained(result.run_dir / "critic", head="reward")
        assert critic.scores is not None
    held_out = rows_of(result.run_dir, "eval")
    assert [row["step"] for row in held_out] == [0, 2, 4]
    assert {
        "accuracy/greedy",
        "accuracy/mean@2",
        "accuracy/pass@2",
        "accuracy/maj@2",
        "rewards/sampled",
    } <= held_out[0].keys()
    table = pandas.read_parquet(result.run_dir / "completions")
    first = table[(table.split == "train") & (table.step == 1)]
    assert len(first) == 4 * ONLINE[name].group_size and set(first.grade) <= {0.0, 1.0}
    model, params = load_pretrained(result.export_dir)
    assert model.decode is not None
    exported = export(str(result.run_dir), str(tmp_path / "again"))
    again = load_pretrained(exported)[1]
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.slow
def test_resume_gives_the_same_bits(online_config, tmp_path):
    """Stopped by a signal during step 3, after the checkpoint of step 2; with a critic, and a
    coefficient of the KL that changes."""
    whole = train(online_config("ppo", run_dir=tmp_path / "whole"), progress=False)
    broken = online_config("ppo", run_dir=tmp_path / "broken")
    assert train(broken, sampler=stopping_after(3), progress=False).interrupted
    resumed = train(broken, progress=False)
    assert not resumed.interrupted
    assert values(whole.run_dir) == values(resumed.run_dir)
    for a, b in zip(arrays(whole.run_dir), arrays(resumed.run_dir), strict=True):
        np.testing.assert_array_equal(a, b)


def stopping_after(number):
    """A sampler: SIGTERM after so many generation batches of training, before the next one."""
    calls = []

    def make(built_in, tokenizer):
        class Stopping:
            width, max_scored = built_in.width, built_in.max_scored

            def __call__(self, *args, sampling=None, **options):
                sampled = built_in(*args, sampling=sampling, **options)
                if sampling is None:  # an evaluation says how it samples
                    calls.append(1)
                    if len(calls) == number:
                        signal.raise_signal(signal.SIGTERM)
                return sampled

        return Stopping()

    return make


@pytest.mark.slow
def test_dynamic_sampling_fills_every_batch_and_loses_nothing(online_config, mixed_task, tmp_path):
    """Half the prompts always solved, a quarter never: full batches, right counts, and a stop in
    the middle of a refill."""
    data, rewards = mixed_task
    options = {
        "data": data,
        "rewards": rewards,
        "rollout": {"prompts_per_batch": 6},
        "training": {"batch_size": 3},
    }
    whole = train(online_config("dapo", run_dir=tmp_path / "whole", **options), progress=False)
    rows, carried = rows_of(whole.run_dir), 0.0
    assert len(rows) == 4 and max(row["data/generation_batches"] for row in rows) > 1
    for row in rows:
        assert row["data/groups_trained"] == 3 and row["data/groups_carried"] == carried
        generated, kept = row["data/groups_generated"], row["data/groups_kept"]
        assert generated == 6 * row["data/generation_batches"]
        assert kept + row["data/groups_all_right"] + row["data/groups_all_wrong"] == generated
        assert carried + kept == 3 + row["data/groups_left"]
        if generated:
            assert row["data/sampling_waste"] == pytest.approx(1 - kept / generated)
        assert row["rewards/zero_std_groups"] <= 1.0 and 0 < row["rewards/mean"] < 1
        carried = row["data/groups_left"]
    second = int(rows[0]["data/generation_batches"])
    for number in (second + 1, second + 2):  # in the middle of the refills of steps 2 and 3
        run_dir = tmp_path / f"broken{number}"
        broken = online_config("dapo", run_dir=run_dir, **options)
        assert train(broken, sampler=stopping_after(number), progress=False).interrupted
        resumed = train(broken, progress=False)
        assert values(whole.run_dir) == values(resumed.run_dir)
        for a, b in zip(arrays(whole.run_dir), arrays(resumed.run_dir), strict=True):
            np.testing.assert_array_equal(a, b)
        tables = [
            pandas.read_parquet(result.run_dir / "completions") for result in (whole, resumed)
        ]
        assert tables[0].equals(tables[1])
    table = tables[0]
    carried = table[table.trained_step > table.step]
    assert len(carried) == 4 * sum(row["data/groups_carried"] for row in rows) > 0
    assert len(table) == 4 * sum(row["data/groups_generated"] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("num_minibatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_carried_groups_are_off_the_policy(online_config, mixed_task, num_minibatches):
    """They divide by the log-probabilities of the policy that sampled them, also where those of the
    others are scored."""
    data, rewards = mixed_task
    algorithm = dataclasses.replace(ONLINE["dapo"], num_minibatches=num_minibatches, num_epochs=1)
    options = {
        "data": data,
        "rewards": rewards,
        "rollout": {"prompts_per_batch": 12},
        "training": {"batch_size": 2},
    }
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        inner = OnlineParts.score

        def spied(parts):
            score = inner(parts)

            def spy(trained, frozen, batch):
                out = score(trained, frozen, batch)
                if out.old_logps is not None and not bool(out.on_policy.all()):
                    stale = ~np.asarray(out.on_policy)
                    seen["stale"] = (
                        np.asarray(out.old_logps)[stale],
                        np.asarray(out.sampler_logps)[stale],
                    )
                return out

            return spy

        patch.setattr(OnlineParts, "score", spied)
        rows = rows_of(
            train(online_config("dapo", algorithm=algorithm, **options), progress=False).run_dir
        )
    if num_minibatches == 2:
        np.testing.assert_array_equal(*seen["stale"])
    later = [row for row in rows if row["data/groups_carried"] > 0]
    assert later and all(row["sampler/on_policy"] < 1 for row in later)
    assert any(row["policy/ratio_max"] > 1 for row in later)
    assert all(row["sampler/logp_diff"] < 1e-5 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"after 2 generation batches .* 0 of 3 groups have a right and a wrong answer: of 12 "
            r"generated, 12 are all wrong",
        ),
        (
            {"on_cap": "raise"},
            r"the same command goes on with algorithm.on_cap=skip, a larger algorithm.max_gen",
        ),
    ],
)
def test_an_unsolvable_task_ends(online_config, mixed_task, options, message, tmp_path):
    data, rewards = mixed_task
    path = tmp_path / "never.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"{i}:", "kind": "never"}) + "\n" for i in range(8))
    )
    algorithm = dataclasses.replace(ONLINE["dapo"], max_generation_batches=2, **options)
    config = online_config(
        "dapo",
        algorithm=algorithm,
        data=data | {"path": str(path)},
        rewards=rewards,
        rollout={"prompts_per_batch": 6},
        training={"batch_size": 3},
    )
    with pytest.raises(TrainingError, match=message):
        train(config, progress=False)


@pytest.mark.slow
def test_a_partly_filled_batch_is_trained_on_at_the_cap(online_config, mixed_task, caplog):
    data, rewards = mixed_task
    algorithm = dataclasses.replace(ONLINE["dapo"], max_generation_batches=1)
    training = {"batch_size": 12, "max_steps": 2}
    config = online_config(
        "dapo", algorithm=algorithm, data=data, rewards=rewards, training=training
    )
    with caplog.at_level("WARNING"):
        rows = rows_of(train(config, progress=False).run_dir)
    assert all(
        0 < row["data/groups_trained"] < 12 and row["loss/weight"] == pytest.approx(1)
        for row in rows
    )
    assert (
        "groups have a right and a wrong answer" in caplog.text
        and "training on those" in caplog.text
    )


@pytest.mark.slow
def test_solved_prompts_are_retired(online_config, mixed_task):
    data, rewards = mixed_task
    algorithm = dataclasses.replace(ONLINE["dapo"], retire_pass_rate=1.0, max_generation_batches=50)
    config = online_config(
        "dapo",
        algorithm=algorithm,
        data=data,
        rewards=rewards,
        training={"batch_size": 4, "max_steps": 6},
    )
    rows = rows_of(train(config, progress=False).run_dir)
    retired = [row.get("data/prompts_retired", 0.0) for row in rows]
    # the prompts that are always solved, after an epoch
    assert retired == sorted(retired) and retired[-1] >= 12
    assert rows[-1]["data/groups_all_right"] <= rows[0]["data/groups_all_right"]


@pytest.mark.slow
def test_bad_graders_do_not_stop_a_run(online_config, tmp_path):
    """One hangs, one raises, one kills its process, one returns None: NaN for these completions,
    counted, and the run goes on."""
    (tmp_path / "bad.py").write_text(BAD)
    rows = [{"prompt": f"{i}:", "number": i} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = online_config(
        "grpo",
        algorithm=GRPOConfig(group_size=2),
        data={"path": str(tmp_path / "rows.jsonl"), "eval_size": 0, "shuffle": False},
        rewards=(RewardConfig(function=f"{tmp_path / 'bad.py'}:bad", batched=False),),
        training={"batch_size": 8, "max_steps": 2},
    )
    config = dataclasses.replace(config, reward_pool=PoolConfig(workers=2, timeout=1.0))
    for row in rows_of(train(config, progress=False).run_dir):
        counts = {
            name.removeprefix("rewards/failed/bad/"): row[name]
            for name in row
            if name.startswith("rewards/failed/")
        }
        assert counts == {"timeout": 4, "error": 4, "crash": 4, "none": 2}
        assert row["rewards/ungraded"] == pytest.approx(14 / 16) and np.isfinite(row["loss/total"])


@pytest.mark.slow
def test_slots_and_several_generation_batches_change_nothing_but_the_schedule(
    online_config, tmp_path
):
    """Continuous batching draws the same completions."""
    plain = train(online_config("grpo", run_dir=tmp_path / "plain"), progress=False)
    slots = train(
        online_config("grpo", run_dir=tmp_path / "slots", rollout={"slots": 5, "chunk": 2}),
        progress=False,
    )
    assert [row["rewards/mean"] for row in rows_of(plain.run_dir)] == [
        row["rewards/mean"] for row in rows_of(slots.run_dir)
    ]
    for a, b in zip(arrays(plain.run_dir), arrays(slots.run_dir), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_a_reward_model_grades_and_starts_the_critic(online_config, tiny_config, tmp_path):
    rewards = train(
        tiny_config(
            "reward_model", run_dir=tmp_path / "rm", training={"max_steps": 2, "eval_every": 0}
        ),
        progress=False,
    )
    model = RewardConfig(function="model", options={"path": str(rewards.export_dir)})
    config = online_config(
        "ppo",
        rewards=(model, RewardConfig(function="exact_match", weight=0.5)),
        training={"max_steps": 1},
    )
    row = rows_of(train(config, progress=False).run_dir)[0]
    assert row["rewards/mean"] == pytest.approx(
        row["rewards/model"] + 0.5 * row["rewards/exact_match"], abs=1e-5
    )


def test_batches_that_do_not_divide(online_config):
    config = online_config("ppo", algorithm=PPOConfig(num_minibatches=3))
    with pytest.raises(
        ValueError, match=r"are 4 rows, which must be a multiple of 3 \(num_minibatches=3 x"
    ):
        train(config, progress=False)
