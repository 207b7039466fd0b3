"""Reward functions for the tests of the pool. Loaded by path, in the reward processes."""

import asyncio
import ctypes
import os
import signal
import time


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
    return {"none": None, "nan": float("nan"), "infinite": float("inf"), "text": "much"}.get(word, float(len(word)))


def by_word(prompts, completions, completion_ids=None, **kwargs):
    scores = [_act(completion) for completion in completions]
    return scores * 2 if completions == ["two values"] else scores


async def by_word_async(completions, **kwargs):
    await asyncio.sleep(0.1)
    if completions[0] == "sleeps":
        await asyncio.sleep(1000)
    return [_act(completion) for completion in completions]


def relative(completions, **kwargs):
    longest = max(len(completion) for completion in completions)
    if "raise" in completions:
        raise KeyError("no such thing")
    return [len(completion) / longest for completion in completions]


def with_columns(completions, answer, bonus=0.0):
    return [float(completion == right) + bonus for completion, right in zip(completions, answer, strict=True)]


def everything(prompts, completions, completion_ids, answer, **kwargs):
    assert completions[0][0]["role"] == "assistant" and kwargs == {"level": [3]}
    return [len(prompts[0]) + 10 * len(completion_ids[0]) + (completions[0][0]["content"] == answer[0])]


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
    """Uses signal.alarm, as many graders do: it works because functions run in the main thread of their process."""

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


def where_it_runs(completions, **kwargs):
    _act(completions[0])
    return [float(os.environ["JAX_PLATFORMS"] == "cpu" and os.getsid(0) == os.getpid())]


not_callable = 3
