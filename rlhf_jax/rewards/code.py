"""Code that must pass tests, run in the sandbox (`rlhf_jax.rewards.sandbox`)."""

import builtins
import collections
import contextlib
import functools
import hashlib
import logging
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.answers import Completion
from rlhf_jax.rewards.blocks import code_of
from rlhf_jax.rewards.cases import Case, Checks, check_present, checks_of
from rlhf_jax.rewards.comparison import same_output, same_value
from rlhf_jax.rewards.references import name_of, program_of, references_of
from rlhf_jax.rewards.sandbox import (
    Limits,
    MachineTooSlow,
    isolation,
    run_calls,
    run_programs,
    run_tests,
)
from rlhf_jax.rewards.sandbox.run import WALL
from rlhf_jax.rewards.statements import NotGradable, free_names

__all__ = ["Case", "Limits", "check_tests", "code_of", "code_reward", "isolation"]
_log = logging.getLogger(__name__)
_REFERENCES = 3
"""Of a row's own solutions, so many are tried: data sets hold some that are wrong, or for another
Python."""
_LEAST_OUTPUT = 2**20
_AT_ONCE = 4
"""Cases of a program that run at the same time: starting a process is mostly waiting for others."""
_REMEMBERED = 10_000
_BUILT_IN = frozenset(dir(builtins))
_said: set[str] = set()
_sound: collections.OrderedDict[bytes, bool] = collections.OrderedDict()
"""Rows whose own solution has been graded -> whether it passed."""


class _Grading(NamedTuple):
    limits: Limits
    tolerance: float
    partial: bool


def code_reward(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    partial: bool = False,
    tolerance: float = 1e-6,
    reference: bool | str = True,
    **columns: Sequence[Any],
) -> list[float | None]:
    """1 when the code passes all tests of its row, else 0; None for a row not gradable.

    The code is the last fenced block (of Python, when some are marked so; not one that only uses
    what an earlier one defines). When nothing is fenced it is what ``[PYTHON]`` or ``<answer>``
    tags hold, the program behind lines of prose, or the whole completion. The tests are in the
    first of these columns that is not empty, also as JSON text:

    * `tests`, `test_cases`, `test_list`, `test`: a list of statements, or one text: ``["assert
      add(1, 2) == 3", ..]``. They run in a process of their own and see the candidate's functions
      and objects through calls; plain data travels by value. `test_imports` and `test_setup_code`
      run before them (MBPP); with `entry_point`, ``check(<entry point>)`` after them, and a
      completion may go on where the prompt ends (HumanEval); functions ``test_..`` and test cases
      of unittest are run;
    * the same columns, `input_output` (APPS, TACO), `verification_info`, `official_tests`, or
      verl's `reward_model.ground_truth` (PRIME/Eurus): a list of ``{"input": .., "output": ..}``,
      or ``{"inputs": [..], "outputs": [..]}``. The code is a program; what it prints must be the
      output token by token. With ``"fn_name"`` it defines a function (perhaps of a class
      `Solution`): inputs are lists of arguments, or text with one JSON value a line (then the
      output is JSON text), and what it returns must be the output: tuples are lists, keys of dicts
      texts, a list of one may stand for what is in it;
    * `public_test_cases` and `private_test_cases` (LiveCodeBench, packed ones too; `metadata` names
      the function), or `public_tests`, `private_tests` and `generated_tests` (CodeContests).

    A row cannot be graded, which the log says once per reason, when its tests cannot be read in its
    data set's way, hold no statement that asks anything of the candidate, need what does not reach
    another process (captured output, replaced built-ins) or packages that are not there, or fail
    the row's own solution.

    The candidate finds the standard library, numpy, and the usual imports (typing, math,
    collections ..) of public graders. It cannot write outside a small folder in memory, read
    anything but these, see the network or other processes, start processes or programs, or use more
    than its time and memory. A wrong, slow or hostile candidate gets 0. How busy the machine is
    does not count: only processor time, and time spent asleep. Where not even a little of it could
    be had in `WALL` times the limit, the completion is not graded (NaN).

    Args:
      prompts: B prompts; read for rows with an entry point alone.
      completions: B completions.
      completion_ids: unused.
      timeout: seconds of own time per completion, all its tests together.
      memory_mb: address space of the candidate, beyond that of a bare interpreter. A program has
        it for each of the up to four cases that run at a time.
      partial: the share of tests passed instead of all or nothing.
      tolerance: numbers are equal to this, absolutely or relatively (integers only when they are
        the same). 0: exactly.
      reference: grade a row's own Python solution once (columns `canonical_solution`, `solutions`,
        `solution`, `code` .., or the one that is named here), and leave out rows whose solution
        fails. False: do not.
      columns: data columns.
    """
    if tolerance < 0:
        raise ValueError(f"rewards.options.tolerance {tolerance} of 'code' must not be negative")
    check_present(columns)
    grading = _Grading(Limits(timeout, memory_mb, WALL * timeout), tolerance, partial)
    scores: list[float | None] = []
    for i, completion in enumerate(completions):
        row = {name: values[i] for name, values in columns.items()}
        prompt = None if prompts is None else prompts[i]
        try:
            checks = checks_of(columns, i)
            if checks is None:
                scores.append(None)
                continue
            if reference is not False:
                solutions = references_of(row, reference if isinstance(reference, str) else None)
                _check_sound(checks, solutions, prompt, grading)
            passed = _passed(
                program_of(completion, prompt, checks.entry, _wanted(checks)), checks, grading
            )
            scores.append(passed / checks.total if partial else float(passed == checks.total))
        except NotGradable as reason:
            _say(
                f"reward code: {name_of(row)} is left out: %s (more rows of this kind are not "
                "listed)",
                str(reason),
            )
            scores.append(None)
        except MachineTooSlow as reason:
            _say(
                "reward code: %s; the completion is not graded (more of the same are not listed)",
                str(reason),
            )
            scores.append(float("nan"))
    return scores


def check_tests(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless a column holds tests."""
    check_present(columns)


def _wanted(checks: Checks) -> frozenset[str]:
    """Names that a candidate may define for the tests of a row; empty for a program."""
    if checks.statements:
        return free_names("\n".join([checks.setup, *checks.statements])) - _BUILT_IN
    return frozenset({checks.function, "Solution"}) if checks.calls else frozenset()


def _check_sound(checks: Checks, solutions: Sequence[str], prompt: Any, grading: _Grading) -> None:
    """Raises NotGradable unless one of the row's own solutions passes; found out once a process."""
    if not solutions:
        return
    tried = solutions[:_REFERENCES]
    key = hashlib.sha256(pickle.dumps((checks, tried, grading.limits, grading.tolerance))).digest()
    if key not in _sound:
        whole = grading._replace(partial=False)
        programs = [
            program_of(solution, prompt, checks.entry, _wanted(checks)) for solution in tried
        ]
        try:
            _sound[key] = any(
                _passed(program, checks, whole) == checks.total for program in programs
            )
        except MachineTooSlow:
            return  # nothing is known of it: another time
        while len(_sound) > _REMEMBERED:
            _sound.popitem(last=False)
    if not _sound[key]:
        raise NotGradable("its own solution fails its tests")


def _passed(code: str, checks: Checks, grading: _Grading) -> int:
    """How many tests pass. Stops at the first that fails, unless shares are asked for."""
    if checks.statements:
        return run_tests(code, checks.setup, checks.statements, grading.limits, checks.entry)
    if not checks.calls:
        return _passed_cases(code, checks.cases, grading)
    called = run_calls(
        code, checks.function, [call.arguments for call in checks.calls], grading.limits
    )
    passed = 0
    for call, result in zip(checks.calls, called.results, strict=False):
        if isinstance(result, dict) and "value" in result:
            same: Callable[[Any], bool] = functools.partial(
                same_value, result["value"], tolerance=grading.tolerance
            )
            unwrapped = call.wrapped and isinstance(call.wanted, list) and len(call.wanted) == 1
            passed += same(call.wanted) or (unwrapped and same(call.wanted[0]))
    return passed


def _passed_cases(code: str, cases: Sequence[Case], grading: _Grading) -> int:
    passed = 0
    left = grading.limits.timeout
    end = time.monotonic() + WALL * grading.limits.timeout
    largest = max(_LEAST_OUTPUT, *(4 * len(case.stdout) for case in cases))
    start = 0
    size = 1  # most that is wrong is wrong in the first case
    while start < len(cases):
        batch = cases[start : start + size]
        start = start + size
        size = _AT_ONCE
        limits = grading.limits._replace(timeout=left, wall=max(0.1, end - time.monotonic()))
        runs = run_programs(code, [case.stdin for case in batch], limits, largest=largest)
        with contextlib.closing(runs):  # type: ignore[type-var]
            for case, finished in zip(batch, runs, strict=True):
                left -= finished.seconds
                right = finished.fault is None and left >= 0
                right = right and same_output(finished.output, case.stdout, grading.tolerance)
                passed += right
                if left <= 0 or not (right or grading.partial):
                    return passed
    return passed


def _say(message: str, reason: str) -> None:
    kind = reason.partition(":")[0]
    if kind not in _said:
        _said.add(kind)
        _log.warning(message, reason)
