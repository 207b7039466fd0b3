"""Work in processes: order, errors, and that no death of one can hang the others or the exit."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import NoReturn

import pytest

from rlhf_jax.data.processes import WorkerDiedError, map_in_processes

LARGE = 8_000_000
"""More than any pipe holds, bytes."""


def nothing(*_: object) -> None:
    pass


def later_for_earlier(item: int) -> tuple[int, int]:
    time.sleep(0.3 if item == 0 else 0.0)
    return item, os.getpid()


def refuse(item: int) -> NoReturn:
    raise LookupError(f"item {item}")


class OddError(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"odd {one} {other}")


def refuse_oddly(item: int) -> NoReturn:
    raise OddError(item, item)


def end(item: object) -> NoReturn:
    os._exit(3)


def large_answer_killed(item: int) -> bytes:
    """Only the first is quick: the others are killed while they wait to be read."""
    if item:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(LARGE)


def assert_no_process_is_left() -> None:
    assert multiprocessing.active_children() == []


def test_results_come_in_order_from_several_processes() -> None:
    results = list(map_in_processes(later_for_earlier, range(6), 2, start=nothing, setup=()))
    assert [item for item, _ in results] == list(range(6))
    assert len({process for _, process in results}) == 2
    assert_no_process_is_left()


def test_errors_of_the_work_arrive_with_their_traceback() -> None:
    with pytest.raises(LookupError, match="item 7") as caught:
        list(map_in_processes(refuse, [7], 1, start=nothing, setup=()))
    assert "in refuse" in caught.value.__notes__[0]
    # cannot be put together again from its arguments
    with pytest.raises(RuntimeError, match="odd 7 7"):
        list(map_in_processes(refuse_oddly, [7], 1, start=nothing, setup=()))
    assert_no_process_is_left()


def test_a_process_that_ends_while_it_is_written_to() -> None:
    """The setup is on its way, then large items are."""
    items = [bytes(LARGE)] * 4
    with pytest.raises(WorkerDiedError, match=r"^exit code 3$"):
        list(map_in_processes(nothing, items, 2, start=end, setup=(bytes(LARGE),)))
    with pytest.raises(WorkerDiedError, match=r"^exit code 3$"):
        list(map_in_processes(end, items, 2, start=nothing, setup=()))
    assert_no_process_is_left()


def test_a_process_that_is_killed_in_the_middle_of_its_answer() -> None:
    results = map_in_processes(large_answer_killed, range(3), 1, start=nothing, setup=())
    assert next(results) == bytes(LARGE)
    [process] = multiprocessing.active_children()
    process.join()
    with pytest.raises(WorkerDiedError, match=r"^signal SIGKILL$"):
        next(results)
    assert_no_process_is_left()


def test_no_process_outlives_results_that_nobody_takes() -> None:
    results = map_in_processes(later_for_earlier, range(6), 2, start=nothing, setup=())
    next(results)
    results.close()
    assert_no_process_is_left()


SCRIPT = """
    from rlhf_jax.data import DataConfig, byte_tokenizer, make_loader

    tokenizer = byte_tokenizer().with_chat_template("{{# {filler} #}}{{{{ messages }}}}")
    config = DataConfig(path={path!r}, max_length=64, num_proc=2)
    make_loader(config, tokenizer, kind="text", batch_size=4, seed=0)
"""


def test_a_script_without_a_guard_ends_with_one_line(tmp_path: pathlib.Path) -> None:
    """Its processes end while they start, before they read a tokenizer of ordinary size."""
    rows = [json.dumps({"prompt": "a" * 400, "completion": "b"})] * 1200
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(rows), encoding="utf-8")
    script = tmp_path / "script.py"
    source = textwrap.dedent(SCRIPT).format(filler="x" * 200_000, path=str(data))
    script.write_text(source, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith(
        "DataError: a tokenisation process died (exit code 1): guard the script with if __name__ "
        "== '__main__', see that the memory suffices, or set data.num_proc=1"
    )
