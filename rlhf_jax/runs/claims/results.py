"""The results.json of comparisons, as claims ask for them."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.config import ComparisonSource, EvaluationConfig
from rlhf_jax.config.bases import merged
from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.data.text_rows import PACKED_BADLY, open_file
from rlhf_jax.runs.budgets import Measured
from rlhf_jax.runs.cells import UNREADABLE, error_text, measured_of


class Missing(Exception):
    """What a claim is measured on is not there, or holds nothing to measure it by; it says why."""


class Results(NamedTuple):
    """A comparison, as far as it is made."""

    path: str
    metric: str
    """The one that the comparison compares."""
    seeds: tuple[int, ...]
    """All that it is to have."""
    commits: tuple[str, ...]
    """Of the cells."""
    names: tuple[str, ...]
    """Of all runs that it is to have."""
    runs: dict[str, dict[int, Measured]]
    """Name -> seed -> what is made."""
    prompts: int | None
    """Held-out prompts of an evaluation; None: not known."""
    samples: int
    """Completions of each that are sampled there."""

    def of(self, name: str) -> dict[int, Measured]:
        """The seeds of a run.

        Raises:
          ValueError: the comparison has no such run.
          Missing: none of its seeds is made.
        """
        if name not in self.names:
            there = ", ".join(self.names)
            hint = did_you_mean(name, self.names)
            raise ValueError(f"{self.path} has no run {name!r}; runs: {there}{hint}")
        if not self.runs.get(name):
            raise Missing(f"no seed of {name} is made yet")
        return self.runs[name]

    def pairs(self, name: str, other: str) -> dict[int, tuple[Measured, Measured]]:
        """Seed -> two runs of it, where both are made.

        Raises:
          ValueError: the comparison has no such run.
          Missing: no seed has both.
        """
        first = self.of(name)
        second = self.of(other)
        both = {seed: (first[seed], second[seed]) for seed in first if seed in second}
        if not both:
            raise Missing(f"no seed of {name} and {other} is made with both yet")
        return both

    def asked(self, metric: str | None, *runs: Measured) -> str:
        """A metric that the evaluations of all these runs have.

        Raises:
          ValueError: one of them lacks it.
        """
        name = self.metric if metric is None else metric
        for run in runs:
            known = sorted(key for key in run.curve[-1] if "/" in key)
            if name not in known:
                raise ValueError(
                    f"{self.path}: {run.name} of seed {run.seed} has no metric {name!r}; it has "
                    f"{', '.join(known)}{did_you_mean(name, known)}"
                )
        return name

    def of_prompts(self, metric: str, runs: Sequence[Measured]) -> np.ndarray | None:
        """[runs, prompts] of the last evaluations; None where some run does not know it, or they
        were asked different numbers of prompts."""
        rows = [run.by_prompt.get(metric, []) for run in runs]
        sizes = {len(row) for row in rows}
        return np.array(rows, np.float64) if len(sizes) == 1 and sizes != {0} else None

    def answers(self, metric: str) -> int | None:
        """Answers behind a metric in one evaluation: greedy ones, one a prompt, or sampled ones;
        None: not known. Of pass@k and maj@k a prompt gives one verdict."""
        if self.prompts is None:
            return None
        is_sampled = "mean@" in metric or metric.endswith("_sampled")
        return self.prompts * (self.samples if is_sampled else 1)


def read_results(source: ComparisonSource) -> Results:
    """What a comparison has reached.

    Args:
      source: of the comparison.

    Raises:
      Missing: its file is not there.
      ValueError: the file is no results.json of this library.
    """
    path = pathlib.Path(source.results)
    if not path.exists():
        raise Missing(f"{source.results} is not there")
    try:
        with open_file(path) as file:
            document: dict[str, Any] = json.load(file)
        runs: dict[str, dict[int, Measured]] = {}
        for cell in document["cells"]:
            runs.setdefault(cell["run"], {})[cell["seed"]] = _whole(measured_of(cell))
        config = document["config"]
        held_out = merged(config["common"], config["prompts"])
        return Results(
            path=source.results,
            metric=document["metric"],
            seeds=tuple(config["seeds"]),
            commits=tuple(document["commit"]),
            names=tuple(run["name"] for run in config["runs"]),
            runs=runs,
            prompts=_prompts(held_out, [run for seeds in runs.values() for run in seeds.values()]),
            samples=held_out.get("evaluation", {}).get("samples", EvaluationConfig().samples),
        )
    except (*UNREADABLE, *PACKED_BADLY) as error:
        raise ValueError(
            f"{source.results} is no results.json of rlhf-jax compare, or of another version "
            f"({error_text(error)}); make one: {command(source)}"
        ) from None


def command(source: ComparisonSource) -> str:
    """What makes a comparison, or goes on with it."""
    return f"rlhf-jax compare {source.config}"


def _whole(run: Measured) -> Measured:
    """Every evaluation with every metric: NaN where nothing could be judged by it."""
    names = {name for point in run.curve for name in point}
    missing = dict.fromkeys(names, float("nan"))
    return run._replace(curve=[missing | point for point in run.curve])


def _prompts(held_out: dict[str, Any], runs: Sequence[Measured]) -> int | None:
    """Held-out prompts of an evaluation: the fewest that a cell has numbers of; else as many as the
    configuration asks for, of those that it says there are."""
    counted = [len(row) for run in runs for row in run.by_prompt.values() if row]
    if counted:
        return min(counted)
    size = held_out.get("data", {}).get("eval_size", 0)
    if not size:
        return None  # a file of their own, or a share of all rows: nobody has counted them here
    most = held_out.get("evaluation", {}).get("max_prompts", EvaluationConfig().max_prompts)
    return size if most is None else min(most, size)
