"""Comparisons of generation and online iterations: sides, gate, our own side when small."""

import argparse
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.bench import (
    generation,
    generation_sides,
    grpo_iteration,
    grpo_sides,
    inputs,
    online_iteration,
    online_ours,
    ppo_iteration,
    rollout_cost,
    sides,
)
from rlhf_jax.bench.low_ids import VOCAB, low_ids
from rlhf_jax.bench.outcome import show
from rlhf_jax.models import ModelConfig, init_model, load_pretrained
from rlhf_jax.types import Rollout

TINY = {
    **inputs.MODEL,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}
SMALL = ["--sides", "rlhf_jax", "--windows", "1", "--prompt", "8", "--new-tokens", "8"]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(inputs, "MODEL", TINY)


@pytest.fixture(scope="module")
def model_params():
    return init_model(ModelConfig.from_hf({**TINY, "vocab_size": 64}), jax.random.key(0))


def test_low_ids_is_the_share_of_the_lower_half():
    ids = [[0, VOCAB // 2 - 1, VOCAB // 2, VOCAB - 1], [VOCAB - 1], [5, 6]]
    assert low_ids(["p"] * 3, ["c"] * 3, completion_ids=ids, answer=[1, 2, 3]) == [0.5, 0.0, 1.0]


def test_torch_sides_start_without_jax(tmp_path):
    """`start_side` must not import the package, whose __init__ needs JAX: here that fails."""
    (tmp_path / "jax.py").write_text("raise ImportError('no JAX in this interpreter')")
    starter = sides.__file__.replace("sides.py", "start_side.py")
    for module in ("dpo_sides", "grpo_sides", "ppo_sides", "generation_sides", "trl_offline"):
        run = subprocess.run(
            [sys.executable, starter, f"rlhf_jax.bench.{module}"],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(tmp_path)},
        )
        assert "no JAX" not in run.stderr
        assert (
            "the following arguments are required" in run.stderr
            or "not enough values to unpack" in run.stderr
        )


@pytest.mark.slow
def test_sides_take_turns_and_end(tmp_path):
    code = """
from rlhf_jax.bench.grpo_sides import serve
count = iter(range(9))
serve(lambda: {"loss": 2.5}, lambda: {"generation": next(count)}, windows=3)
"""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    }
    answers = sides.take_turns(processes, tmp_path, rounds=3)
    for windows in answers.values():
        assert windows[0] == {"loss": 2.5}
        assert [window["generation"] for window in windows[1:]] == [0, 1]
        assert all(window["seconds"] >= 0 for window in windows[1:])
    assert all(process.poll() is not None for process in processes.values())


def test_no_ratio_when_the_gate_fails(capsys):
    def answers(norm):
        return [
            {"loss/total": 0.5, "grad_norm": norm},
            {"seconds": 9.0, "peak": 10**9},
            {"seconds": 2.0, "peak": 10**9},
            {"seconds": 4.0, "peak": 10**9},
        ]

    def printed(norm):
        both = {"rlhf_jax": answers(1.0), "TRL": answers(norm)}
        found = online_iteration.report("PPO", both, tolerance=1e-5)
        return show(found), capsys.readouterr().out

    for norm in (1.0001, float("nan")):
        code, text = printed(norm)
        assert code == 1 and " ms " not in text
    code, text = printed(1.000001)
    assert code == 0
    assert "TRL         3000.0 ms  (2000.0 .. 4000.0)   x none: 0.50 to 2.00, windows" in text


def test_the_update_is_a_comparison_of_its_own():
    window = {"seconds": 3.0, "peak": 10**9, "generation": 1.0, "score": 0.5, "update": 1.25}
    answers = {
        "rlhf_jax": [{"loss/total": 1.0}, *[window] * 3],
        "plain": [{"loss/total": 1.0}, *[window | {"update": 2.5}] * 3],
        "TRL": [{"loss/total": 1.0}, *[{"seconds": 9.0, "peak": 10**9}] * 3],
    }
    whole, update = online_iteration.report("PPO", answers, tolerance=1e-5)
    assert [side.name for side in whole.sides] == list(answers)
    assert whole.sides[0].note == "generation 1000.0 ms, score 500.0 ms, update 1250.0 ms"
    assert [side.name for side in update.sides] == ["rlhf_jax", "plain"]
    assert update.ratio(update.sides[1]) == 2.0


def test_ragged_lengths():
    whole = online_iteration.lengths_of(64, 48, ragged=False)
    assert (whole == 48).all()
    ragged = online_iteration.lengths_of(64, 48, ragged=True)
    assert ragged.min() >= 1 and ragged.max() <= 48 and 8 < np.median(ragged) < 18
    with pytest.raises(SystemExit):
        ppo_iteration.main(["--ragged"])  # TRL is one of the sides


def test_completions_are_cut_as_if_their_end_had_come():
    present = np.ones((2, 5), bool)
    chosen = np.broadcast_to(np.arange(5) >= 2, (2, 5))
    logps = np.where(chosen, -1.5, 0).astype(np.float32)
    whole = Rollout(np.arange(10).reshape(2, 5) + 1, present, chosen, logps, np.ones(2, bool))
    found = online_ours.cut(whole, np.array([1, 3]), pad_id=0)
    np.testing.assert_array_equal(found.tokens, [[1, 2, 3, 0, 0], [6, 7, 8, 9, 10]])
    np.testing.assert_array_equal(found.mask.sum(1), [3, 5])
    np.testing.assert_array_equal(found.completion_mask.sum(1), [1, 3])
    np.testing.assert_array_equal(found.logps[0], [0, 0, -1.5, 0, 0])
    np.testing.assert_array_equal(found.truncated, [False, True])


def test_generation_gives_no_ratio_for_other_tokens(monkeypatch, capsys, tmp_path):
    np.save(tmp_path / "rlhf_jax.npy", np.zeros((3, 2)))
    np.save(tmp_path / "transformers.npy", np.array([[0, 0], [0, 1], [0, 0]]))

    def compare(args):
        return generation.Found(*generation.equal(tmp_path, args), {})

    monkeypatch.setattr(generation, "compare", compare)
    assert generation.main(["--sides", "rlhf_jax", "transformers"]) == 1
    assert "(required: 0): 0, 1" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["best", "random"])
def test_greedy_tokens_in_bfloat16_are_judged_by_the_float32_model(tmp_path, monkeypatch, side):
    inputs.save_model(tmp_path / "model", model=TINY | {"vocab_size": 64, "initializer_range": 0.5})
    model, params = load_pretrained(tmp_path / "model")
    prompts = inputs.random_tokens(11, 5, seed=0, vocab=64)
    np.save(tmp_path / "prompts.npy", prompts)
    tokens = prompts
    for _ in range(4):
        logits = model.logits(params, jnp.asarray(tokens), jnp.ones_like(tokens, bool))[:, -1]
        best = np.argmax(logits, axis=1)[:, None]
        drawn = np.random.default_rng(1).integers(0, 64, (11, 1))
        tokens = np.concatenate([tokens, {"best": best, "random": drawn}[side]], axis=1)
    np.save(tmp_path / "rlhf_jax.npy", tokens[:, 5:])
    alone = argparse.Namespace(sides=["rlhf_jax"], threads=1, device="cpu")

    def run_alone(name, command, **options):
        generation_sides.judge(tmp_path, *command[command.index("--judge") + 1 :])

    monkeypatch.setattr(generation, "run_alone", run_alone)
    said, passed = generation.near_best(tmp_path, alone)
    regret = float(said.rpartition(" ")[2])
    assert passed == (side == "best") == (regret < 1e-6)


@pytest.mark.slow
def test_continuous_batching_wastes_less(model_params):
    lengths = rollout_cost.lognormal_lengths(24, median=12, longest=64)
    assert lengths.min() >= 1 and lengths.max() <= 64 and 8 < np.median(lengths) < 18
    found = rollout_cost.batching(*model_params, lengths, slots=4, width=4, longest=64, repeats=1)
    assert found["continuous"].tokens == found["static"].tokens == lengths.sum()
    assert found["static"].utilisation < found["continuous"].utilisation <= 1


def test_prefill_times_both_ways(model_params):
    times = rollout_cost.prefill_times(
        *model_params, prompts=2, group_size=4, width=8, new_tokens=8, repeats=1
    )
    assert set(times) == {"shared", "repeated"} and all(timing.low > 0 for timing in times.values())


def test_sides_are_pinned_and_told_their_threads(tmp_path):
    parser = argparse.ArgumentParser()
    sides.add_arguments(parser, ("rlhf_jax", "TRL"), windows=7)
    args = parser.parse_args(["--sides", "TRL"])
    assert (args.sides, args.windows, args.threads, args.python) == (["TRL"], 7, 2, sys.executable)
    assert args.device == "cpu"
    with pytest.raises(SystemExit, match="the side 'TRL' failed"):
        process = sides.start_side(
            "TRL", "rlhf_jax.bench.grpo_sides", tmp_path, python=sys.executable, threads=1
        )
        sides.take_turns({"TRL": process}, tmp_path, rounds=1)
    assert "the following arguments are required" in (tmp_path / "TRL.log").read_text()


@pytest.mark.slow
def test_our_side_of_a_grpo_iteration(tiny, capsys):
    assert grpo_iteration.main([*SMALL, "--prompts", "2"]) == 0
    printed = capsys.readouterr().out
    assert (
        f"2 prompts x {grpo_sides.GROUP} completions" in printed
        and "x 1   peak" in printed
        and "GB   generation" in printed
    )


@pytest.mark.slow
def test_our_side_of_a_ppo_iteration(tiny, capsys):
    assert ppo_iteration.main([*SMALL, "--prompts", "4"]) == 0
    printed = capsys.readouterr().out
    assert (
        "loss/policy" in printed
        and "loss/value" in printed
        and "x 1   peak" in printed
        and "GB   generation" in printed
    )


@pytest.mark.slow
def test_our_side_of_generation(tiny, capsys):
    assert generation.main([*SMALL, "--rows", "4"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"rlhf_jax .* x 1 .*tokens/s", printed)) == 2
