"""What an online run is made of: who samples, who grades, what is trained."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh

from rlhf_jax.algorithms import make_algorithm
from rlhf_jax.config import Config, MeasureConfig, measure_config
from rlhf_jax.data import FastTokenizer, PromptLoader
from rlhf_jax.data.rooms import Sequences, parted_room, worth_parts
from rlhf_jax.loops.collect import Collector
from rlhf_jax.loops.grading import Divided, Grader, RewardGrader
from rlhf_jax.loops.groups import make_batch, widths
from rlhf_jax.loops.held_out import LogRatios
from rlhf_jax.loops.online import Score
from rlhf_jax.programs import jitted, last_batch, named
from rlhf_jax.rewards.judging import make_judge
from rlhf_jax.rollout import Sampler, Watch
from rlhf_jax.runs.footprint import held_bytes
from rlhf_jax.runs.log_ratios import load_log_ratios
from rlhf_jax.runs.parts import (
    check_online_batch,
    check_positions,
    check_same,
    check_vocabulary,
    make_tokenizer,
    packing_of,
)
from rlhf_jax.runs.replay import Replay
from rlhf_jax.runs.rollout_layout import cached_tokens, with_rollout_mesh
from rlhf_jax.runs.sampling import make_grader, make_prompts, make_sampler
from rlhf_jax.runs.stops import warn_of_hidden_tags
from rlhf_jax.runs.trees import Given, Loaded, load_trees
from rlhf_jax.sharding import batch_sharding, make_mesh, place_batch
from rlhf_jax.sharding.hosts import warn_of_tensor_between_hosts
from rlhf_jax.sharding.processes import count, leader_first
from rlhf_jax.training import make_score
from rlhf_jax.types import Algorithm, PolicyBatch, Room, Sampling, Trees

MakeSampler = Callable[[Sampler | None, FastTokenizer], Sampler]
"""(the built-in sampler, or None where the model cannot decode; tokenizer) -> the one to use."""
MakeGrader = Callable[[Grader], Grader]
"""The built-in grader -> the one to use."""


class OnlineParts(NamedTuple):
    """What samples, grades and trains: everything that a configuration names."""

    config: Config
    """With what the algorithm takes from other sections filled in."""
    mesh: Mesh
    tokenizer: FastTokenizer
    prompts: PromptLoader
    held_out: PromptLoader | None
    loaded: Loaded
    algorithm: Algorithm
    sampler: Sampler
    grader: Grader
    measure: MeasureConfig | None
    """None: there are no rewards to measure with."""
    room: Room | None = None
    """Completions are packed into this much; None: a row each."""
    log_ratios: LogRatios | None = None
    """Of held-out samples against the model of `evaluation.reference`."""

    @property
    def sampling(self) -> Sampling:
        """What the algorithm wants sampled."""
        return self.config.algorithm.sampling

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in a pass over the prompts, where each gives a group to train on."""
        return -(-self.prompts.num_examples // self.config.training.batch_size)

    def collector(self, total_steps: int, record: Any) -> Collector:
        """From prompts to groups."""
        config = self.config
        return Collector(
            prompts=self.prompts,
            sampler=self.sampler,
            grader=self.grader,
            sampling=self.sampling,
            batch_size=config.training.batch_size,
            prompts_per_batch=config.rollout.prompts_per_batch or config.training.batch_size,
            seed=config.seed,
            total_steps=total_steps,
            num_epochs=config.training.num_epochs,
            run_dir=config.run_dir,
            record=record,
        )

    def to_device(self, groups: Any, step: int) -> PolicyBatch:
        """Groups as a batch in its shards."""
        # Rows that share places need not be cut: one shape serves all batches.
        count = 2 if self.room is None else 1
        batch = make_batch(
            groups,
            total_widths=widths(self.sampler.width, count=count),
            scored_widths=widths(self.sampler.max_scored, count=count),
            step=step,
            room=self.room,
        )
        return place_batch(batch, self.mesh)

    def replay(self) -> Replay | None:
        """What gives the update recorded batches in place of new ones; None: they are sampled."""
        folder = self.config.rollout.replay
        return None if folder is None else Replay(folder, self.room)

    def score(self, wrap: Callable[[Any], Any] = lambda fill: fill) -> Score:
        """Fills what the algorithm needs, in microbatches of the update's own shape; jitted.

        Args:
          wrap: the jitted function -> one that calls it.
        """
        needs = self.algorithm.needs
        if not needs:
            return lambda trained, frozen, batch: batch
        microbatches = self.sampling.num_minibatches * self.config.training.microbatches
        fill = wrap(
            named(
                "score",
                jitted(
                    make_score(needs, num_microbatches=microbatches, mesh=self.mesh),
                    out_shardings=batch_sharding(self.mesh),
                ),
                last_batch,
            )
        )
        return lambda trained, frozen, batch: batch._replace(**fill(trained, frozen, batch))


def policy_of(trained: Trees, frozen: Trees) -> Any:
    """The parameters to sample with."""
    return trained["policy"]


def make_online_parts(
    config: Config,
    run_dir: Any,
    *,
    given: Given | None = None,
    sampler: Sampler | MakeSampler | None = None,
    grader: Grader | MakeGrader | None = None,
    watch: Watch | None = None,
) -> OnlineParts:
    """Builds everything that a configuration names, cheapest mistakes first.

    Args:
      config: a whole run.
      run_dir: its folder.
      given: a model of one's own.
      sampler: one of one's own, or what makes it of the built-in one.
      grader: likewise.
      watch: see `rlhf_jax.rollout.make_generator`; of the built-in sampler.

    Raises:
      ValueError: anything in the configuration that cannot be done, in one line.
    """
    mesh = make_mesh(config.mesh)
    warn_of_tensor_between_hosts(mesh)
    config = dataclasses.replace(config, algorithm=config.resolved_algorithm)
    sampling: Sampling = config.algorithm.sampling
    check_online_batch(config, mesh)
    tokenizer = make_tokenizer(config, run_dir, "prompts")
    prompts = leader_first("prompts", lambda: make_prompts(config, tokenizer, "train"))
    check_same("training data", prompts.fingerprint)
    held_out = None
    if config.data.has_eval:
        held_out = leader_first("held-out", lambda: make_prompts(config, tokenizer, "eval"))
    loaded = load_trees(config, mesh, given=given)
    check_vocabulary(loaded.model, tokenizer)
    warn_of_hidden_tags(config, tokenizer)
    buckets = prompts.buckets if held_out is None else (*prompts.buckets, *held_out.buckets)
    built_in = None
    if loaded.model.decode is not None:
        config = with_rollout_mesh(
            config,
            mesh,
            loaded.model,
            held=functools.partial(held_bytes, config, mesh, given),
            cached=cached_tokens(config, prompt_width=max(buckets), group_size=sampling.group_size),
        )
        built_in = make_sampler(
            config,
            mesh,
            loaded.model,
            tokenizer,
            prompt_buckets=tuple(sorted(set(buckets))),
            temperature=sampling.temperature,
            watch=watch,
        )
    chosen = choose_sampler(sampler, built_in, tokenizer)
    check_rows(loaded, chosen, tokenizer)
    measure = measure_config(config) if config.rewards else None
    rows = config.training.batch_size * sampling.group_size
    # Who decides what is trained on is the algorithm's own choice, also where it names nobody;
    # elsewhere accuracy is only reported, as at evaluation.
    decides = sampling.decides or sampling.accuracy_reward is not None
    judge = make_judge(config.rewards, sampling.accuracy_reward) if decides else None
    at_once = rows // (sampling.num_minibatches * config.training.microbatches)
    graded: Grader = make_grader(
        config if measure is None else measure,
        tokenizer,
        mesh=mesh,
        rows_at_once=at_once,
        judge=judge,
    )
    log_ratios = None
    if measure is not None and held_out is not None:
        log_ratios = load_log_ratios(
            measure, tokenizer, mesh=mesh, rows_at_once=at_once, max_scored=chosen.max_scored
        )
    if grader is not None:
        graded = grader if isinstance(grader, Grader) else grader(graded)
        is_divided = isinstance(graded, RewardGrader) and graded.divided
        if graded is grader and count() > 1 and not is_divided:
            graded = Divided(graded)
    return OnlineParts(
        config,
        mesh,
        tokenizer,
        prompts,
        held_out,
        loaded,
        make_algorithm(config.algorithm, loaded.model),
        chosen,
        graded,
        measure,
        online_room(config, mesh, width=chosen.width, completion=chosen.max_scored),
        log_ratios,
    )


def online_room(config: Config, mesh: Mesh, *, width: int, completion: int) -> Room | None:
    """Room for the completions of an update; None: a row each.

    Args:
      config: a whole run.
      mesh: of the run.
      width: tokens of a prompt and its completion at most.
      completion: tokens of a completion at most.
    """
    packing = packing_of(config, mesh)
    sampling = config.algorithm.sampling
    if packing is None:
        return None
    batch = Sequences(
        number=config.training.batch_size * sampling.group_size // sampling.num_minibatches,
        longest=width,
        completion=completion,
        # Minibatches are dealt row by row, which parts the completions of a prompt.
        group=sampling.group_size if sampling.num_minibatches == 1 else 1,
    )
    if not worth_parts(batch, packing):
        return None
    return parted_room(batch, packing)


def choose_sampler(
    sampler: Sampler | MakeSampler | None, built_in: Sampler | None, tokenizer: FastTokenizer
) -> Sampler:
    """The sampler of a run.

    Raises:
      ValueError: there is none: the model cannot decode, and no sampler was given.
    """
    if sampler is not None:
        return sampler if isinstance(sampler, Sampler) else sampler(built_in, tokenizer)
    if built_in is None:
        raise ValueError(
            "the given model has no prefill and decode, so it cannot sample: give train() a sampler"
        )
    return built_in


def check_rows(loaded: Loaded, sampler: Sampler, tokenizer: FastTokenizer) -> None:
    """Refuses rows that some model of the run is too short for, and vocabularies that differ."""
    options = "rollout.max_prompt_len or rollout.max_new_tokens"
    check_positions(loaded.model, sampler.width, options=options)
    for role, model in loaded.model.roles:
        check_vocabulary(model, tokenizer)
        check_positions(model, sampler.width, options=options, name=role)
