"""What runs inside the sandbox. Started by `rlhf_jax.rewards.sandbox.run`, in a fresh interpreter with an empty environment.

Standard input starts with 8 bytes of length and that much JSON (the job); the rest is the program's own input. The first byte
on standard output is written once all layers of the sandbox are in place and before any of the stranger's code runs.
"""

import ast
import builtins
import importlib
import json
import os
import struct
import sys
from typing import Any

from rlhf_jax.rewards.sandbox import jail
from rlhf_jax.rewards.sandbox.rpc import Peer

READY, REFUSED = b"\x06", b"\x15"
PASSED, FAILED = b"P", b"F"


def main() -> None:
    """Enters the jail and does the job: "program", "candidate" or "tests"."""
    job: dict[str, Any] = json.loads(_read(struct.unpack("!Q", _read(8))[0]))
    try:
        jail.enter(namespaces=job["namespaces"], seconds=job["seconds"], memory=job["memory"], folder=job["folder"])
    except OSError as error:
        os.write(1, REFUSED + str(error).encode())
        os._exit(1)
    os.write(1, READY)
    sys.argv[:] = ["main.py"]
    sys.orig_argv[:] = []
    os.environ.update(HOME=job["folder"], TMPDIR=job["folder"])
    if job["kind"] == "program":
        _run_program(job["code"])
    elif job["kind"] == "candidate":
        _serve_candidate(job["code"], job["connection"])
    else:
        _run_tests(job["setup"], job["tests"], job["connection"])


def _run_program(code: str) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    exec(compile(code, "main.py", "exec"), namespace)


def _serve_candidate(code: str, connection: int) -> None:
    _silence()
    namespace: dict[str, Any] = {"__name__": "solution", "__builtins__": builtins}
    exec(compile(code, "solution.py", "exec"), namespace)
    Peer(connection, namespace).serve()


def _run_tests(setup: str, tests: list[str], connection: int) -> None:
    verdicts = os.dup(1)
    _silence()
    peer = Peer(connection, None)
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    for name in sorted({name for code in [setup, *tests] for name in _names(code)} - set(dir(builtins))):
        try:
            kind, value = peer.request("find", None, name)
        except EOFError:
            break  # the candidate has ended: its names stay unknown, the tests fail
        if kind == "module" and name in sys.stdlib_module_names:
            namespace[name] = importlib.import_module(name)
        elif kind == "value":
            namespace[name] = value
    try:
        exec(compile(setup, "setup.py", "exec"), namespace)
    except BaseException:  # a candidate can make it exit
        tests = ["raise AssertionError('the setup failed')"] * len(tests)
    for test in tests:
        try:
            exec(compile(test, "tests.py", "exec"), namespace)
            verdict = PASSED
        except BaseException:
            verdict = FAILED
        os.write(verdicts, verdict)


def _names(code: str) -> set[str]:
    try:
        return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError):
        return set()


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            sys.exit(1)
        data += part
    return data
