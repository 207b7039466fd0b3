"""The report as one HTML file: data as JSON, drawn by a script of ours in the page.

Everything that a run says (prompts, completions, configuration, errors) is data: it reaches the
page as JSON without a single `<`, and the script shows it as text alone. A policy in the page's
head forbids every request and every script but that one.
"""

import base64
import datetime
import hashlib
import importlib.resources
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rlhf_jax.io.disk import naming
from rlhf_jax.runs.clock import knows_compiling
from rlhf_jax.runs.report.completions import Limits, extra_columns, read_completions
from rlhf_jax.runs.report.grouping import Group, differences, group_runs, show_value
from rlhf_jax.runs.report.headline import headline_of, is_share
from rlhf_jax.runs.report.panels import SECTIONS, panels_of
from rlhf_jax.runs.report.reading import Run, find_runs, read_run
from rlhf_jax.runs.report.series import compiled_steps, series_of, throughput

LIMITS = Limits()
"""Of the completions of all runs together."""
AXES = {
    "step": "training step",
    "seconds": "seconds of training (without compiling and evaluations)",
    "tokens": "tokens generated for training",
}


def write_report(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> tuple[pathlib.Path, list[Run]]:
    """Writes a report of runs, whatever their state.

    Args:
        paths: run folders, or folders of runs.
        out: the HTML file.

    Returns:
        (the file, the runs in it).

    Raises:
        ConfigError: a path is no run and holds none.
        OSError: the file cannot be written.
    """
    runs = [read_run(path) for path in find_runs(paths)]
    out = pathlib.Path(out)
    with naming(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page_of(report_data(runs)), encoding="utf-8")
    return out, runs


def report_data(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page shows, as JSON values."""
    groups = group_runs(runs)
    place = {run: number for number, group in enumerate(groups) for run in group.runs}
    names = run_names(runs, groups)
    panels, constant = panels_of(runs)
    made = datetime.datetime.now().astimezone()
    return {
        "title": title_of(runs, groups),
        "made": made.strftime("%Y-%m-%d %H:%M %Z"),
        "sections": SECTIONS,
        "axes": AXES,
        "groups": [{"name": group.name, "runs": group.runs} for group in groups],
        "runs": [
            _describe(run) | {"name": names[number], "group": place[number]}
            for number, run in enumerate(runs)
        ],
        "panels": [panel._asdict() | {"lines": _lines(panel.lines)} for panel in panels],
        "constant": sorted(constant.items()),
        "differences": [change._asdict() for change in differences(runs, groups)],
        "completions": _completions(runs),
    }


def run_names(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """The group's name, with the seed (else the folder) where it has several runs."""
    names = [""] * len(runs)
    for group in groups:
        seeds = [runs[number].seed for number in group.runs]
        for number in group.runs:
            run = runs[number]
            is_known = run.seed is not None and seeds.count(run.seed) == 1
            own = f"seed {run.seed}" if is_known else run.path.resolve().name
            names[number] = group.name if len(group.runs) == 1 else f"{group.name}, {own}"
    return names


def title_of(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    """Such as "grpo (2 seeds), ppo"."""
    texts = [
        group.name if len(group.runs) == 1 else f"{group.name} ({len(group.runs)} seeds)"
        for group in groups
    ]
    shown = ", ".join(texts[:4])
    more = len(texts) - 4
    return shown if more <= 0 else f"{shown} and {more} more"


def page_of(data: dict[str, Any]) -> str:
    """The page around some data."""
    style = _template("page.css")
    script = _template("page.js")
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _template("page.html")
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": embed(data)}
    # Cut at the marks first: what is put in may itself look like a mark.
    for name in parts:
        assert page.count(f"%%{name}%%") == 1, name
    pieces = page.split("%%")
    return "".join(parts.get(piece, piece) for piece in pieces)


def embed(data: Any) -> str:
    """JSON that can stand in a script element whatever its texts say."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # What UTF-8 cannot hold (half a surrogate pair) is shown by the sign for it.
    text = text.encode("utf-8", "replace").decode("utf-8")
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _template(name: str) -> str:
    folder = importlib.resources.files("rlhf_jax.runs.report")
    return (folder / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _describe(run: Run) -> dict[str, Any]:
    headline = headline_of(run)
    last = run.costs[-1] if run.costs else None
    knows = knows_compiling(run.rows)
    return {
        "path": str(run.path),
        "algorithm": run.algorithm,
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "step": run.step,
        "total": run.total_steps,
        "seconds": None if last is None else last.seconds,
        "evaluating": None if last is None else last.evaluating,
        "compiling": last.compiling if last is not None and knows else None,
        "tokens": None if last is None else last.tokens,
        "throughput": throughput(run),
        "headline": None
        if headline is None
        else headline._asdict() | {"is_share": is_share(headline.metric)},
        "notes": run.notes,
        "compiled": [mark._asdict() for mark in compiled_steps(run)],
        "train": series_of(run, "train")._asdict(),
        "eval": series_of(run, "eval")._asdict(),
        "config": [[key, show_value(value)] for key, value in run.config.items()],
        "sessions": [
            {key: show_value(value) for key, value in session.items()} for session in run.sessions
        ],
    }


def _lines(lines: Sequence[Any]) -> list[dict[str, Any]]:
    return [line._asdict() for line in lines]


def _completions(runs: Sequence[Run]) -> dict[str, Any]:
    """Rows of all runs in columns, every prompt once."""
    having = [run for run in runs if (run.path / "completions").is_dir()]
    share = max(len(having), 1)
    limits = Limits(
        rows=max(LIMITS.rows // share, LIMITS.rows_per_step),
        characters=LIMITS.characters // share,
        rows_per_step=LIMITS.rows_per_step,
    )
    prompts: dict[str, int] = {}
    rows = []
    notes = {}
    for number, run in enumerate(runs):
        found = read_completions(run, limits)
        notes[number] = found.notes
        extra = extra_columns(found.rows, found.rewards)
        for row in found.rows:
            prompt = str(row.get("prompt") or "")
            rows.append(
                {
                    "run": number,
                    "step": row["step"],
                    "split": row["split"],
                    "sample": row.get("sample"),
                    "prompt": prompts.setdefault(prompt, len(prompts)),
                    "completion": row.get("completion") or "",
                    "reward": _number(row.get("reward")),
                    "right": row["right"],
                    "tokens": row.get("tokens"),
                    "truncated": row.get("truncated"),
                    "kept": row.get("kept"),
                    "trained_step": row.get("trained_step"),
                    "rewards": {name: _number(row.get(name)) for name in found.rewards},
                    "more": {name: row[name] for name in extra if row.get(name) is not None},
                }
            )
    return {"prompts": list(prompts), "rows": rows, "notes": notes}


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        return None
    return float(f"{value:.5g}")
