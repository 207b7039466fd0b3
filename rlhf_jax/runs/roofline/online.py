"""The programs of PPO, GRPO and DAPO: generation (as prefill and decoding where those are programs
of their own), grading on the host, the scores that the algorithm needs, and the update."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import Config
from rlhf_jax.loops.collect import Collector
from rlhf_jax.rollout import Sampled, Sampler, SamplingParams
from rlhf_jax.rollout.programs import Programs
from rlhf_jax.runs.online_parts import OnlineParts, make_online_parts, policy_of
from rlhf_jax.runs.roofline.rounds import Sample, Updater, named, on_host, score_stage
from rlhf_jax.runs.roofline.watched import Watched
from rlhf_jax.runs.updating import fresh_state, make_update
from rlhf_jax.runs.useful.passes import Pass, loss_passes, score_passes
from rlhf_jax.runs.useful.work import (
    Content,
    Stage,
    content_of,
    generation_stages,
    make_decoder,
    padding,
    places,
)
from rlhf_jax.training import make_optimizers
from rlhf_jax.types import Key, Params

NAMES = ("generate", "prefill", "decode", "grade", "score", "update")


class TimedSampler:
    """A sampler that remembers what its generations took, and what they had to do.

    Attributes:
      width, max_scored: see `rlhf_jax.rollout.Sampler`.
      sampler: the run's own.
    """

    def __init__(
        self, sampler: Sampler, parts: OnlineParts, programs: Mapping[str, Watched]
    ) -> None:
        """Watches a sampler.

        Args:
          sampler: of the run.
          parts: of the run.
          programs: that it calls; what compiling them takes is not the sampler's time.
        """
        self.width = sampler.width
        self.max_scored = sampler.max_scored
        self.sampler = sampler
        self._programs = programs
        self._slots = parts.config.rollout.slots
        section = parts.config.model
        self._itemsize = jnp.dtype(section.compute_dtype or section.dtype).itemsize
        self._model = parts.loaded.model.config
        self._calls: list[tuple[float, tuple[Stage, Stage], float]] = []

    def __call__(
        self,
        params: Params,
        prompts: Any,
        key: Key,
        *,
        group_size: int,
        sampling: SamplingParams | None = None,
    ) -> Sampled:
        """See `Sampler`."""
        compiled = self._compile_seconds()
        start = time.perf_counter()
        sampled = self.sampler(params, prompts, key, group_size=group_size, sampling=sampling)
        seconds = time.perf_counter() - start
        # Prompts of another width come in any round, and with them another program.
        seconds -= self._compile_seconds() - compiled
        lengths = np.asarray(sampled.rollout.completion_mask).sum(axis=1).reshape(-1, group_size)
        stages = generation_stages(
            make_decoder(self._model, params, self._itemsize),
            np.asarray(prompts.lengths, np.int64),
            lengths.astype(np.int64),
            min(self._slots or lengths.size, lengths.size),
        )
        self._calls.append((seconds, stages, 1 - sampled.stats.utilisation))
        return sampled

    def _compile_seconds(self) -> float:
        return sum(program.compile_seconds for program in self._programs.values())

    def take(self) -> tuple[float, tuple[Stage, Stage], float]:
        """Since this was asked last: seconds, (prefill, decode), share of wasted places."""
        calls = self._calls
        self._calls = []
        prefill, decode = (
            Stage(sum(stage.flops for stage in stages), sum(stage.bytes for stage in stages))
            for stages in zip(*(call[1] for call in calls), strict=True)
        )
        wasted = float(np.mean([call[2] for call in calls]))
        return sum(call[0] for call in calls), (prefill, decode), wasted


class OnlineRounds:
    """See `Rounds`.

    Groups are taken as they come, whatever their rewards are: a model that has learnt nothing would
    give DAPO nothing to train on, and shapes and work are those of a run all the same.
    """

    def __init__(self, config: Config, run_dir: pathlib.Path, wanted: Sequence[str]) -> None:
        """Builds what `rlhf-jax train` would build.

        Args:
          config: a whole run.
          run_dir: what a run writes goes here.
          wanted: programs to measure; none: all.

        Raises:
          ValueError: anything in the configuration that cannot be done, in one line.
        """
        if config.rollout.replay is not None:
            raise ValueError(
                f"rollout.replay={config.rollout.replay} samples nothing, so there is no iteration "
                "to measure: add rollout.replay=null"
            )
        self.programs: dict[str, Watched] = {}
        parts = make_online_parts(config, run_dir, watch=self._watch)
        names = [name for name in NAMES if name != "score" or parts.algorithm.needs]
        self._wanted = named(wanted, names)
        self._parts = parts
        self._section = parts.config.algorithm
        self.grader = parts.grader
        self.mesh = parts.mesh
        self.model = parts.loaded.model.config
        sampling = parts.sampling
        self.places = parts.sampler.width * config.training.batch_size * sampling.group_size
        total_steps = config.training.max_steps or (
            config.training.num_epochs * parts.steps_per_epoch
        )
        self.sampler = TimedSampler(parts.sampler, parts, self.programs)
        self._collect = self._collector(total_steps)
        self._rollouts = self._collect.begin()
        total_updates = total_steps * sampling.num_updates
        trained = self._section.models.trained
        tx = make_optimizers(config.optimizer, trained, total_steps=total_updates)
        options = (parts.config, parts.algorithm, tx, parts.mesh)
        begun = fresh_state(parts.config, parts.loaded, *options[1:]).state()
        update = make_update(*options, total_updates=total_updates)
        self._updater = Updater(update, begun, parts.loaded.frozen, parts.mesh)
        self._score = parts.score(lambda fill: self._watched("score", fill))
        self.programs["update"] = self._updater.program
        self._score_passes: tuple[Pass, ...] = ()
        self._update_passes: tuple[Pass, ...] = ()

    def round(self, number: int) -> list[Sample]:
        """See `Rounds`."""
        trees = (self._updater.state.params, self._parts.loaded.frozen)
        collected = self._collect(
            policy_of(*trees), self._rollouts, step=number, stopped=lambda: False
        )
        # What is left over would spare the next round a generation.
        cursor = collected.rest.cursor._replace(carried=())
        self._rollouts = collected.rest._replace(cursor=cursor, groups=self._collect.filler(0))
        samples = self._sampled()
        samples.append(Sample("grade", collected.metrics["time/reward"]))
        batch = jax.block_until_ready(self._parts.to_device(collected.groups, number))
        sampling = self._parts.sampling
        parts = sampling.num_minibatches * self._parts.config.training.microbatches
        self.places = places(batch, parts)
        if {"score", "update"} & set(self._wanted):
            content = content_of(on_host(batch))
            batch = self._scored(batch, content, samples)
        if "update" in self._wanted:
            samples.append(self._updated(batch, content))
        return [sample for sample in samples if sample.name in self._wanted]

    def _watch(self, programs: Programs) -> Programs:
        """The generator's programs, watched."""
        return programs._replace(
            whole=self._watched("generate", programs.whole),
            prefill=self._watched("prefill", programs.prefill),
            chunk=self._watched("decode", programs.chunk),
        )

    def _watched(self, name: str, function: Any) -> Watched:
        self.programs[name] = Watched(function)
        return self.programs[name]

    def _collector(self, total_steps: int) -> Collector:
        """The run's, which keeps every group."""
        collector = self._parts.collector(total_steps, lambda columns: None)
        sampling = self._parts.sampling._replace(
            keep=None, retire_pass_rate=None, max_generation_batches=None
        )
        return dataclasses.replace(collector, sampler=self.sampler, sampling=sampling)

    def _sampled(self) -> list[Sample]:
        """The generation, with the host's part in it; its programs, where it has several."""
        seconds, (prefill, decode), wasted = self.sampler.take()
        samples = [Sample("generate", seconds, (prefill, decode), wasted)]
        self.programs["generate"].take()
        for name, stage in (("prefill", prefill), ("decode", decode)):
            if calls := self.programs[name].take():
                samples.append(Sample(name, sum(calls), (stage,)))
        return samples

    def _scored(self, batch: Any, content: Content, samples: list[Sample]) -> Any:
        """The batch with what the algorithm needs."""
        if not self._parts.algorithm.needs:
            return batch
        trees = (self._updater.state.params, self._parts.loaded.frozen)
        if not self._score_passes:
            self._score_passes = score_passes(
                self._section,
                self._parts.loaded.model,
                *trees,
                batch,
                scores=lambda algorithm: algorithm.needs,
            )
        scored = self._score(*trees, batch)
        (seconds,) = self.programs["score"].take()
        stage = score_stage(self._score_passes, content, {**trees[0], **trees[1]})
        samples.append(Sample("score", seconds, (stage,), padding(batch)))
        return scored

    def _updated(self, batch: Any, content: Content) -> Sample:
        state = self._updater.state
        if not self._update_passes:
            self._update_passes = loss_passes(
                self._section,
                self._parts.loaded.model,
                state.params,
                self._updater.frozen,
                batch,
                state.aux,
            )
        sampling = self._parts.sampling
        return self._updater.sample(
            batch,
            self._update_passes,
            content,
            epochs=sampling.num_epochs,
            updates=sampling.num_updates,
        )
