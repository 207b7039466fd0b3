"""Entry point of `rlhf-jax`. Nothing heavy is imported before the arguments are understood."""

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence

from rlhf_jax.cli.arguments import refuse_usage
from rlhf_jax.cli.output import complain
from rlhf_jax.cli.parser import make_parser
from rlhf_jax.console import printable
from rlhf_jax.errors import LostError, PeerError, exit_code


def main(
    argv: Sequence[str] | None = None, *, interrupted: Callable[[], None] = lambda: None
) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None: those of the process.
        interrupted: called when Ctrl-C ended the command in its middle, and that was said.

    Returns:
        The exit code (see `rlhf-jax --help`).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = read_arguments(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        if options.command in ("evaluate", "compare", "export", "generate"):
            importlib.import_module("rlhf_jax.sharding.cluster").check_alone(options.command)
        return importlib.import_module("rlhf_jax.cli.commands").COMMANDS[options.command](options)
    except KeyboardInterrupt as stopped:
        where = f": {printable(str(stopped))}" if str(stopped) else ""
        print(f"interrupted{where}", file=sys.stderr)
        interrupted()
        return 130
    except Exception as error:  # every error of a user ends here, as one line
        return _report(error, debug=options.debug)


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """A command line as the commands get it.

    Raises:
        SystemExit: it cannot be understood (2, after a line that says why), or asked for help (0).
    """
    keys: dict[str, str] = {}
    if arguments[:1] in (["train"], ["claims"]) and not {"-h", "--help"}.isdisjoint(arguments):
        keys = importlib.import_module("rlhf_jax.cli.keys").keys_of(arguments[0])
    options, unknown = make_parser(keys).parse_known_args(arguments)
    # argparse takes no overrides behind an option
    if options.command in ("train", "evaluate", "compare", "claims", "data", "bench", "plan"):
        options.overrides += [argument for argument in unknown if _is_override(argument)]
        unknown = [argument for argument in unknown if not _is_override(argument)]
    if options.command == "generate":  # nor prompts
        options.prompts += [argument for argument in unknown if not argument.startswith("-")]
        unknown = [argument for argument in unknown if argument.startswith("-")]
    if unknown:
        refuse_usage(_describe_unknown(unknown))
    if options.command is None:
        refuse_usage(
            "no command: train, evaluate, compare, claims, data, export, generate, launch, models, "
            "algorithms, bench, plan, quickstart, report, show, metrics"
        )
    return options


def _report(error: Exception, *, debug: bool) -> int:
    code = exit_code(error)
    if debug or code is None:
        traceback.print_exception(error)
    is_said = False
    if isinstance(error, LostError | PeerError):
        is_said = importlib.import_module("rlhf_jax.sharding.processes").is_said(error)
    if code is not None and not is_said:
        complain(str(error))
    return 1 if code is None else code


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _describe_unknown(unknown: list[str]) -> str:
    first = unknown[0]
    if first.startswith("--") and "=" in first:
        return f"unknown option {first!r}; an override has no dashes: {first.lstrip('-')}"
    return f"unknown argument {first!r}"
