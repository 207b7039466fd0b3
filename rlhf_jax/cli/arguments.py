"""What the commands of `rlhf-jax` have in common: how a parser is made, and options that several of
them take."""

import argparse
from typing import Any, NoReturn, TypeAlias

from rlhf_jax.cli import epilogs
from rlhf_jax.cli.output import complain

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def make_empty(**options: Any) -> argparse.ArgumentParser:
    """A parser that says mistakes in one line."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
    )
    parser.error = refuse_usage  # type: ignore[method-assign]
    return parser


def add(
    commands: Commands,
    name: str,
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    """A command.

    Args:
      commands: of the program.
      name: of the command.
      text: what it does, from a small letter on.
      examples: and what else its help prints below the options.
    """
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=examples + epilogs.EXIT_CODES,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_config(parser: argparse.ArgumentParser, example: str) -> None:
    """A configuration file, such as an example, and changes to it."""
    parser.add_argument("config", metavar="CONFIG", help=f"YAML file, such as {example}")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="changes to it")


def add_no_progress(parser: argparse.ArgumentParser) -> None:
    """`--no-progress`."""
    parser.add_argument(
        "--no-progress", action="store_true", help="plain lines instead of the live display"
    )


def add_choice_of_step(parser: argparse.ArgumentParser) -> None:
    """`--step` or `--best`."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--step", type=int, help="checkpoint of this step (default: the newest)")
    choice.add_argument(
        "--best", action="store_true", help="the best checkpoint by checkpoint.best_metric"
    )


def refuse_usage(message: str) -> NoReturn:
    """Ends the program: the command line cannot be understood."""
    complain(f"{message} (see rlhf-jax --help)")
    raise SystemExit(2)
