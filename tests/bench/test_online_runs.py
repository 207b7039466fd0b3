"""GRPO on recorded completions: what TRL gets of a recorded batch, and the options of every
relative."""

import argparse
import runpy

import numpy as np
import pytest

from rlhf_jax.algorithms import GRPOConfig
from rlhf_jax.bench import curves, online_runs, trl_online
from rlhf_jax.bench.online_runs import FAMILY, REWARD
from tests.exported import random_export


@pytest.mark.parametrize("name", FAMILY)
def test_options_are_those_of_the_algorithm(name):
    GRPOConfig(**{"group_size": online_runs.GROUP_SIZE, **FAMILY[name].ours})
    assert name in curves.COMPARED


def test_trl_gets_prompt_and_completion_of_every_row(tmp_path):
    tokens = np.array([[5, 6, 7, 8, 0], [5, 9, 3, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
    chosen = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]], bool)
    np.savez(
        tmp_path / "batch_00000003.npz",
        tokens=tokens,
        mask=mask,
        completion_mask=chosen,
        sampler_logps=np.where(chosen, -tokens, 0.0),
        rewards=np.array([0.5, 1.0]),
    )
    assert trl_online.read_rows(tmp_path, 3) == {
        "prompt_ids": [[5, 6], [5]],
        "completion_ids": [[7, 8], [9, 3]],
        "logprobs": [[-7.0, -8.0], [-9.0, -3.0]],
        "recorded_reward": [0.5, 1.0],
    }


def test_the_reward_is_a_share(tmp_path):
    (tmp_path / "reward.py").write_text(REWARD)
    even = runpy.run_path(str(tmp_path / "reward.py"))["even"]
    assert even([], [], [[2, 4, 3, 1], [], [8]]) == [0.5, 0.0, 1.0]


@pytest.mark.slow
def test_ours_records_every_batch_and_its_gradients(tmp_path):
    start = random_export(tmp_path / "start")
    args = argparse.Namespace(
        model=start, steps=2, batch_size=2, learning_rate=1e-3, threads=2, python="python"
    )
    run = online_runs.run_ours(tmp_path, args, FAMILY["grpo-kl"].ours)
    assert len(run.losses) == 2 and min(run.losses) > 0
    for step in range(2):
        rows = trl_online.read_rows(tmp_path / "batches", step)
        assert len(rows["completion_ids"]) == 2 * online_runs.GROUP_SIZE
        assert all(0 < len(ids) <= online_runs.MAX_NEW_TOKENS for ids in rows["completion_ids"])
