"""Processes of a run, played by threads of one: no device takes part."""

import threading
from types import SimpleNamespace

from rlhf_jax.sharding import processes
from rlhf_jax.sharding.channel import Channel
from rlhf_jax.sharding.door import Door, enter

KEY = b"secret"
PATIENT = 20.0


class Group:
    """Channels of some processes, one thread's work each."""

    def __init__(self, count, **options):
        door = Door(KEY)
        held = {}

        def come(number):
            held[number] = enter(number, [("127.0.0.1", door.port)], KEY, timeout=PATIENT)

        threads = [threading.Thread(target=come, args=(n,)) for n in range(1, count)]
        for thread in threads:
            thread.start()
        leads = door.admit(count, timeout=PATIENT)
        for thread in threads:
            thread.join()
        self.failures = []
        options["on_failure"] = self.failures.append
        self.channels = [Channel(0, count, leads, **options)]
        self.channels += [Channel(n, count, {0: held[n]}, **options) for n in range(1, count)]

    def all(self, work):
        """What `work(channel)` gives, or raises, in every process at once."""
        found = [None] * len(self.channels)

        def run(number):
            try:
                found[number] = work(self.channels[number])
            except Exception as error:
                found[number] = error

        threads = [threading.Thread(target=run, args=(n,)) for n in range(len(found))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=PATIENT)
        return found

    def close(self):
        self.all(lambda channel: channel.close(timeout=1.0))


class Joined(SimpleNamespace):
    """What `processes` knows of its run, in each thread of a group that of another process."""

    def __init__(self):
        super().__init__(exchange_timeout=PATIENT, left=threading.Event(), codes=[], said=set())
        self.here = threading.local()

    @property
    def channel(self):
        return self.here.channel


def as_processes(group, monkeypatch):
    """(work of a process's number) -> what it gives, or raises, in each thread of the group."""
    joined = Joined()
    monkeypatch.setattr(processes, "_joined", joined)

    def all_of(work):
        def run(channel):
            joined.here.channel = channel
            return work(channel.process)

        return group.all(run)

    return all_of
