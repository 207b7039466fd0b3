"""`rlhf-jax report`, `rlhf-jax show` and `rlhf-jax metrics`: looking at runs."""

import argparse
import pathlib
from typing import Any

from rlhf_jax.algorithms import METRICS
from rlhf_jax.cli.output import format_number, print_table, say
from rlhf_jax.config import ConfigError
from rlhf_jax.config.errors import did_you_mean

SHOWN_CHARACTERS = 600
"""Of a prompt or completion in the terminal."""


def report(options: argparse.Namespace) -> int:
    """`rlhf-jax report RUN [RUN ...]`."""
    from rlhf_jax.runs.report import write_report  # heavy

    out, runs = write_report(options.runs, options.output)
    size = out.stat().st_size / 1e6
    several = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    say(f"report of {several}: {out} ({size:.1f} MB, opens in any browser, without a network)")
    for run in runs:
        for note in run.notes:
            say(f"{run.path}: {note}")
    return 0


def show(options: argparse.Namespace) -> int:
    """`rlhf-jax show RUN [RUN ...]`, `rlhf-jax show FOLDER`."""
    from rlhf_jax.runs.report import find_runs, read_run, tables  # heavy

    runs = [read_run(path) for path in find_runs(options.runs)]
    chosen = [options.step, options.split, options.sort, options.judged, options.reverse or None]
    if not options.completions and any(choice is not None for choice in chosen):
        raise ConfigError(
            "--step, --split, --sort, --reverse, --wrong and --right choose completions: add "
            "--completions"
        )
    if options.limit < 1:
        raise ConfigError(f"--limit {options.limit} must be at least 1")
    if options.completions:
        for run in runs:
            _show_completions(run, options)
        return 0
    is_folder = any(not (pathlib.Path(path) / "metrics.jsonl").is_file() for path in options.runs)
    if is_folder:
        _print(tables.list_of_runs(runs))
        return 0
    _print(tables.one_run(runs[0]) if len(runs) == 1 else tables.side_by_side(runs))
    changes = tables.differences_of(runs)
    if changes is not None:
        _print(changes)
    elif len(runs) > 1:
        say("the runs differ in nothing that changes what is learnt, but for their seeds")
    for run in runs:
        reason = [f"ended by {run.reason}"] if run.reason else []
        for note in [*reason, *run.notes]:
            say(f"{run.path}: {note}")
    return 0


def metrics(options: argparse.Namespace) -> int:
    """`rlhf-jax metrics [NAME]`."""
    from rlhf_jax.io.run_metrics import RUN_METRICS, meaning_of  # heavy

    if options.name is not None:
        meaning = meaning_of(options.name)
        if meaning is None:
            known = [*METRICS, *(name for names in RUN_METRICS for name in names)]
            hint = did_you_mean(options.name, known)
            raise ConfigError(f"{options.name!r} is no metric of the library{hint}")
        say(f"{options.name}: {meaning}")
        return 0
    rows = [(name, text) for name, text in METRICS.items()]
    print_table("metrics of the algorithms", ["name", "meaning"], rows)
    rows = [("\n".join(names), text) for names, text in RUN_METRICS.items()]
    print_table("metrics of the loops, at every step or evaluation", ["name", "meaning"], rows)
    say("NAME is a reward, METRIC what it logs, KIND a way to fail, k the number of samples.")
    return 0


def _print(table: Any) -> None:
    print_table(table.title, table.columns, table.rows, numbers=table.numbers)


def _show_completions(run: Any, options: argparse.Namespace) -> None:
    """Completions of a run, those asked for."""
    from rlhf_jax.runs.report.completions import Limits, read_completions

    # of one step everything is looked through, of a whole run an even part
    limits = Limits(rows=20_000, characters=20_000_000, rows_per_step=2_000)
    found = read_completions(run, limits, step=options.step, split=options.split)
    if not found.total:
        raise ConfigError(
            f"{run.path} holds no completions: offline algorithms generate none, and "
            "logging.save_completions=none keeps none"
        )
    if not found.rows:
        raise ConfigError(f"{run.path} holds no completions of step {options.step}")
    wanted = {"wrong": False, "right": True}.get(options.judged)
    rows = [row for row in found.rows if wanted is None or row["right"] is wanted]
    if wanted is not None and all(row["right"] is None for row in found.rows):
        raise ConfigError(f"{run.path}: no reward of this run says what is right or wrong")
    if options.sort is not None:
        rows.sort(key=lambda row: _sort_value(row, options.sort), reverse=not options.reverse)
    elif options.reverse:
        rows.reverse()
    say(f"{run.path}: {len(rows):,} of {found.total:,} completions fit")
    for row in rows[: options.limit]:
        say(_describe_completion(row, found.rewards))
    if len(rows) > options.limit:
        say(f"{len(rows) - options.limit:,} more: --limit N shows more of them")
    for note in found.notes:
        say(note)


def _sort_value(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    return float("-inf") if value is None else float(value)


def _describe_completion(row: dict[str, Any], rewards: list[str]) -> str:
    """A heading, the prompt and the completion."""
    kind = "training" if row["split"] == "train" else "held out"
    kind += ", greedy" if row.get("sample") == -1 else ""
    verdict = {True: ", right", False: ", wrong", None: ""}[row["right"]]
    parts = [f"{name} {format_number(row.get(name))}" for name in rewards]
    several = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    cut = ", cut at the limit" if row.get("truncated") else ""
    reward = row.get("reward")
    graded = "not graded" if reward is None else f"reward {format_number(reward)}"
    heading = f"step {row['step']}, {kind}: {graded}{several}{verdict}"
    return (
        f"\n{heading}, {row.get('tokens')} tokens{cut}"
        f"\n  prompt      {_short(row.get('prompt'))}"
        f"\n  completion  {_short(row.get('completion'))}"
    )


def _short(text: str | None) -> str:
    """A text on one line."""
    shown = repr(text or "")
    if len(shown) <= SHOWN_CHARACTERS:
        return shown
    half = SHOWN_CHARACTERS // 2
    return f"{shown[:half]} ... {shown[-half:]}"
