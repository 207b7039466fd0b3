"""Hostile code gets nowhere, is graded 0, and leaves nothing behind."""

import os
import pathlib
import socket
import sys

import pytest

from rlhf_jax.rewards.sandbox import Limits, isolation, run, run_program, run_tests
from tests.rewards.hostile import CHEATS, SNIPPETS

LIMITS = Limits(timeout=0.6, memory_mb=256)
ADD = ["assert add(1, 2) == 3"]
LOOSE = [
    "assert all(map(lambda pair: add(*pair) == sum(pair), [(1, 2), (3, 4)]))",
    "assert abs(add(1, 2) - 3) < 1e-6",
    "assert 3 - add(1, 2) == 0",
    "assert add(1, 2) >= 3 >= add(1, 2)",
    "assert add(1, 2) in (3,) and add(1, 2) in {3}",
]


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["namespaces", "no namespaces"])
def layers(request, monkeypatch):
    """With namespaces, as far as this system allows them, and without."""
    if not (isolation() and request.param):
        monkeypatch.setattr(run, "isolation", lambda: False)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder that the code must not reach, a port that it must not reach, a variable that it must not read."""
    kept = tmp_path / "kept"
    kept.write_text("secret")
    monkeypatch.setenv("MY_SECRET", "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        yield tmp_path, server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()
    assert os.listdir(tmp_path) == ["kept"] and kept.read_text() == "secret" and kept.stat().st_mode & 0o777


@pytest.fixture(autouse=True)
def nothing_left():
    before = _sandboxed(), _files()
    yield
    assert _sandboxed() == before[0], "a process outlived its sandbox"
    assert _files() == before[1], "a file outlived its sandbox"


def _files():
    """Around the folder in which programs run."""
    return {path for path in pathlib.Path(run.__file__).parents[1].rglob("*") if path.suffix != ".pyc"}


def _sandboxed():
    found = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"rlhf_jax.rewards.sandbox.child" in line and (parent == str(os.getpid()) or parent == "1"):
            found.add(folder.name)
    return found


@pytest.mark.parametrize("name", SNIPPETS)
def test_hostile_programs(name, layers, outside):
    folder, port = outside
    code = SNIPPETS[name].replace("OUTSIDE", str(folder)).replace("PORT", str(port))
    finished = run_program(code, "", LIMITS)
    assert "LEAKED" not in finished.output and finished.fault is not None


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_pass_no_test(name, layers):
    tests = ADD if "hangs" in name else ADD + LOOSE
    assert run_tests(CHEATS[name], "", tests, LIMITS) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SNIPPETS)
def test_hostile_modules(name, layers, outside):
    folder, port = outside
    code = SNIPPETS[name].replace("OUTSIDE", str(folder)).replace("PORT", str(port))
    assert run_tests(code + "\ndef add(a, b): return 0", "", ADD + LOOSE, LIMITS) == 0


def test_right_code_passes(layers):
    assert run_tests("def add(a, b): return a + b", "", ADD + LOOSE, Limits()) == len(ADD + LOOSE)
    assert run_program("print(int(input()) + int(input()))", "1\n2", Limits())[:2] == ("3\n", None)


MODULE = """
import math
from dataclasses import dataclass
LIMIT = [1, 2]
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item)
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __eq__(self, other): return self.items == other.items
@dataclass
class Point:
    x: int = 0
    y: int = 0
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
def sort(items): items.sort()
def apply(f, x): return f(x)
def fail(x): raise ValueError(f"bad {x}")
def numbers():
    yield from range(3)
def echo(x): return x
def adder(n): return lambda m: n + m
"""
WORKING = [
    "s = Stack()\ns.push(3)\nassert len(s) == 1 and s.pop() == 3 and not s.items",
    "p = Point(1, 2) + Point(y=1)\nassert (p.x, p.y) == (1, 3) and Point(1, 1) == Point(1, 1) and Point(1) != Point(2)",
    "l = [3, 1]\nsort(l)\nassert l == [1, 3]",
    "assert apply(lambda v: v + 1, 2) == 3 and adder(2)(3) == 5",
    "try:\n    fail(3)\nexcept ValueError as e:\n    assert str(e) == 'bad 3'\nelse:\n    assert False",
    "assert list(numbers()) == [0, 1, 2] and sum(numbers()) == 3",
    "for x in (None, True, -2**200, 1.5, float('inf'), 'ä\\ud800', b'x', [1, (2, {3})], {1: {'a': frozenset([2])}}, 2j):\n"
    "    assert echo(x) == x and type(echo(x)) is type(x)",
    "assert math.sqrt(4) == 2 and LIMIT == [1, 2]",
    "def check(f):\n    assert f(1, x=2) == {'x': 2}\ncheck(lambda a, **k: echo(k))",
]


def test_what_tests_can_see(layers):
    for test in WORKING:
        assert run_tests(MODULE, "", [test], Limits()) == 1, test
    wrong = [
        "assert echo(1) == 2",
        "assert unknown(1)",
        "assert Stack() == []",
        "def f(:",
        "import sys; sys.exit(0)",
        "assert LIMIT == 1",
    ]
    assert run_tests(MODULE, "", wrong, Limits()) == 0
    assert run_tests(MODULE, "import no_such_module", ["pass"], Limits()) == 0


def test_an_honest_program_has_a_folder_and_the_standard_library(layers):
    code = """
import collections, decimal, heapq, json, random, re, sqlite3, threading, zoneinfo, hashlib, datetime, tempfile, os
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
datetime.datetime.now(zoneinfo.ZoneInfo("UTC")); random.random(); os.urandom(3)
"""
    assert run_program(code, "", Limits())[:2] == ("thread\n", None)
    if run.isolation():
        write = "import tempfile\nopen('a', 'w').write('x'); print(open('a').read(), tempfile.TemporaryFile().write(b'y'))"
        assert run_program(write, "", Limits())[:2] == ("x 1\n", None)


def test_faults_are_named(layers):
    assert run_program("import sys; sys.exit(3)", "", Limits()).fault == "status 3"
    assert run_program("print('x' * 10**7)", "", Limits()).fault == "output"
    assert run_program("while True: pass", "", LIMITS).fault == "timeout"
    assert run_program("pass", "x" * 10**6, LIMITS).fault is None, "unread input is no fault"


def test_a_sandbox_that_leaks_is_refused(monkeypatch):
    isolation.cache_clear()
    monkeypatch.setattr(run, "_PROBE", "print('open a socket')\nprint('done')")
    with pytest.raises(ValueError, match="the code reward cannot run here: in the sandbox it is possible to open a socket"):
        isolation()
    monkeypatch.setattr(run, "_BOOT", "import sys; sys.stdout.buffer.write(b'\\x15sandbox: landlock: missing')")
    with pytest.raises(ValueError, match="sandbox: landlock: missing.*needs a kernel with Landlock"):
        isolation()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="the code reward needs Linux"):
        isolation()
    monkeypatch.undo()
    isolation.cache_clear()


def test_an_end_of_the_sandbox_before_it_starts_is_no_grade(monkeypatch):
    isolation()
    monkeypatch.setattr(run, "_BOOT", "import sys; sys.exit(0)")
    with pytest.raises(RuntimeError, match="the sandbox did not start"):
        run_tests("", "", ADD, LIMITS)
