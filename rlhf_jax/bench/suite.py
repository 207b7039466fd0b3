"""`rlhf-jax bench --suite`: comparisons with PyTorch one after the other, each in processes of its
own, with what must be known of the machine to read them."""

import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rlhf_jax.bench.outcome import NO_TIMES, Outcome, ratio_text
from rlhf_jax.io.markdown import markdown_table

PARTNERS = ("torch", "transformers", "trl")
INSTALL = (
    "on a machine without a GPU install torch from PyTorch's CPU index first (pytorch.org says how:"
    " the default is gigabytes of CUDA), then: pip install 'rlhf-jax[bench]'"
)
_VERSIONS = (
    "import importlib.metadata as m, json; "
    f"print(json.dumps({{name: m.version(name) for name in {PARTNERS!r}}}))"
)


class Benchmark(NamedTuple):
    """One comparison of a suite."""

    name: str
    what: str
    """In a sentence, with the partner."""
    module: str
    """Of this package, with `measure(argv) -> list[Outcome]`."""
    options: tuple[str, ...] = ()


_PLAIN = ("--sides", "rlhf_jax", "plain PyTorch")
_BOTH = (*_PLAIN, "TRL")
SUITES: dict[str, tuple[Benchmark, ...]] = {
    "cpu": (
        Benchmark(
            "dpo",
            "a DPO step of a 4.9M model, reference in every step: plain PyTorch, TRL",
            "dpo_step",
            _BOTH,
        ),
        Benchmark(
            "dpo-precomputed",
            "the same, reference computed beforehand: plain PyTorch, TRL",
            "dpo_step",
            ("--reference", "precomputed", *_BOTH),
        ),
        Benchmark(
            "generation",
            "sampled and greedy decoding of a 4.9M model: transformers with both of its caches",
            "generation",
            ("--sides", "rlhf_jax", "transformers", "transformers, static cache"),
        ),
        Benchmark(
            "grpo", "a GRPO iteration of a 4.9M model: plain PyTorch, TRL", "grpo_iteration", _BOTH
        ),
        Benchmark(
            "ppo",
            "a PPO iteration of a 4.9M policy with a critic: plain PyTorch (TRL has no PPO any "
            "more)",
            "ppo_iteration",
            _PLAIN,
        ),
    ),
}
"""Name of a suite -> its comparisons. Every side of "cpu" is pinned to CPU cores."""


class Found(NamedTuple):
    """What a suite found."""

    environment: dict[str, Any]
    outcomes: dict[str, list[Outcome]]
    """By the name of the comparison."""

    def every(self) -> list[Outcome]:
        """All outcomes, in the order in which they were found."""
        return [each for many in self.outcomes.values() for each in many]

    def plain(self) -> dict[str, Any]:
        """What JSON holds."""
        found = {name: [each.plain() for each in many] for name, many in self.outcomes.items()}
        return {"environment": self.environment, "comparisons": found}


def chosen(suite: str, names: Sequence[str]) -> list[Benchmark]:
    """Comparisons of a suite by their names; no names: all.

    Raises:
      ValueError: a name that the suite does not have.
    """
    known = {each.name: each for each in SUITES[suite]}
    for name in names:
        if name not in known:
            raise ValueError(f"the suite {suite} has no {name!r}; it has {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())


def partner_versions(python: str) -> dict[str, str]:
    """Versions of the PyTorch side.

    Args:
      python: the interpreter that has it.

    Raises:
      ValueError: it has not; one line says how to get it.
    """
    try:
        done = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"--python={python}: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it does not start"])[-1]
        raise ValueError(f"--python={python}: {last}; {INSTALL}")
    return json.loads(done.stdout)


def run(
    benchmarks: Sequence[Benchmark],
    *,
    python: str,
    threads: int = 2,
    windows: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Found:
    """Runs comparisons. Sides take turns, window by window, and first compute the same.

    Args:
      benchmarks: of `SUITES`.
      python: interpreter that has torch, transformers and trl.
      threads: of every side; each is pinned to as many cores.
      windows: timed windows of each side; None: each comparison's own default.
      tell: gets a line before each comparison.

    Raises:
      ValueError: the PyTorch side is missing, or there are fewer cores than threads.
    """
    cores = len(os.sched_getaffinity(0))
    if not 1 <= threads <= cores:
        raise ValueError(f"--threads={threads}: this process may use {cores} cores")
    environment = environment_of(python, threads=threads)
    outcomes = {}
    for number, each in enumerate(benchmarks, 1):
        tell(f"{number} of {len(benchmarks)}: {each.name}: {each.what}")
        module = importlib.import_module(f"rlhf_jax.bench.{each.module}")
        options = [*each.options, "--python", python, "--threads", str(threads)]
        if windows is not None:
            options += ["--windows", str(windows)]
        outcomes[each.name] = module.measure(options)
    environment["load_after"] = os.getloadavg()[0]
    return Found(environment, outcomes)


def environment_of(python: str, *, threads: int) -> dict[str, Any]:
    """What a reader of times has to know.

    Args:
      python: interpreter of the PyTorch side.
      threads: of every side.
    """
    ours = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    ours["rlhf_jax"] = importlib.metadata.version("rlhf_jax")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "python": platform.python_version(),
        "versions": ours | partner_versions(python),
        "load_before": os.getloadavg()[0],
    }


def processor() -> str:
    """The processor's own name, where the system tells it."""
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


HEADINGS = ("side", "median (range), ms", "times as long", "peak GB", "note")


def rows_of(outcome: Outcome) -> Iterator[list[str]]:
    """The table of a comparison, a row for each side."""
    for side in outcome.sides:
        low, high = (1e3 * value for value in side.timing[1:])
        yield [
            side.name,
            f"{1e3 * side.timing.median:.1f} ({low:.1f} .. {high:.1f})",
            ratio_text(outcome, side),
            "-" if side.peak is None else f"{side.peak / 1e9:.2f}",
            side.note,
        ]


def environment_line(found: Found) -> str:
    """One line of the environment."""
    told = found.environment
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    return (
        f"{told['date']}; {told['cpu']}, {told['threads']} of {told['cores']} cores a side, load "
        f"{told['load_before']:.1f} before and {told['load_after']:.1f} after; Python "
        f"{told['python']}, {versions}"
    )


def markdown_of(found: Found) -> str:
    """Every comparison as Markdown: what was compared, that the sides agree, their times."""
    parts = [environment_line(found)]
    for outcome in found.every():
        parts += [f"### {outcome.title}", outcome.gate]
        if not outcome.passed:
            parts.append(NO_TIMES)
            continue
        parts.append(markdown_table(HEADINGS, rows_of(outcome)))
    return "\n\n".join(parts) + "\n"
