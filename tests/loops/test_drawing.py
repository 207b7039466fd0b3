"""Which prompts a generation batch asks once some are retired."""

import time
import types

import numpy as np
import pytest

from rlhf_jax.config import TrainingConfig
from rlhf_jax.data.batching import epoch_order
from rlhf_jax.loops.collect import Position, draw_prompts
from rlhf_jax.rollout.config import RolloutConfig


class Prompts:
    """The part of a `PromptLoader` that drawing reads."""

    def __init__(self, count):
        self.num_examples = count

    def order(self, epoch):
        return epoch_order(self.num_examples, seed=0, epoch=epoch)

    def indices(self, start, count):
        places = range(start, start + count)
        return np.array(
            [self.order(place // self.num_examples)[place % self.num_examples] for place in places]
        )


def setup_of(count, wanted):
    config = types.SimpleNamespace(
        rollout=RolloutConfig(prompts_per_batch=wanted), training=TrainingConfig()
    )
    return types.SimpleNamespace(config=config, prompts=Prompts(count))


@pytest.mark.parametrize(
    ("count", "left", "wanted"),
    [(12, 2, 4), (12, 5, 4), (12, 11, 4), (12, 1, 4), (30, 20, 7), (9, 4, 4)],
)
def test_no_prompt_comes_twice_in_a_batch_and_every_epoch_has_each_once(count, left, wanted):
    setup, rng = setup_of(count, wanted), np.random.default_rng(left)
    alive = set(rng.permutation(count)[:left].tolist())
    position = Position(
        place=int(rng.integers(0, count)), retired=tuple(sorted(set(range(count)) - alive))
    )
    start, drawn, places = position.place, [], []
    for _ in range(40):
        indices, place = draw_prompts(setup, position)
        assert 0 < len(indices) <= min(wanted, left) and len(set(indices.tolist())) == len(indices)
        assert set(indices.tolist()) <= alive and indices.dtype == np.int64
        drawn += indices.tolist()
        places.append(place)
        position = position._replace(place=place)
    assert places == sorted(places)
    epochs = range(start // count, places[-1] // count + 1)
    everything = np.concatenate([setup.prompts.order(epoch) for epoch in epochs])[start % count :]
    assert drawn == [index for index in everything.tolist() if index in alive][: len(drawn)]


def test_none_are_left():
    indices, place = draw_prompts(setup_of(5, 3), Position(place=7, retired=(0, 1, 2, 3, 4)))
    assert indices.size == 0 and place == 7


def test_without_retired_prompts_epochs_follow_each_other():
    indices, place = draw_prompts(setup_of(5, 7), Position(place=3))
    assert indices.tolist() == [*Prompts(5).order(0)[3:], *Prompts(5).order(1)] and place == 10


def test_a_batch_ends_when_all_that_are_left_were_asked_for_it():
    setup, retired = setup_of(12, 4), tuple(range(6))
    asked = {"data/groups_carried": 0.0, "data/groups_generated": 6.0, "data/groups_kept": 1.0}
    assert draw_prompts(setup, Position(retired=retired, tally=asked))[0].size == 0
    for more in ({"data/groups_kept": 0.0}, {"data/groups_generated": 5.0}):
        assert draw_prompts(setup, Position(retired=retired, tally=asked | more))[0].size == 4


def test_drawing_a_few_of_many_is_fast():
    """10 of 50,000 left: 17 s when every place was asked by itself."""
    setup = setup_of(50_000, 64)
    position = Position(retired=tuple(range(10, 50_000)))
    began = time.process_time()
    indices, place = draw_prompts(setup, position)
    assert time.process_time() - began < 1.0
    assert sorted(indices.tolist()) == list(range(10)) and place < 2 * 50_000
