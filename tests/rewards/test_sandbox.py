"""Hostile code gets nowhere, is graded 0, and leaves nothing behind."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from rlhf_jax.rewards.comparison import same_output
from rlhf_jax.rewards.sandbox import (
    Limits,
    MachineTooSlow,
    client,
    isolation,
    run,
    run_calls,
    run_program,
    run_tests,
)
from tests.rewards.hostile import CHEATS, SNIPPETS
from tests.rewards.idioms import FUNCTIONS as IDIOMS
from tests.rewards.idioms import PROGRAMS

LIMITS = Limits(timeout=0.6, memory_mb=256, wall=60.0)
ADD = ["assert add(1, 2) == 3"]
LOOSE = [
    "assert all(map(lambda pair: add(*pair) == sum(pair), [(1, 2), (3, 4)]))",
    "assert abs(add(1, 2) - 3) < 1e-6",
    "assert 3 - add(1, 2) == 0",
    "assert add(1, 2) >= 3 >= add(1, 2)",
    "assert add(1, 2) in (3,) and add(1, 2) in {3}",
]


@pytest.fixture(
    params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["namespaces", "no namespaces"]
)
def layers(request, monkeypatch):
    """With namespaces, as far as this system allows them, and without."""
    namespaces = isolation() and request.param
    monkeypatch.setattr(run, "isolation", lambda: namespaces)
    return namespaces


@pytest.fixture(
    params=[None, *(pytest.param(abi, marks=pytest.mark.slow) for abi in (1, 2, 3))],
    ids=lambda abi: f"abi {abi}",
)
def landlock(request, monkeypatch):
    """The kernel's own version of Landlock, and older ones (Linux 5.13, 5.19, 6.2)."""
    monkeypatch.setattr(run, "LANDLOCK", request.param)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder and a port that code must not reach, a variable that it must not read."""
    kept = tmp_path / "kept"
    kept.write_text("secret")
    monkeypatch.setenv("MY_SECRET", "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        yield tmp_path, server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (
        os.listdir(tmp_path) == ["kept"]
        and kept.read_text() == "secret"
        and kept.stat().st_mode & 0o777
    )


@pytest.fixture(autouse=True)
def nothing_left():
    before = _files()
    yield
    deadline = time.monotonic() + 20.0
    while (left := _sandboxed()) and time.monotonic() < deadline:
        time.sleep(0.02)  # wardens end a moment after their report
    assert not left, "a process outlived its sandbox"
    assert _files() == before, "a file outlived its sandbox"


def _files():
    """Around the folder in which the sandbox lies, and where the probe leaves its files."""
    around = {
        path
        for path in pathlib.Path(run.__file__).parents[1].rglob("*")
        if "__pycache__" not in path.parts
    }
    return around | set(pathlib.Path("/").glob("*escaped*"))


def _sandboxed():
    """Processes below this one's server, and those without a parent."""
    parents = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"rlhf_jax.rewards.sandbox.server" in line:
            parents[folder.name] = parent
    own = {pid for pid, parent in parents.items() if parent == str(os.getpid())}
    return {pid for pid, parent in parents.items() if parent in own or parents.get(parent) in own}


@pytest.mark.parametrize("name", SNIPPETS)
def test_hostile_programs(name, layers, landlock, outside):
    folder, port = outside
    finished = run_program(_aimed(SNIPPETS[name], folder, port, layers), "", LIMITS)
    assert "LEAKED" not in finished.output and finished.fault is not None


def _aimed(code, folder, port, namespaces):
    return (
        code.replace("OUTSIDE", str(folder))
        .replace("PORT", str(port))
        .replace("HIDDEN", str(namespaces))
    )


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_pass_no_test(name, layers, landlock):
    tests = ADD if "hangs" in name else ADD + LOOSE
    assert run_tests(CHEATS[name], "", tests, LIMITS) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SNIPPETS)
def test_hostile_modules(name, layers, outside):
    folder, port = outside
    code = _aimed(SNIPPETS[name], folder, port, layers)
    assert run_tests(code + "\ndef add(a, b): return 0", "", ADD + LOOSE, LIMITS) == 0


def test_right_code_passes(layers):
    assert run_tests("def add(a, b): return a + b", "", ADD + LOOSE, Limits()) == len(ADD + LOOSE)
    assert run_program("print(int(input()) + int(input()))", "1\n2", Limits())[:2] == ("3\n", None)


@pytest.mark.parametrize("name", IDIOMS)
def test_ordinary_modules(name, layers):
    module, test = IDIOMS[name]
    entry = "sum" if "built-in" in name else ""
    assert run_tests(module, "", [test, "assert unheard_of()"], Limits(), entry) == 1
    assert run_tests(f"{module}\nraise ValueError", "", [test], Limits(), entry) == 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_ordinary_programs(name, layers):
    program, stdin, stdout = PROGRAMS[name]
    if "file" not in name or layers:
        finished = run_program(program, stdin, Limits())
        assert finished.fault is None and same_output(finished.output, stdout, 1e-6)
    assert run_program(f"raise ValueError\n{program}", stdin, Limits()).fault is not None


def test_what_is_wrong_stays_wrong(layers):
    module = (
        "def echo(x): return x\nLIMIT = [1, 2]\nclass Stack: pass\ndef leave(): raise SystemExit(0)"
    )
    wrong = [
        "assert echo(1) == 2",
        "assert echo([1]) != [1]",
        "assert Stack() == []",
        "assert Stack() == 3",
        "assert LIMIT == 1",
        "leave()",
        "import sys; sys.exit(0)",
        "try:\n    unknown(1)\nexcept Exception: pass",
        "from solution import unknown",
    ]
    assert run_tests(module, "", wrong, Limits()) == 0
    assert run_tests(module, "import no_such_module", ["assert echo(1) == 1"], Limits()) == 0
    assert run_tests(module, "", ["assert echo(1) == 1"], Limits(), "unknown") == 0


def test_a_candidate_that_ends_fails_tests_that_expect_exceptions(layers):
    leaves = "import os\ndef f(): os._exit(0)"
    test = "try:\n    f()\nexcept BaseException: pass"
    assert run_tests(leaves, "", [test, test], Limits()) == 0
    assert run_tests("def f(): raise OSError", "", [test, test], Limits()) == 2


_FORGER = """
import os
for fd in range(3, 16):
    try: os.write(fd, b"[1]\\n")
    except OSError: pass
def f(): os._exit(0)
"""


def test_calls(layers):
    code = (
        "n = 0\ndef f(x, y=1):\n    global n\n    n += 1\n    if x is None: raise ValueError\n"
        "    return (x, {n: y})"
    )
    called = run_calls(code, "f", [([1], {}), ([None], {}), ([[2]], {"y": {3: 4}})], Limits())
    one, two = {"int": "0x1"}, {"int": "0x2"}
    wanted = {"dict": [[{"int": "0x3"}, {"dict": [[{"int": "0x3"}, {"int": "0x4"}]]}]]}
    assert called.results == [
        {"value": [one, {"dict": [[one, one]]}]},
        {"error": "ValueError"},
        {"value": [[two], wanted]},
    ]
    assert run_calls(_FORGER, "f", [([], {})] * 2, Limits()).results == [[1]]


def test_an_honest_program_has_a_folder_and_the_standard_library(layers):
    code = """
import collections, decimal, heapq, json, random, re, sqlite3, threading, zoneinfo, hashlib
import datetime, tempfile, os
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
datetime.datetime.now(zoneinfo.ZoneInfo("UTC")); random.random(); os.urandom(3)
"""
    assert run_program(code, "", Limits())[:2] == ("thread\n", None)
    if run.isolation():
        write = (
            "import tempfile\nopen('a', 'w').write('x'); print(open('a').read(), "
            "tempfile.TemporaryFile().write(b'y'))"
        )
        assert run_program(write, "", Limits())[:2] == ("x 1\n", None)


def test_faults_are_named(layers):
    assert run_program("import sys; sys.exit(3)", "", Limits()).fault == "status 3"
    assert run_program("print('x' * 10**7)", "", Limits()).fault == "output"
    assert run_program("while True: pass", "", LIMITS).fault == "timeout"
    assert run_program("pass", "x" * 10**6, LIMITS).fault is None, "unread input is no fault"


def test_time_is_the_candidate_s_own(layers):
    """Processor time and sleep count; waiting for a processor does not."""
    for code in ("while True: pass", "import time\ntime.sleep(100)"):
        finished = run_program(code, "", LIMITS)
        assert finished.fault == "timeout" and 0.6 < finished.seconds < 1.6
    waits = "import time\nstart = time.time()\nwhile time.process_time() < 0.3: pass\nprint(1)"
    crowd = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        assert run_program(waits, "", LIMITS._replace(wall=60.0))[:2] == ("1\n", None)
        with pytest.raises(MachineTooSlow, match="the machine was too busy to run it within 0.3 s"):
            run_program("while True: pass", "", Limits(timeout=5.0, wall=0.3))
    finally:
        for process in crowd:
            process.kill()
            process.wait()


def test_a_lost_server_is_replaced():
    assert run_program("print(1)", "", Limits()).output == "1\n"
    client._servers[0]._process.kill()
    client._servers[0]._process.wait()
    assert run_program("print(2)", "", Limits()).output == "2\n"


def test_threads_of_the_user_elsewhere_do_not_count():
    """Nor does anything else fail for a user who is not root."""
    done = _as_nobody(
        """
        import threading
        stop = threading.Event()
        for _ in range(100): threading.Thread(target=stop.wait, daemon=True).start()
        from rlhf_jax.rewards.sandbox import Limits, isolation, run, run_program, run_tests
        for run.isolation in {isolation, lambda: False}:
            program = "import threading\\nfor i in range(3): "
            program += "t = threading.Thread(target=print, args=(i,)); t.start(); t.join()"
            print(run_program(program, "", Limits())[:2] == ("0\\n1\\n2\\n", None))
            tests = ["assert add(1, 2) == 3"]
            print(run_tests("def add(a, b): return a + b", "", tests, Limits()) == 1)
        """
    )
    assert set(done.split()) == {"True"}


@pytest.mark.slow
@pytest.mark.parametrize("abi", [None, 1, 2, 3])
def test_hostile_code_of_a_user_who_is_not_root(abi, tmp_path):
    tmp_path.chmod(0o777)
    (tmp_path / "kept").write_text("secret")
    (tmp_path / "kept").chmod(0o666)
    done = _as_nobody(
        f"""
        from rlhf_jax.rewards.sandbox import Limits, isolation, run, run_program, run_tests
        from tests.rewards.hostile import CHEATS, SNIPPETS
        from tests.rewards.test_sandbox import ADD, LOOSE, _aimed
        run.LANDLOCK = {abi}
        own = isolation()
        for namespaces in {{own, False}}:
            run.isolation = lambda: namespaces
            for name, code in SNIPPETS.items():
                aimed = _aimed(code, {str(tmp_path)!r}, 1, namespaces)
                finished = run_program(aimed, "", Limits(0.6, 256, 60.0))
                tight = "LEAKED" not in finished.output and finished.fault is not None
                print(tight or ("LEAK", name, namespaces))
            for name, code in CHEATS.items():
                tests = ADD if "hangs" in name else ADD + LOOSE
                print(run_tests(code, "", tests, Limits(0.6, 256, 60.0)) == 0 or ("CHEAT", name))
        """
    )
    assert set(done.splitlines()) == {"True"}
    assert os.listdir(tmp_path) == ["kept"] and (tmp_path / "kept").read_text() == "secret"


BECOME_NOBODY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) != 0: raise OSError(ctypes.get_errno(), name)
call("unshare", 0x20000)  # mounts of its own, where what lies in root's home can be seen by others
call("mount", None, b"/", None, 16384 | 1 << 18, None)
shown = [os.path.realpath(path) for path in PATHS]
private = {}
for path in shown:
    above = path
    while above != "/":
        above = os.path.dirname(above)
        if not os.stat(above).st_mode & 1:
            private.setdefault(above, []).append((path, os.open(path, os.O_PATH)))
for above, inside in sorted(private.items()):
    call("mount", b"tmpfs", above.encode(), b"tmpfs", 0, b"mode=755")
    for path, descriptor in inside:
        os.makedirs(path, exist_ok=True)
        source = f"/proc/self/fd/{descriptor}".encode()
        call("mount", source, path.encode(), None, 4096 | 16384, None)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.execve(sys.executable, [sys.executable, "-B", "-c", CODE], {"PYTHONPATH": ROOT})
"""


def _as_nobody(code):
    """What code prints when a user without rights runs it."""
    if os.geteuid() != 0:
        pytest.skip(
            "becoming another user takes root; the other tests have just run as one who is not"
        )
    root = pathlib.Path(run.__file__).parents[3]
    stubs = "".join(
        f"import sys, types; sys.modules[{name!r}] = types.ModuleType({name!r}); "
        f"sys.modules[{name!r}].__path__ = [{str(root / name.replace('.', '/'))!r}]\n"
        for name in ("rlhf_jax", "rlhf_jax.rewards")
    )  # without JAX, which takes seconds to import
    paths = [sys.base_prefix, sys.prefix, str(root)]
    setup = (
        f"PATHS, CODE, ROOT = {paths!r}, {stubs + textwrap.dedent(code)!r}, "
        f"{str(root)!r}\n{BECOME_NOBODY}"
    )
    done = subprocess.run([sys.executable, "-c", setup], cwd="/", capture_output=True, text=True)
    if "OSError: [Errno 1]" in done.stderr:
        pytest.skip(f"mounting takes rights that root has not here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("abi", [None, 1, 2, 3])
def test_the_probe_holds_on_every_landlock(abi, monkeypatch, tmp_path):
    victim, other = _victims(tmp_path)
    monkeypatch.setattr(run, "LANDLOCK", abi)
    for namespaces in {isolation(), False}:
        assert run._leak(victim, other, namespaces=namespaces) is None


@pytest.mark.parametrize(
    ("hole", "leak"),
    [
        (
            "seccomp._opening = lambda: [seccomp._line(6, 0x7fff0000)]",
            "empty a file that it may read",
        ),
        (
            "seccomp.ALLOWED += ', truncate 76 45'",
            "empty a file by its name, empty a file of the user's",
        ),
        (
            "jail._confine_files = lambda *a: None",
            "read a file of the user's, write outside its folder, write to a file",
        ),
        ("seccomp.install = lambda: None", "open a socket, start a process, "),
    ],
)
def test_the_probe_finds_holes(hole, leak, monkeypatch, tmp_path):
    victim, other = _victims(tmp_path)
    hole = f"from rlhf_jax.rewards.sandbox import jail, seccomp\n{hole}"
    monkeypatch.setattr(client, "BOOT", _with_hole(hole))
    monkeypatch.setattr(run, "LANDLOCK", 2)
    found = str(run._leak(victim, other, namespaces=False))
    # What was emptied or written is seen from outside, whatever the probe says of itself.
    assert leak in found or f"to change {tmp_path}" in found
    (tmp_path / "readable" / "escaped").unlink(missing_ok=True)


def _victims(folder):
    (folder / "readable").mkdir()
    for path in (folder / "readable" / "file", folder / "file"):
        path.write_text("kept")
    return str(folder / "readable" / "file"), str(folder / "file")


def test_a_sandbox_that_leaks_is_refused(monkeypatch):
    isolation.cache_clear()
    monkeypatch.setattr(run, "_PROBE", "print('open a socket')\nprint('done')")
    # Where namespaces are refused, the message says that as well.
    with pytest.raises(
        ValueError,
        match=r"^the code reward cannot run here: .*in the sandbox it is possible to open a "
        r"socket\. It needs",
    ):
        isolation()
    monkeypatch.setattr(client, "BOOT", "import sys; sys.exit(0)")
    with pytest.raises(ValueError, match="the sandbox did not start.*needs a kernel with Landlock"):
        isolation()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="the code reward needs Linux"):
        isolation()
    monkeypatch.undo()
    isolation.cache_clear()


REFUSE = """
from rlhf_jax.rewards.sandbox import jail
def refuse(): raise OSError(1, "sandbox: namespaces: not here")
jail.separate = refuse
"""


def _with_hole(code):
    """What a server runs at its start, with something replaced."""
    last = "from rlhf_jax.rewards.sandbox.server"
    return client.BOOT.replace(last, f"{code}\n{last}")


def test_where_namespaces_are_refused_the_rest_holds(monkeypatch):
    """As in a container with Docker's default profile."""
    isolation.cache_clear()
    monkeypatch.setattr(client, "BOOT", _with_hole(REFUSE))
    assert isolation() is False
    monkeypatch.setattr(run, "_PROBE", "print('open a socket')\nprint('done')")
    isolation.cache_clear()
    with pytest.raises(
        ValueError,
        match=r"sandbox: namespaces: not here; in the sandbox it is possible to open a socket",
    ):
        isolation()
    monkeypatch.undo()
    isolation.cache_clear()


def test_an_end_of_the_sandbox_before_it_starts_is_no_grade(monkeypatch):
    isolation()
    client.close()
    monkeypatch.setattr(client, "BOOT", "import sys; sys.exit(0)")
    with pytest.raises(RuntimeError, match="the sandbox did not start"):
        run_tests("", "", ADD, LIMITS)


def test_only_the_code_reward_uses_the_sandbox():
    package = pathlib.Path(run.__file__).parents[2]
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "rlhf_jax.rewards.sandbox" in path.read_text() and "sandbox" not in path.parent.parts
    }
    imports = {
        name
        for name in users
        if re.search(
            r"^from rlhf_jax\.rewards\.sandbox", (package / name).read_text(), re.MULTILINE
        )
    }
    assert imports == {"rewards/code.py"}
