"""Entry point of `rlhf-jax`. Nothing heavy is imported before the arguments are understood."""

import importlib
import sys
import traceback
from collections.abc import Sequence

from rlhf_jax.cli.output import complain
from rlhf_jax.cli.parser import make_parser, refuse_usage
from rlhf_jax.errors import RlhfError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code (see `rlhf-jax --help`).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_keys = arguments[:1] == ["train"] and not {"-h", "--help"}.isdisjoint(arguments)
    keys = importlib.import_module("rlhf_jax.cli.keys").describe_keys() if wants_keys else ""
    parser = make_parser(keys)
    try:
        options, unknown = parser.parse_known_args(arguments)
        # argparse takes no overrides behind an option
        if options.command in ("train", "evaluate", "compare", "data", "bench", "plan"):
            options.overrides += [argument for argument in unknown if _is_override(argument)]
            unknown = [argument for argument in unknown if not _is_override(argument)]
        if options.command == "generate":  # nor prompts
            options.prompts += [argument for argument in unknown if not argument.startswith("-")]
            unknown = [argument for argument in unknown if argument.startswith("-")]
        if unknown:
            refuse_usage(_describe_unknown(unknown))
        if options.command is None:
            refuse_usage(
                "no command: train, evaluate, compare, data, export, generate, models, algorithms, "
                "bench, plan, quickstart"
            )
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return importlib.import_module("rlhf_jax.cli.commands").COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # every error of a user ends here, as one line
        return _report(error, debug=options.debug)


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that is the user's to mend; None for any other error.

    A `ValueError` raised by the library itself, rather than below it, is a refused value: 2 unless
    its class says more.
    """
    if isinstance(error, RlhfError):
        return error.exit_code
    frames = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, ValueError) and frames and frames[-1].startswith("rlhf_jax."):
        refused_by = {"rlhf_jax.data": 3, "rlhf_jax.models": 4}
        return refused_by.get(".".join(frames[-1].split(".")[:2]), 2)
    return 1 if isinstance(error, OSError) else None


def _report(error: Exception, *, debug: bool) -> int:
    code = exit_code(error)
    if debug or code is None:
        traceback.print_exception(error)
    if code is not None:
        complain(str(error))
    return 1 if code is None else code


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _describe_unknown(unknown: list[str]) -> str:
    first = unknown[0]
    if first.startswith("--") and "=" in first:
        return f"unknown option {first!r}; an override has no dashes: {first.lstrip('-')}"
    return f"unknown argument {first!r}"
