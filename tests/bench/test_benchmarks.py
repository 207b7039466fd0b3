"""The benchmarks run at small sizes and say what they should."""

import subprocess
import sys

import pytest

from rlhf_jax.bench import attention, dpo_step, fused_logps, inputs, sides
from rlhf_jax.bench.timing import interleave


def test_interleave_visits_sides_in_turns():
    order = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}
    times = interleave(sides, repeats=3, warmup=1)
    assert order == ["a", "b"] * 4
    for timing in times.values():
        assert 0 <= timing.low <= timing.median <= timing.high


@pytest.mark.slow
def test_fused_logps_reports_memory_time_and_agreement(capsys):
    fused_logps.main(
        ["--rows", "64", "--width", "8", "--vocab", "4000", "--repeats", "1", "--block", "256"]
    )
    printed = capsys.readouterr().out
    report = fused_logps.compare(64, 8, 4000, repeats=1, block=256)
    assert all(error < 1e-5 for error in report.errors.values())
    assert report.temp_bytes["plain"] > 3 * report.temp_bytes["fused"]
    assert (
        f"memory, plain over fused: {report.temp_bytes['plain'] / report.temp_bytes['fused']:.1f}"
        in printed
    )


@pytest.mark.slow
def test_attention_times_every_implementation(capsys):
    attention.main(["--batch", "1", "--length", "16", "--repeats", "1"])
    printed = capsys.readouterr().out
    for name in attention.IMPLEMENTATIONS["cpu"]:
        assert f"{name} forward+backward" in printed


@pytest.fixture
def tiny(monkeypatch):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
    }
    monkeypatch.setattr(inputs, "MODEL", inputs.MODEL | sizes | {"vocab_size": 64})


@pytest.mark.slow
def test_dpo_step_compares_our_own_two_heads(tiny, capsys):
    options = [
        "--sides",
        "rlhf_jax",
        "rlhf_jax, whole head",
        "--windows",
        "1",
        "--steps",
        "1",
        "--reference",
        "precomputed",
    ]
    assert dpo_step.main(options) == 0
    printed = capsys.readouterr().out
    assert "losses agree within" in printed and "rlhf_jax, whole head" in printed


def test_dpo_step_gives_no_ratio_when_losses_disagree(monkeypatch, capsys):
    results = {
        "rlhf_jax": dpo_step.Result([1.0, 0.5], [0.1], 10**9),
        "TRL": dpo_step.Result([1.0, 0.51], [0.1], 10**9),
    }
    monkeypatch.setattr(dpo_step, "compare", lambda args: results)
    assert dpo_step.main(["--sides", "rlhf_jax", "TRL"]) == 1
    assert " x " not in capsys.readouterr().out.split("required")[1]


def test_a_side_that_dies_says_why(tmp_path):
    (tmp_path / "plain PyTorch.log").write_text("ModuleNotFoundError: No module named 'torch'")
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with pytest.raises(SystemExit, match="extra `bench`.*\n.*No module named 'torch'"):
        sides.ask("plain PyTorch", process, tmp_path)
    process.communicate()
