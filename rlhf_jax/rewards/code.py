"""Code that must pass tests, run in the sandbox (`rlhf_jax.rewards.sandbox`)."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.answers import Completion, content_of
from rlhf_jax.rewards.sandbox import Limits, run_program, run_tests

TEST_COLUMNS = ("tests", "test_cases", "test_list", "test")
"""Columns that may hold the tests, the first present one is read."""

_FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


class Case(NamedTuple):
    """One run of a program."""

    stdin: str
    stdout: str


class Checks(NamedTuple):
    """Tests of one row: either cases or statements."""

    cases: tuple[Case, ...] = ()
    setup: str = ""
    statements: tuple[str, ...] = ()


def code_reward(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    partial: bool = False,
    **columns: Sequence[Any],
) -> list[float | None]:
    """1 when the code in the completion passes all tests of its row, else 0; None for a row without tests.

    The code is the last fenced block (of Python, when some are marked so), or the whole completion when nothing is fenced.
    Column `tests` (or `test_cases`, `test_list`, `test`), per row one of, also as JSON text:

    * a list of statements, or one text: ``["assert add(1, 2) == 3", ..]``. They run in a process of their own and see the
      candidate's functions and objects through calls; numbers, strings, lists, tuples, sets and dicts travel by value. A
      column `test_setup_code` runs before them; with a column `entry_point`, ``check(<entry point>)`` after them (HumanEval);
    * a list of ``{"input": .., "output": ..}``, or ``{"inputs": [..], "outputs": [..]}``: the code is a program; what it
      prints must equal the output up to white space. With ``"fn_name"`` inputs are argument lists and outputs what that
      function returns (APPS).

    The candidate cannot write outside a small folder in memory, read anything but the standard library, see the network or
    other processes, start processes or programs, or use more than its time and memory. A wrong, slow or hostile candidate
    gets 0.

    Args:
      prompts: unused.
      completions: B completions.
      completion_ids: unused.
      timeout: seconds per completion, all its tests together. Must be less than the pool's.
      memory_mb: address space of the candidate.
      partial: the share of tests passed instead of all or nothing.
      columns: data columns.
    """
    scores: list[float | None] = []
    for i, completion in enumerate(completions):
        checks = checks_of(columns, i)
        scores.append(None if checks is None else _score(code_of(completion), checks, Limits(timeout, memory_mb), partial))
    return scores


def code_of(completion: Completion) -> str:
    """The code in a completion; see `code_reward`."""
    text = content_of(completion).rpartition("</think>")[2]
    blocks = _FENCED.findall(text)
    marked = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    return marked[-1] if marked else blocks[-1][1] if blocks else text


def checks_of(columns: Mapping[str, Sequence[Any]], index: int) -> Checks | None:
    """The tests of one row, None when it has none; the formats are in `code_reward`.

    Raises:
      ValueError: no such column, or an unknown format.
    """
    found = _present(columns)
    value = columns[found][index]
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            pass  # code that starts with a bracket
    if not value:
        return None
    setup = _text(columns, "test_setup_code", index)
    if isinstance(value, Mapping) and "inputs" in value and "outputs" in value:
        pairs = list(zip(value["inputs"], value["outputs"], strict=True))
        if name := value.get("fn_name"):
            return Checks(setup=setup, statements=tuple(f"assert {name}(*{args!r}) == {wanted!r}" for args, wanted in pairs))
        return Checks(cases=tuple(Case(_lines(given), _lines(wanted)) for given, wanted in pairs))
    if isinstance(value, str):
        entry = _text(columns, "entry_point", index)
        return Checks(setup=setup, statements=(f"{value}\ncheck({entry})\n" if entry else value,))
    if isinstance(value, Sequence) and all(isinstance(test, str) for test in value):
        return Checks(setup=setup, statements=tuple(value))
    if isinstance(value, Sequence) and all(isinstance(test, Mapping) and {"input", "output"} <= set(test) for test in value):
        return Checks(cases=tuple(Case(_lines(test["input"]), _lines(test["output"])) for test in value))
    raise ValueError(
        f"column {found!r}, row {index}: tests are statements, {{'input', 'output'}} pairs, or 'inputs' and 'outputs', "
        f"not {type(value).__name__}"
    )


def check_tests(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless a column holds tests."""
    _present(columns)


def _present(columns: Mapping[str, Sequence[Any]]) -> str:
    for name in TEST_COLUMNS:
        if name in columns:
            return name
    raise ValueError(
        f"the data has no column with tests: {', '.join(sorted(columns)) or 'no columns'}; needed is one of "
        f"{', '.join(TEST_COLUMNS)} (rename it with data.columns)"
    )


def _text(columns: Mapping[str, Sequence[Any]], name: str, index: int) -> str:
    return str(columns[name][index] or "") if name in columns else ""


def _lines(value: Any) -> str:
    return "\n".join(str(line) for line in value) if isinstance(value, list | tuple) else str(value)


def _score(code: str, checks: Checks, limits: Limits, partial: bool) -> float:
    if checks.cases:
        passed, total = _passed_cases(code, checks.cases, limits, partial), len(checks.cases)
    else:
        passed, total = run_tests(code, checks.setup, checks.statements, limits), len(checks.statements)
    return passed / total if partial else float(passed == total)


def _passed_cases(code: str, cases: Sequence[Case], limits: Limits, partial: bool) -> int:
    passed, left = 0, limits.timeout
    for case in cases:
        finished = run_program(code, case.stdin, limits._replace(timeout=left))
        right = finished.fault is None and finished.output.split() == case.stdout.split()
        passed += right
        left -= finished.seconds
        if left <= 0 or not (right or partial):
            break
    return passed
