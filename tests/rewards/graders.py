"""Reward functions for the tests of the pool. Loaded by path, in the reward processes."""

import asyncio
import ctypes
import os
import signal
import time

import numpy as np


def _act(word):
    if word == "hang":
        time.sleep(1000)
    if word == "loop":
        while True:
            pass
    if word == "raise":
        raise KeyError("no such thing")
    if word == "exit":
        os._exit(0)
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "segfault":
        ctypes.string_at(0)
    if word == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if word == "system exit":
        raise SystemExit(0)
    if word == "memory":
        bytearray(10**12)
    if word == "daemon" and os.fork() == 0:
        time.sleep(1000)
    return {"none": None, "nan": float("nan"), "infinite": float("inf"), "text": "much"}.get(
        word, float(len(word))
    )


def by_word(prompts, completions, completion_ids=None, **kwargs):
    scores = [_act(completion) for completion in completions]
    return scores * 2 if completions == ["two values"] else scores


async def by_word_async(completions, **kwargs):
    await asyncio.sleep(0.1)
    if "sleeps" in completions:
        await asyncio.sleep(1000)
    return [_act(completion) for completion in completions]


def relative(completions, **kwargs):
    longest = max(len(completion) for completion in completions)
    if "raise" in completions:
        raise KeyError("no such thing")
    return [len(completion) / longest for completion in completions]


def with_columns(completions, answer, bonus=0.0):
    return [
        float(completion == right) + bonus
        for completion, right in zip(completions, answer, strict=True)
    ]


def everything(prompts, completions, completion_ids, answer, **kwargs):
    trl = {kwargs.pop(name) for name in ("trainer_state", "log_extra", "log_metric")}
    assert completions[0][0]["role"] == "assistant" and set(kwargs) == {"level"} and len(trl) == 3
    rows = zip(prompts, completion_ids, completions, answer, strict=True)
    return [
        len(prompt) + 10 * len(ids) + (said[0]["content"] == right)
        for prompt, ids, said, right in rows
    ]


def make_soft_limit(limit, slope=1.0):
    """A factory, as TRL's get_soft_overlong_punishment is one."""

    def reward(completion_ids, **kwargs):
        return [-slope * max(0, len(ids) - limit) for ids in completion_ids]

    return reward


class Longer:
    """A class of callables."""

    def __init__(self, than):
        self.than = than

    def __call__(self, completions, **kwargs):
        return [len(completion) > self.than for completion in completions]


def alarmed(completions, **kwargs):
    """Uses signal.alarm, as many do: functions run in the main thread of their process."""

    def too_late(*_):
        raise TimeoutError("alarm")

    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        time.sleep(1.0 if completions[0] == "slow" else 0.0)
        return [1.0]
    except TimeoutError:
        return [0.0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def process_id(completions, **kwargs):
    return [float(os.getpid())]


def one_more(completions, **kwargs):
    return [1.0] * (len(completions) + 1)


def one_number(completions, **kwargs):
    return 1.0


def one_array(completions, **kwargs):
    return np.ones(())


def no_return(completions, **kwargs):
    [len(completion) for completion in completions]


def by_key(completions, **kwargs):
    return {"accuracy": 1.0, "format": 0.0, "length": 1.0}


def digits(completions, **kwargs):
    return "012"


def unordered(completions, **kwargs):
    return {1.0, 2.0, 3.0}


async def never_awaited(completions, **kwargs):
    for completion in completions:
        yield float(len(completion))


def generated(completions, **kwargs):
    for completion in completions:
        yield float(len(completion))


def where_it_runs(completions, **kwargs):
    _act(completions[0])
    return [float(os.environ["JAX_PLATFORMS"] == "cpu" and os.getsid(0) == os.getpid())]


def make_nothing():
    return "no function"


not_callable = 3


def rank(completions, **kwargs):
    """Compares the completions of a batch, as TRL allows: the place of each by its length."""
    for completion in completions:
        _act(completion)
    order = sorted(range(len(completions)), key=lambda i: len(completions[i]))
    return [order.index(i) for i in range(len(completions))]


_calls = 0


def counter(completions, **kwargs):
    """State between the calls."""
    global _calls
    _calls += 1
    if "raise" in completions:
        raise KeyError("no such thing")
    return [_calls] * len(completions)


def told(completions, trainer_state, log_extra, log_metric):
    log_metric("length", sum(map(len, completions)) / len(completions))
    log_extra("shout", [completion.upper() for completion in completions])
    log_extra("size", [len(completion) for completion in completions])
    log_extra("reward", ["its own" for _ in completions])
    for completion in completions:
        _act(completion)
    return [trainer_state.global_step + 100 * trainer_state.max_steps] * len(completions)


def logs_badly(completions, log_extra, log_metric, **kwargs):
    log_extra("short", ["one"])
    log_metric("nan", float("nan"))
    return [1.0] * len(completions)


def compute_score(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    """verl's signature."""
    return {
        "score": (solution_str == ground_truth) + bonus,
        "source": f"{data_source}/{extra_info['index']}",
    }


async def on_one_loop(completions, **kwargs):
    """A lock that belongs to the event loop of the first call."""
    global _lock
    _lock = globals().get("_lock") or asyncio.Lock()
    tasks = [asyncio.create_task(_locked()) for _ in completions]
    return await asyncio.gather(*tasks)


async def _locked():
    async with _lock:
        await asyncio.sleep(0)
        return float(id(asyncio.get_running_loop()) % 2**20)
