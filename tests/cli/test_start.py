"""The process that a command runs in."""

import os
import subprocess
import sys

import pytest

from rlhf_jax.cli import start


@pytest.fixture
def glibc(monkeypatch, tmp_path):
    """A system whose malloc gets huge pages when it asks; returns the kernel's file."""
    monkeypatch.setattr(start.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    kernel = tmp_path / "enabled"
    kernel.write_text("always [madvise] never\n")
    return kernel


def test_who_lacks_huge_pages(glibc, monkeypatch):
    assert start.lacks_huge_pages(glibc)
    for text in ("[always] madvise never", "always madvise [never]"):
        glibc.write_text(text)
        assert not start.lacks_huge_pages(glibc)
    glibc.write_text("always [madvise] never")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")  # the user's own decision
    assert not start.lacks_huge_pages(glibc)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    assert start.lacks_huge_pages(glibc)
    assert not start.lacks_huge_pages(glibc.with_name("absent"))
    for libc in (("glibc", "2.34"), ("musl", "1.2"), ("", "")):
        monkeypatch.setattr(start.platform, "libc_ver", lambda libc=libc: libc)
        assert not start.lacks_huge_pages(glibc)


@pytest.fixture
def started(glibc, monkeypatch):
    """Starts a command; returns (exit code, what the process was replaced by)."""
    replaced = []
    monkeypatch.setattr(start.lacks_huge_pages, "__defaults__", (glibc,))
    monkeypatch.setattr(start.os, "execve", lambda *words: replaced.append(words))
    monkeypatch.setattr(start, "main", lambda interrupted: 7)

    def run(*arguments, options=None):
        replaced.clear()
        monkeypatch.setattr(sys, "argv", ["rlhf-jax", *arguments])
        monkeypatch.setattr(sys, "_xoptions", options or {})
        return start.start(), list(replaced)

    return run


def test_a_command_that_computes_replaces_its_process_once(started, monkeypatch):
    assert started("algorithms") == (7, [])
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    code, [(program, words, environment)] = started("train", "run.yaml")
    assert program == words[0] == sys.executable and words[3:] == sys.orig_argv[1:]
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"
    again = {words[2]: True}
    # An environment that was cleaned on the way starts no endless chain.
    assert started("train", "run.yaml", options=again) == (7, [])
    # What the process was started with is not for those that it starts.
    monkeypatch.setenv("GLIBC_TUNABLES", environment["GLIBC_TUNABLES"])
    assert started("train", "run.yaml", options=again) == (7, [])
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    started("train", "run.yaml", options=again)
    assert "GLIBC_TUNABLES" not in os.environ


def test_a_process_that_cannot_be_replaced_runs_the_command(started, monkeypatch):
    def refused(*words):
        raise PermissionError("noexec")

    monkeypatch.setattr(start.os, "execve", refused)
    assert started("train", "run.yaml") == (7, [])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-", "train", "run.yaml"])
    assert started("train", "run.yaml") == (7, [])


def test_arguments_and_exit_code_survive(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    missing = str(tmp_path / "a file that is not there.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_jax", "train", missing],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and missing in done.stderr, done.stderr


def test_help_imports_no_jax():
    code = (
        "import sys; sys.argv[1:] = ['--help']; from rlhf_jax.cli.start import start; start(); "
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_packages_are_attributes():
    code = (
        "import rlhf_jax; rlhf_jax.types.Model; rlhf_jax.training.step; "
        "print(rlhf_jax.ops.kl_estimate is rlhf_jax.kl_estimate)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


INTERRUPTED = """
import sys, threading, time
from rlhf_jax.cli import commands, start
def models(options):
    threading.Thread(target=time.sleep, args=(60,)).start()  # as a compiler's, which goes on
    raise KeyboardInterrupt
commands.COMMANDS["models"] = models
sys.argv = ["rlhf-jax", "models"]
start.start()
"""


def test_an_interrupted_process_waits_for_nobody():
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=50, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")
