"""`rlhf-jax bench`: the roofline of a run, or comparisons with PyTorch, as tables."""

import argparse
import json
import pathlib
import sys
from typing import Any

from rlhf_jax.cli.files import check_folder
from rlhf_jax.cli.output import print_table, say
from rlhf_jax.config import Config, ConfigError

COLUMNS = (
    "program",
    "time (range), s",
    "GFLOP",
    "GFLOP/s",
    "of roof",
    "limit",
    "padding",
    "temp/peak MB",
    "compile, s",
)


OF_CURVES = ("output", "model", "rows", "steps", "learning_rate")
OF_SUITES = ("windows", "markdown", "chart")


def check_options(options: argparse.Namespace) -> None:
    """Refuses options of another of the command's three kinds of measurement.

    Raises:
      ConfigError: the first of them.
    """
    kind = "bench CONFIG"
    foreign: tuple[str, ...] = (*OF_CURVES, *OF_SUITES)
    if options.curves:
        kind = "--curves"
        foreign = (*OF_SUITES, "json")
    elif options.suite is not None:
        kind = "--suite"
        foreign = OF_CURVES
    for name in foreign:
        if options.__dict__[name] is not None:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option}={options.__dict__[name]} has no meaning for {kind}")


def names_of(options: argparse.Namespace) -> list[str]:
    """The comparisons that the command line names, where it names no configuration."""
    return [name for name in (options.config, *options.overrides) if name is not None]


def bench(options: argparse.Namespace, config: Config) -> int:
    """Measures and prints; with `--json` writes too.

    Raises:
      ConfigError: the file of `--json` cannot be written where it is asked for.
    """
    check_folder("json", options.json)
    from rlhf_jax.runs.roofline import roofline  # heavy

    wanted = [name.strip() for name in options.programs.split(",") if name.strip()]
    found = roofline(config, repeats=options.repeats, programs=wanted)
    show(f"{options.config} on {found.device}, {found.repeats} rounds", found)
    if options.json is not None:
        text = json.dumps(found.plain(), indent=2) + "\n"
        pathlib.Path(options.json).write_text(text, encoding="utf-8")
        say(f"every figure: {options.json}")
    return 0


def compare_with_others(options: argparse.Namespace) -> int:
    """Runs the comparisons of a suite; prints a table, and writes what is asked for.

    Returns:
      Exit status: 1 when the sides of a comparison do not compute the same.

    Raises:
      ConfigError: a name that the suite does not have, or no PyTorch to compare with.
    """
    from rlhf_jax.bench import suite  # heavy
    from rlhf_jax.bench.chart import draw  # heavy
    from rlhf_jax.bench.outcome import lines  # heavy

    names = names_of(options)
    for option in ("json", "markdown", "chart"):
        check_folder(option, options.__dict__[option])
    try:
        found = suite.run(
            suite.chosen(options.suite, names),
            python=options.python or sys.executable,
            threads=options.threads,
            windows=options.windows,
            tell=say,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for outcome in found.every():
        for line in lines(outcome):
            say(line)
    say(suite.environment_line(found))
    if options.chart is not None:
        draw(found, options.chart)
    if options.markdown is not None:
        pathlib.Path(options.markdown).write_text(suite.markdown_of(found), encoding="utf-8")
    if options.json is not None:
        text = json.dumps(found.plain(), indent=2) + "\n"
        pathlib.Path(options.json).write_text(text, encoding="utf-8")
    return 0 if all(each.passed for each in found.every()) else 1


def draw_curves(options: argparse.Namespace) -> int:
    """Trains here and with TRL; prints a table, and writes curves where it is asked to.

    Returns:
      Exit status: 1 when losses differ.

    Raises:
      ConfigError: a name that is not compared, too few rows, or no TRL to compare with.
    """
    from rlhf_jax.bench import curves, suite  # heavy

    wanted = ("model", "rows", "steps", "learning_rate")
    given: dict[str, Any] = {
        name: options.__dict__[name] for name in wanted if options.__dict__[name] is not None
    }
    names = names_of(options)
    python = options.python or sys.executable
    found = []
    try:
        say(", ".join(f"{name} {it}" for name, it in suite.partner_versions(python).items()))
        for each in curves.measure(
            names,
            python=python,
            threads=options.threads,
            tell=say,
            **given,
        ):
            found.append(each)
            if options.output is not None:  # after each: a later one may fail
                curves.write(found, pathlib.Path(options.output))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    print_table("curves", curves.HEADINGS, list(curves.rows_of(found)), numbers=0)
    return 0 if all(each.passed for each in found) else 1


def list_suites() -> int:
    """Prints the comparisons of every suite."""
    from rlhf_jax.bench.curves import COMPARED  # heavy
    from rlhf_jax.bench.suite import SUITES  # heavy

    say(f"curves: {', '.join(COMPARED)}")
    for name, benchmarks in SUITES.items():
        say(f"suite {name}:")
        for each in benchmarks:
            say(f"  {each.name:16} {each.what}")
    return 0


def show(title: str, found: Any) -> None:
    """The table, and what the machine can do."""
    rows = [row_of(row) for row in found.rows]
    print_table(title, COLUMNS, rows, numbers=len(COLUMNS) - 1)
    for kind, rates, unit in (
        ("products", found.products, "GFLOP/s"),
        ("memory", found.memory, "GB/s"),
    ):
        for rate in rates:
            roof = "  <- the roof" if rate.is_roof else ""
            median, low, high = (value / 1e9 for value in rate.rate)
            say(f"{kind}: {median:.4g} {unit} ({low:.4g} .. {high:.4g}), {rate.name}{roof}")
    if found.is_restless:
        say("the machine was not idle: its own rates vary, and shares are no better than that")


def row_of(row: Any) -> list[str]:
    """One program; `-` for what it does not have."""
    time = f"{row.time.median:.4g} ({row.time.low:.3g} .. {row.time.high:.3g})"
    works = row.flops > 0
    return [
        row.name,
        time,
        f"{row.flops / 1e9:.4g}" if works else "-",
        f"{row.flops_per_second / 1e9:.4g}" if works else "-",
        share(row.of_products) if works else "-",
        f"{share(row.of_limit)} {row.limit}" if row.limit else "-",
        share(row.padding),
        f"{megabytes(row.temporary)}/{megabytes(row.peak)}" if row.peak is not None else "-",
        compile_time(row),
    ]


def compile_time(row: Any) -> str:
    """Seconds, and of how many programs where there are several."""
    if row.compile_seconds is None:
        return "-"
    several = f" ({row.shapes})" if row.shapes > 1 else ""
    return f"{row.compile_seconds:.1f}{several}"


def share(value: float | None) -> str:
    """As percent."""
    return "-" if value is None else f"{100 * value:.1f} %"


def megabytes(value: int) -> str:
    """Bytes as megabytes, three digits at least."""
    return f"{value / 1e6:.0f}" if value >= 1e8 else f"{value / 1e6:.3g}"
