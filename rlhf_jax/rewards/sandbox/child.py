"""What runs inside the sandbox, in a process that has just been forked and locked in (`rlhf_jax.rewards.sandbox.server`).

The job lies in a file that is open already, and so does the place for the output; both are in memory.
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

PASSED, FAILED = b"P", b"F"
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
    """Runs a program and ends the process as an interpreter would, but for taking apart all that is in its memory."""
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
    """Calls a function of the candidate's, or a method of its class `Solution`, again and again; writes a line for each."""
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    _silence()
    namespace = _load(job["code"])
    function = _function(namespace, job["function"])
    for arguments, named in job["arguments"]:
        try:
            line = json.dumps({"value": _plain(function(*arguments, **named))})
        except Exception as error:
            line = json.dumps({"error": type(error).__name__})
        results.write(line.encode() + b"\n")


def _function(namespace: dict[str, Any], name: str) -> Any:
    solution = namespace.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    return namespace[name]


def _plain(value: Any) -> Any:
    """A result as a grader of JSON compares it: tuples are lists, numbers of other types are numbers. Ints are texts."""
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
    # Answered once the candidate's module has run to its end; when it has not, this process ends without a verdict.
    peer.request("find", None, "__name__")
    names = Names(peer, job["setup"], job["tests"])
    _importable_solution(peer)
    try:
        exec(compile(job["setup"], "setup.py", "exec"), names)
    except BaseException:  # a candidate can make it exit
        return
    for test in job["tests"]:
        try:
            before = set(names)
            exec(compile(test, "tests.py", "exec"), names)
            _run_defined(names, before)
            verdict = PASSED
        except BaseException:
            verdict = FAILED
        os.write(verdicts, verdict)


def _run_defined(names: "Names", before: set[str]) -> None:
    """Runs what test runners would: functions ``test_..`` without arguments, and methods of test cases."""
    for name in [name for name in names if name not in before]:
        value = names[name]
        if isinstance(value, types.FunctionType) and name.startswith("test_") and not value.__code__.co_argcount:
            value()
        elif isinstance(value, type) and not isinstance(value, proxies.RemoteClass) and issubclass(value, unittest.TestCase):
            for method in unittest.defaultTestLoader.getTestCaseNames(value):
                value(method).debug()


class Names(dict[str, Any]):
    """The namespace of tests. What they neither define nor import is the candidate's, looked up anew each time.

    Where a name can be the standard library's it is, so that a candidate cannot bring an `isclose` of its own: a module whose
    attribute is read, and the usual names, unless they are all that the tests name.
    """

    def __init__(self, peer: Peer, setup: str, tests: list[str]) -> None:
        super().__init__(__builtins__=builtins, __name__=TESTS)
        self._peer = peer
        trees = [tree for tree in map(_parsed, [setup, *tests]) if tree is not None]
        nodes = [node for tree in trees for node in ast.walk(tree)]
        free = {node.id for node in nodes if isinstance(node, ast.Name)} - set(vars(builtins))
        self._modules = {
            node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        } & sys.stdlib_module_names
        usual = python.usual_names()
        defined = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        own = free - defined - set(usual) - self._modules
        self._usual = usual if own else {}
        # A function may bear a built-in's name, when the tests name nothing else.
        tested = _tested(nodes) if not (own or free - defined - self._modules) else None
        if tested is not None and (kind := peer.request("find", None, tested))[0] == "value":
            self[tested] = kind[1]

    def __missing__(self, name: str) -> Any:
        if name in self._modules:
            return importlib.import_module(name)
        if name in self._usual:
            return self._usual[name]
        return find(self._peer, name, KeyError)


def find(peer: Peer, name: str, absent: type[Exception]) -> Any:
    """What the candidate's module has by a name.

    Raises:
      Exception: `absent`, when it has none.
    """
    if name in vars(builtins) or name.startswith("__"):
        raise absent(name)
    kind, value = peer.request("find", None, name)
    if kind == "value":
        if isinstance(value, proxies.RemoteClass) and name[:1].isupper():
            type.__setattr__(value, "_own", True)
        return value
    if kind == "module" and str(value).partition(".")[0] in sys.stdlib_module_names:
        return importlib.import_module(value)
    raise absent(name)


def _tested(nodes: list[ast.AST]) -> str | None:
    """The first function that a test asserts something of."""
    for node in nodes:
        if isinstance(node, ast.Assert):
            inner = node.test
            while isinstance(inner, ast.Compare | ast.UnaryOp):
                inner = inner.left if isinstance(inner, ast.Compare) else inner.operand
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                return inner.func.id
    return None


def _importable_solution(peer: Peer) -> None:
    module = types.ModuleType(SOLUTION)
    vars(module)["__getattr__"] = lambda name: find(peer, name, AttributeError)
    sys.modules[SOLUTION] = module


def _parsed(code: str) -> ast.AST | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError):
        return None


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    python.open_standard_streams()


