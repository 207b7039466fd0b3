"""What runs in the sandbox, in a process just forked and locked in (`rewards.sandbox.server`).

The job lies in a file that is open already, and so does the place for the output; both are in
memory.
"""

import ast
import atexit
import builtins
import importlib
import json
import os
import sys
import threading
import types
import unittest
from typing import Any

from rlhf_jax.rewards.sandbox import proxies, python
from rlhf_jax.rewards.sandbox.rpc import TESTS, Peer

PASSED = b"P"
FAILED = b"F"
_COMPARING = frozenset({"isclose", "fabs", "Decimal", "Fraction"})
SOLUTION = "solution"
"""Name of the candidate's module, which tests may import."""


def run(kind: str, job: dict[str, Any], connection: int | None, *, folder: str | None) -> None:
    """Does the job, "program", "calls", "candidate" or "tests", and ends the process.

    Args:
      kind: of the job.
      job: what it needs, see the functions below.
      connection: to the other process, of a candidate and its tests.
      folder: where files can be written.
    """
    sys.argv[:] = ["main.py"]
    sys.orig_argv[:] = []
    os.environ.clear()
    if folder is not None:
        os.environ.update(HOME=folder, TMPDIR=folder)
    if kind == "program":
        python.open_standard_streams()
        python.open_streams_by_path()
        _run_program(job["code"])
    elif kind == "calls":
        _run_calls(job)
    elif kind == "candidate" and connection is not None:
        _silence()
        namespace = _load(job["code"])
        Peer(connection, namespace).serve()
    elif connection is not None:
        _run_tests(job, Peer(connection, None))
    os._exit(0)


def _run_program(code: str) -> None:
    """Runs a program and ends the process as an interpreter would, without taking memory apart."""
    status = 0
    try:
        exec(compile(code, "main.py", "exec"), python.new_module("__main__"))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        status = status or 120  # as an interpreter does
    os._exit(status & 255)


def _load(code: str) -> dict[str, Any]:
    namespace = python.new_module(SOLUTION)
    exec(compile(code, "main.py", "exec"), namespace)
    return namespace


def _run_calls(job: dict[str, Any]) -> None:
    """Calls a candidate's function, or a method of `Solution`, again and again; a line for each."""
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    _silence()
    namespace = _load(job["code"])
    function = _function(namespace, job["function"])
    for packed in job["arguments"]:
        arguments, named = unpacked(packed)
        try:
            line = json.dumps({"value": _plain(function(*arguments, **named))})
        except Exception as error:
            line = json.dumps({"error": type(error).__name__})
        results.write(line.encode() + b"\n")


def packed(value: Any) -> Any:
    """Plain data as JSON that keeps the kinds of keys."""
    if isinstance(value, dict):
        return {"dict": [[packed(k), packed(v)] for k, v in value.items()]}
    return [packed(item) for item in value] if isinstance(value, list | tuple) else value


def unpacked(value: Any) -> Any:
    """What `packed` was given; tuples are lists."""
    if isinstance(value, dict):
        return {unpacked(k): unpacked(v) for k, v in value["dict"]}
    return [unpacked(item) for item in value] if isinstance(value, list) else value


def _function(namespace: dict[str, Any], name: str) -> Any:
    solution = namespace.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    return namespace[name]


def _plain(value: Any) -> Any:
    """A result as a grader of JSON compares it: tuples are lists, ints are texts."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return {"int": hex(int.__add__(value, 0))}
    if isinstance(value, float):
        return float.__add__(value, 0.0)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist())
    if hasattr(value, "as_integer_ratio"):  # fractions and decimals
        above, below = value.as_integer_ratio()
        return _plain(above) if below == 1 else above / below
    return {"other": type(value).__name__}


def _run_tests(job: dict[str, Any], peer: Peer) -> None:
    verdicts = os.dup(1)
    _silence()
    peer.lend_dataclasses()
    # Answered once the candidate's module has run to its end; when it has not, this process ends
    # without a verdict.
    names = Names(peer, [job["setup"], *job["tests"]], job["entry"])
    if names.lacking:
        return
    try:
        exec(compile(job["setup"], "setup.py", "exec"), names)
    except BaseException:  # a candidate can make it exit
        return
    for test in job["tests"]:
        verdict = FAILED
        names.lacking = False
        before = set(names)
        try:
            exec(compile(test, "tests.py", "exec"), names)
            _run_defined(names, before)
            # Tests that expect some exception must not take for it that there is no such name.
            verdict = FAILED if names.lacking else PASSED
        except BaseException:
            pass  # which is what failing is
        os.write(verdicts, verdict)


def _run_defined(names: "Names", before: set[str]) -> None:
    """Runs what test runners would: ``test_..`` without arguments, methods of test cases."""
    for name in [name for name in names if name not in before]:
        value = names[name]
        if (
            isinstance(value, types.FunctionType)
            and name.startswith("test_")
            and not value.__code__.co_argcount
        ):
            value()
        elif (
            isinstance(value, type)
            and not isinstance(value, proxies.RemoteClass)
            and issubclass(value, unittest.TestCase)
        ):
            for method in unittest.defaultTestLoader.getTestCaseNames(value):
                value(method).debug()


class Names(dict[str, Any]):
    """The namespace of tests; what they lack is the candidate's, looked up anew each time.

    Modules of the standard library whose attributes are read, and the few functions that compare,
    are always the real ones: no candidate can bring an `isclose` of its own.
    """

    def __init__(self, peer: Peer, codes: list[str], entry: str) -> None:
        super().__init__(__builtins__=builtins, __name__=TESTS)
        self._peer = peer
        self.lacking = False
        """Whether a name was looked up that the candidate should have and has not."""
        module = types.ModuleType(SOLUTION)
        vars(module)["__getattr__"] = lambda name: self.find(name, AttributeError)
        sys.modules[SOLUTION] = module
        self.lacking = peer.request("find", None, "__name__")[0] != "value"
        nodes = [node for code in codes for node in ast.walk(ast.parse(code))]
        self._modules = {
            node.value.id
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        } & sys.stdlib_module_names
        tested = entry.partition(".")[0].partition("(")[0]
        if tested:
            kind, value = peer.request("find", None, tested)
            self.lacking |= kind != "value"
            if tested in vars(builtins) and kind == "value":
                self[tested] = value  # nothing else of the candidate's stands in for a built-in

    def __missing__(self, name: str) -> Any:
        if name in self._modules:
            return importlib.import_module(name)
        if name in _COMPARING:
            return python.usual_names()[name]
        if name in vars(builtins):
            raise KeyError(name)
        return self.find(name, KeyError)

    def find(self, name: str, absent: type[Exception]) -> Any:
        """What the candidate's module has by a name.

        Raises:
          Exception: `absent`, when it has none.
        """
        kind, value = (
            self._peer.request("find", None, name)
            if not name.startswith("__")
            else ("absent", None)
        )
        if kind == "value":
            if isinstance(value, proxies.RemoteClass) and name[:1].isupper():
                type.__setattr__(value, "_own", True)
            return value
        if kind == "module" and str(value).partition(".")[0] in sys.stdlib_module_names:
            return importlib.import_module(str(value))
        self.lacking |= not name.startswith("__")
        raise absent(name)


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    python.open_standard_streams()
