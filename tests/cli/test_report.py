"""`report`, `show`, `metrics`, and what `compare` says of run folders."""

import pytest

from rlhf_jax.algorithms import METRICS
from rlhf_jax.cli.main import main
from tests.runs.report.folders import GRPO, make_run

ROWS = [
    ("train", 1, "1+1=\x1b[2J", "2", 1.0),
    ("train", 1, "2+2=", "5", 0.0),
    ("train", 9, "3+3=", "7", 0.25),
    ("eval", 10, "4+4=", "8", 1.0),
]


@pytest.fixture
def runs(tmp_path):
    """(folder, run, another run)."""
    first = make_run(tmp_path / "runs" / "grpo", completions=ROWS)
    other = GRPO | {"optimizer": {"learning_rate": 1e-5}}
    return (
        tmp_path / "runs",
        first,
        make_run(tmp_path / "runs" / "hot", other, steps=20, ended=None),
    )


def test_report_writes_one_file(runs, tmp_path, capsys):
    out = tmp_path / "new" / "out.html"
    assert main(["report", *map(str, runs[1:]), "--output", str(out)]) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert f"report of 2 runs: {out}" in capsys.readouterr().out


def test_show_lists_a_folder(runs, capsys):
    assert main(["show", str(runs[0])]) == 0
    text = capsys.readouterr().out
    assert "2 runs" in text
    grpo, hot = (
        next(line for line in text.splitlines() if name in line) for name in ("grpo", "hot")
    )
    assert "finished" in grpo and "40 of 40" in grpo
    assert "killed" in hot and "20 of 40" in hot


def test_show_says_everything_of_one_run(runs, capsys):
    assert main(["show", str(runs[1])]) == 0
    text = capsys.readouterr().out
    assert "grpo, finished, 40 of 40 steps" in " ".join(text.split())
    assert "accuracy/mean@4" in text and "never changed" in text


def test_show_sets_runs_side_by_side(runs, capsys):
    assert main(["show", *map(str, runs[1:])]) == 0
    text = capsys.readouterr().out
    assert "seconds of compiling" in text and "what differs" in text
    assert "optimizer.learning_rate" in text and "1e-05" in text


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ["2", "5", "7", "8"]),
        (["--wrong"], ["5"]),
        (["--right", "--split", "train"], ["2", "7"]),
        (["--step", "1"], ["2", "5"]),
        (["--sort", "reward"], ["2", "8", "7", "5"]),
        (["--sort", "reward", "--reverse", "--limit", "2"], ["5", "7"]),
        (["--sort", "step"], ["8", "7", "2", "5"]),
    ],
)
def test_completions(runs, capsys, options, shown):
    assert main(["show", str(runs[1]), "--completions", *options]) == 0
    text = capsys.readouterr().out
    found = [line.split()[1] for line in text.splitlines() if line.startswith("  completion")]
    assert found == [repr(completion) for completion in shown]
    assert "\x1b" not in text, "a prompt must not move the cursor"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{1}", "--step", "3"], "choose completions: add --completions"),
        (["show", "{1}", "--completions", "--step", "3"], "holds no completions of step 3"),
        (["show", "{2}", "--completions"], "holds no completions: offline algorithms"),
        (["show", "{1}", "--completions", "--limit", "0"], "--limit 0 must be at least 1"),
        (["show", "{0}/grop"], "no such folder; did you mean 'grpo'"),
        (["report", "{1}/completions"], "is no run and holds none"),
        (["compare", "{1}", "{2}"], "to compare runs that are there: rlhf-jax report {1} {2}"),
        (
            ["metrics", "policy/entropie"],
            "is no metric of the library; did you mean 'policy/entropy'",
        ),
    ],
)
def test_mistakes_are_one_line(runs, capsys, arguments, message):
    assert main([argument.format(*runs) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert message.format(*runs) in text and text.count("\n") == 1


def test_metrics(capsys):
    assert main(["metrics"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in METRICS)
    assert "accuracy/maj@k" in text
    assert main(["metrics", "rewards/zero_std_groups"]) == 0
    assert "they teach nothing" in capsys.readouterr().out
