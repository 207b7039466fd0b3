"""The tests of a row, whatever data set it comes from.

Each format is read as the grader of its data set reads it (APPS and TACO: testing_util.py;
PRIME/Eurus: verl's prime_code; LiveCodeBench: testing_util.py; MBPP, HumanEval, CodeContests). A
row that cannot be read so is not gradable, which is said; nothing about how a function is called is
guessed, since a wrong guess makes every right answer wrong.
"""

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.statements import NotGradable, statements_of

COLUMNS = (
    "tests",
    "test_cases",
    "test_list",
    "test",
    "input_output",
    "public_test_cases",
    "private_test_cases",
    "public_tests",
    "private_tests",
    "generated_tests",
    "official_tests",
    "verification_info",
    "ground_truth",
    "reward_model.ground_truth",
    "reward_model",
)
"""Columns that may hold the tests. The first that is not empty in a row is read, and with it the
others of its group."""
_GROUPS = (
    ("public_test_cases", "private_test_cases"),
    ("public_tests", "private_tests", "generated_tests"),
)
_SHARED = frozenset({"ground_truth", "reward_model.ground_truth", "reward_model"})
"""Columns of other rewards as well: what is no test there belongs to another reward."""
_CALLS = frozenset({"functional", "function_call", "call_based", "function"})
_LARGEST = 2**28
"""Bytes of packed tests once they are unpacked."""
_TEXT_OPCODES = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_OTHER_OPCODES = frozenset({"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"})


class Case(NamedTuple):
    """One run of a program."""

    stdin: str
    stdout: str


class Call(NamedTuple):
    """One call of a function."""

    arguments: tuple[list[Any], dict[str, Any]]
    """Positional and named ones."""
    wanted: Any
    wrapped: bool
    """Whether a list of one stands for what is in it as well (APPS, PRIME)."""


class Checks(NamedTuple):
    """Tests of one row, of one of three kinds."""

    cases: tuple[Case, ...] = ()
    function: str = ""
    """What `calls` call."""
    calls: tuple[Call, ...] = ()
    setup: str = ""
    """Runs before the statements."""
    statements: tuple[str, ...] = ()
    entry: str = ""
    """What a solution has to define, where the row says so."""

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.cases) + len(self.calls) + len(self.statements)


def check_present(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless a column may hold tests."""
    if not any(name in columns for name in COLUMNS):
        raise ValueError(
            f"the data has no column with tests: {', '.join(sorted(columns)) or 'no columns'}; "
            f"needed is one of {', '.join(COLUMNS)} (rename it with data.columns)"
        )


def checks_of(columns: Mapping[str, Sequence[Any]], index: int) -> Checks | None:
    """The tests of one row, None when it has none; formats are in `rewards.code.code_reward`.

    Args:
      columns: data columns.
      index: the row.

    Raises:
      NotGradable: the row has tests that nobody's answer can be graded by.
      ValueError: no such column, or an unknown format.
    """
    check_present(columns)
    row = {name: values[index] for name, values in columns.items()}
    found = next((name for name in COLUMNS if row.get(name)), None)
    if found is None:
        return None
    group = next((group for group in _GROUPS if found in group), (found,))
    parts = [_loaded(row[name]) for name in group if row.get(name)]
    value: Any = parts[0] if len(parts) == 1 else [case for part in parts for case in _listed(part)]
    if found in _SHARED:
        if isinstance(value, Mapping) and "ground_truth" in value:
            value = _loaded(value["ground_truth"])
        if not isinstance(value, Mapping | list):
            return None  # the right answer to a question of another kind
    if isinstance(value, Mapping) and "test_cases" in value:  # verification_info
        value = _loaded(value["test_cases"])
    if not value:
        return None
    checks = _checks(value, row)
    if checks is not None and checks.total:
        if checks.cases and not any(case.stdout.strip() for case in checks.cases):
            raise NotGradable("programs that should print nothing")
        return checks
    if found in _SHARED or checks is not None:
        return None
    raise ValueError(
        f"column {found!r}, row {index}: tests are statements, {{'input', 'output'}} pairs, or "
        f"'inputs' and 'outputs', not {type(value).__name__}"
    )


def _checks(value: Any, row: Mapping[str, Any]) -> Checks | None:
    if isinstance(value, Mapping) and "assert_case" in value:  # PRIME
        value = list(value["assert_case"])
    if isinstance(value, str) or (
        isinstance(value, Sequence) and all(isinstance(test, str) for test in value)
    ):
        tests = [value] if isinstance(value, str) else list(value)
        setup, statements, entry = statements_of(tests, row)
        return Checks(setup=setup, statements=statements, entry=entry)
    try:
        pairs = _listed(value)
    except (TypeError, ValueError):
        return None
    if not pairs:
        return Checks()
    name = _function(value, pairs[0], row)
    if name:
        # LiveCodeBench alone says so by a type of each case, and takes a list of one for a list of
        # one.
        wrapped = "testtype" not in pairs[0]
        calls = tuple(Call(_arguments(pair["input"]), _wanted(pair), wrapped) for pair in pairs)
        return Checks(function=name, calls=calls, entry=name)
    return Checks(
        cases=tuple(Case(_lines(pair["input"]), _lines(pair["output"])) for pair in pairs)
    )


def _listed(value: Any) -> list[Mapping[str, Any]]:
    """Pairs of input and output, however they are stored.

    Raises:
      TypeError, ValueError: there are none.
    """
    if not value:
        return []
    if isinstance(value, Mapping):
        for given, wanted in (("inputs", "outputs"), ("input", "output")):
            if given in value and wanted in value:
                if not isinstance(value[given], Sequence) or isinstance(value[given], str):
                    return [value]
                if len(value[given]) != len(value[wanted]):
                    raise NotGradable(
                        f"{len(value[given])} inputs and {len(value[wanted])} outputs"
                    )
                return [
                    {"input": a, "output": b}
                    for a, b in zip(value[given], value[wanted], strict=True)
                ]
        raise TypeError("no inputs and outputs")
    if isinstance(value, Sequence) and all(
        isinstance(test, Mapping) and {"input", "output"} <= set(test) for test in value
    ):
        return list(value)
    raise TypeError("no inputs and outputs")


def _function(value: Any, first: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The function that is called; empty for a program."""
    kind = first.get("testtype") or first.get("type")
    if kind is not None and kind not in _CALLS:
        return ""
    metadata = _mapping(first.get("metadata")) or _mapping(row.get("metadata"))
    whole = value if isinstance(value, Mapping) else {}
    names = (
        whole.get("fn_name"),
        first.get("fn_name"),
        metadata.get("func_name"),
        metadata.get("fn_name"),
    )
    found = next((str(name) for name in names if name), "")
    if kind is None and not (whole.get("fn_name") or first.get("fn_name")):
        return ""
    if not found:
        found = str(row.get("fn_name") or row.get("func_name") or "")
    if not found:
        raise NotGradable(
            "tests that call a function whose name the row does not give (fn_name, or func_name in "
            "metadata)"
        )
    if not found.isidentifier():
        raise NotGradable(f"the function's name {found!r} is no name")
    return found


def _arguments(given: Any) -> tuple[list[Any], dict[str, Any]]:
    """What a function is called with: a list, named arguments, or text, one JSON value a line."""
    if isinstance(given, str):
        try:
            values = [_json(line) for line in given.split("\n")] if given.strip() else []
        except ValueError:
            raise NotGradable(
                f"an input of a function is not one JSON value a line: {given[:60]!r}"
            ) from None
    elif isinstance(given, Mapping):
        return [], {str(name): value for name, value in given.items()}
    elif isinstance(given, Sequence):
        values = list(given)
    else:
        raise NotGradable(
            f"an input of a function is neither a list of arguments nor text: {given!r:.60}"
        )
    if values and isinstance(values[0], Mapping):
        values[0] = _whole_keys(values[0])
    return values, {}


def _wanted(pair: Mapping[str, Any]) -> Any:
    """What a function returns: as JSON where its input is JSON text."""
    wanted = pair["output"]
    if not (isinstance(wanted, str) and isinstance(pair["input"], str)):
        return wanted
    try:
        return _json(wanted)
    except ValueError:
        raise NotGradable(f"an output of a function is not JSON: {wanted[:60]!r}") from None


def _whole_keys(value: Mapping[str, Any]) -> dict[Any, Any]:
    """A dict whose keys are numbers again, which JSON cannot hold (APPS)."""
    try:
        return {int(key): item for key, item in value.items()}
    except ValueError:
        return dict(value)


def _loaded(value: Any) -> Any:
    """A value out of the text that data sets keep: JSON, or JSON packed by LiveCodeBench."""
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return _json(value)
        except ValueError:
            return value  # code that starts with a bracket
    packed = _unpacked(value)
    return value if packed is None else _loaded(packed)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too many brackets in brackets") from None


def _unpacked(text: str) -> str | None:
    """Text in pickle in zlib in base64, else None. Nothing is unpickled but a plain text."""
    if text[:2] not in ("eJ", "eN", "eA", "eF"):  # how zlib begins, in base64
        return None
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), _LARGEST)
        if not stream.eof:
            raise NotGradable(f"packed tests are damaged, or larger than {_LARGEST >> 20} MiB")
    except (binascii.Error, zlib.error):
        return None
    texts = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _TEXT_OPCODES:
                texts.append(argument)
            elif opcode.name not in _OTHER_OPCODES:
                raise NotGradable(
                    f"packed tests hold more than text ({opcode.name}); nothing is unpickled"
                )
    except ValueError:
        raise NotGradable("packed tests are damaged") from None
    if len(texts) != 1:
        raise NotGradable("packed tests hold more than one text")
    return str(texts[0])


def _mapping(value: Any) -> Mapping[str, Any]:
    value = _loaded(value)
    return value if isinstance(value, Mapping) else {}


def _lines(value: Any) -> str:
    return (
        "\n".join(_lines(line) for line in value) if isinstance(value, list | tuple) else str(value)
    )
