"""Which checkpoints stay beside the newest."""

from types import SimpleNamespace

from rlhf_jax.io.ranks import FirstOfEvery


def kept(steps, every):
    saved = [SimpleNamespace(step=step) for step in steps]
    stays = FirstOfEvery(every).should_preserve(saved, context=None)
    return [step for step, keep in zip(steps, stays, strict=True) if keep]


def test_the_first_of_every_stretch_stays():
    assert kept([10, 20, 30, 40, 50, 60], 20) == [20, 40, 60]
    # whatever is saved: after a signal, or because another number of steps lies between
    assert kept([30, 60, 90, 120, 125, 210], 100) == [120, 210]
    assert kept([10, 20], 100) == [] and kept([], 5) == []


def test_what_stays_does_not_depend_on_what_was_removed_before():
    there = []
    for step in range(7, 400, 7):
        there.append(step)
        there = [*kept(there[:-1], 50), there[-1]] if len(there) > 1 else there
    assert kept(there, 50) == kept(list(range(7, 400, 7)), 50)
