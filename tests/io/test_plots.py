"""Pictures of a run and of a comparison: what is drawn, in which words, and what is left out."""

import math

import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure

from rlhf_jax.io import JsonlSink, MetricsError, plot_curves, plot_run
from rlhf_jax.io import plots as pictures
from rlhf_jax.io.axes import as_share, smoothed, spread
from rlhf_jax.io.curves import _mean, held_out_in_words

ONLINE = {
    "loss/total": 1e-8,
    "rewards/mean": 0.5,
    "rewards/math": 0.4,
    "rewards/format": 0.1,
    "rewards/zero_std_groups": 0.5,
    "rewards/ungraded": 0.0,
    "data/groups_generated": 8.0,
    "data/accuracy": 0.4,
    "data/sampling_waste": 0.0,
    "length/mean": 10.0,
    "policy/entropy": 0.9,
    "grad_norm": 1.0,
    "lr": 0.1,
    "tokens_per_second": 100.0,
    "time/generate": 1.0,
    "baseline": 0.3,
}
EVALUATION = {"accuracy/mean@4": 0.3, "accuracy/greedy": 0.4, "rewards/sampled": 0.3}


def rows_of(*steps, split="train", **metrics):
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    return [{"step": step, "split": split, **ONLINE, **names} for step in steps]


def titles(rows):
    return {
        name.split(" (")[0]: [panel.title for panel in pictures.shown(panels, rows)]
        for name, panels in pictures.sections(rows)
    }


def test_what_is_judged_comes_first_and_zeros_are_left_out():
    evaluations = [{"step": 0, "split": "eval", **EVALUATION}]
    assert titles(rows_of(1, 2, 3) + evaluations) == {
        "what is judged": ["reward", "each reward function", "right answers"],
        "health": [
            "groups of equal rewards",
            "entropy, nats per token",
            "length, tokens",
            "gradient norm",
            "baseline",
        ],
        "machine": ["tokens per second", "seconds of a step", "learning rate"],
    }


def test_a_reward_that_is_the_share_of_right_answers_is_drawn_once():
    rows = rows_of(1, 2, 3, rewards__mean=0.4, data__accuracy=0.4)
    assert titles(rows)["what is judged"] == ["right answers, which is the reward"]


def test_a_mean_over_kept_groups_is_called_so():
    first = titles(rows_of(1, 2, data__sampling_waste=0.5))["what is judged"][0]
    assert first == "reward (in training of the kept groups)"


def test_one_reward_function_is_the_reward():
    rows = [{name: row[name] for name in row if name != "rewards/format"} for row in rows_of(1, 2)]
    assert titles(rows)["what is judged"] == ["reward", "right answers"]


def test_a_run_that_does_not_sample_is_judged_by_its_loss():
    rows = [{"step": 1, "split": "train", "loss/total": 0.6, "rewards/mean": 1.0, "lr": 0.1}]
    assert titles(rows) == {
        "what is judged": ["loss (lower is better)"],
        "health": [],
        "machine": ["learning rate"],
    }


def throughput(rows):
    (panel,) = [panel for panel in pictures.MACHINE if panel.title == "tokens per second"]
    return pictures.points(panel, panel.lines[0], rows)


def test_steps_that_compiled_are_no_throughput():
    assert throughput(rows_of(1, 2, 3)) == [(2.0, 100.0), (3.0, 100.0)]
    told = rows_of(1, time__compile=5.0) + rows_of(2, 3) + rows_of(4, time__compile=1.0)
    assert [step for step, _ in throughput(told)] == [2.0, 3.0]


def test_only_what_is_noisy_is_smoothed():
    assert {panel.title for panel in pictures.MACHINE if not panel.is_noisy} == {"learning rate"}
    values = list(np.arange(90.0))
    # a centred mean does not lag
    np.testing.assert_allclose(smoothed(values)[3:-3], values[3:-3])


def test_what_is_0_throughout_is_named_and_what_is_not_measured_is_not():
    rows = rows_of(1, 2, 3)
    assert pictures.silent(rows) == ["groups dropped by sampling", "completions not graded"]
    moved = rows_of(1, 2, data__sampling_waste=0.1, rewards__ungraded=0.1)
    assert pictures.silent(moved) == []


def drawn_axes(values):
    axes = Figure().subplots()
    axes.plot(range(len(values)), values, marker="o")
    return axes


@pytest.mark.parametrize(
    ("values", "ends"), [([0.2, 1.0], (None, 1.0)), ([0.0, 0.4], (0.0, None)), ([1, 1], (None, 1))]
)
def test_no_share_is_above_100_or_below_0(values, ends):
    axes = drawn_axes(values)
    as_share(axes)
    low, high = axes.get_ylim()
    assert low >= 0 and high <= 1 and low < high
    assert ends[0] in (None, low) and ends[1] in (None, high)
    assert not any(line.get_clip_on() for line in axes.get_lines())  # points on the frame are whole
    assert axes.yaxis.get_major_formatter()(0.25, 0) == "25%"


def test_a_movement_of_less_than_a_token_is_not_drawn_as_one():
    axes = drawn_axes([3.99, 4.0])
    spread(axes, 2.0)
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(2.0) and low < 3.99 < 4.0 < high
    spread(axes, 1.0)
    assert axes.get_ylim() == (low, high)
    (length,) = [panel for panel in pictures.HEALTH if panel.title.startswith("length")]
    assert length.least == 2.0


def test_of_a_long_run_with_missing_values(tmp_path):
    run = tmp_path / "first"
    run.mkdir()
    (run / "config.yaml").write_text("algorithm: {name: grpo}\nmodel: {path: some/model}\n")
    sink = JsonlSink(run / "metrics.jsonl")
    for step in range(1, 50):
        sink.write(step, ONLINE | {"rewards/mean": math.nan if step == 7 else 1 / step})
    sink.write(49, EVALUATION, split="eval")
    sink.close()
    image = plot_run(run / "metrics.jsonl", tmp_path / "x.png")
    assert image == tmp_path / "x.png" and image.stat().st_size > 20_000
    title = pictures.title_of(run, pictures.read_metrics(run))
    assert title.startswith("first · grpo · some/model · ") and " · 49 steps\n" in title
    bucket = epath.Path("gs://pod/runs/second")
    assert pictures.title_of(run, pictures.read_metrics(run), bucket).startswith("second · grpo · ")
    assert title.endswith("held-out, first and last: right sampled 30% · right greedy 40%")
    JsonlSink(run / "metrics.jsonl").close()
    with pytest.raises(MetricsError, match="nothing to draw"):
        plot_run(run)


@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_of_a_comparison(tmp_path, seeds):
    curves = {"dpo": [[(0, 1, 0.5), (10, 9, 0.8)]] * seeds, "own": [[(0, 2, 0.5)]] * seeds}
    image = plot_curves(curves, tmp_path / "x.png", metric="accuracy/mean@4", level=0.72, reach=0.9)
    assert image.read_bytes().startswith(b"\x89PNG")


def test_a_name_is_no_formula(tmp_path):
    curves = {r"$\bad{$": [[(0, 1, 0.5), (10, 9, 0.8)]]}
    assert plot_curves(curves, tmp_path / "x.png", metric="accuracy/mean@4").exists()


def test_seeds_are_averaged_at_equal_times():
    slow = np.array([[0, 0, 0.0], [10, 20, 1.0]], float)
    fast = np.array([[0, 0, 0.0], [10, 10, 1.0]], float)
    steps, values = _mean([slow, fast], 0)
    assert steps.tolist() == [0, 10] and values.tolist() == [0, 1]
    times, values = _mean([slow, fast], 1)
    assert (times[0], times[-1]) == (0, 10)  # as long as both run
    assert values[-1] == pytest.approx((0.5 + 1.0) / 2)


def test_words():
    assert held_out_in_words("accuracy/mean@4") == "right answers of 4 samples per prompt"
    assert held_out_in_words("accuracy/greedy") == "right greedy answers"
    assert held_out_in_words("rewards/greedy") == "held-out rewards/greedy"
