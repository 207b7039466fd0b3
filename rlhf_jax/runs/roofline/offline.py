"""The programs of SFT, reward models, DPO: the score of the reference, where there is one, and the
update."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from rlhf_jax.config import Config
from rlhf_jax.runs.cached import jitted_scores
from rlhf_jax.runs.offline import make_offline_parts
from rlhf_jax.runs.roofline.rounds import Sample, Updater, named, on_host, score_stage
from rlhf_jax.runs.roofline.watched import Watched
from rlhf_jax.runs.trees import load_reference
from rlhf_jax.runs.updating import fresh_state, make_update
from rlhf_jax.runs.useful.passes import Pass, loss_passes, score_passes
from rlhf_jax.runs.useful.work import content_of, padding, places
from rlhf_jax.sharding import place_batch
from rlhf_jax.types import Params


class OfflineRounds:
    """See `Rounds`. The reference is scored batch by batch, as before the first step of a run."""

    def __init__(self, config: Config, run_dir: pathlib.Path, wanted: Sequence[str]) -> None:
        """Builds what `rlhf-jax train` would build.

        Args:
          config: a whole run.
          run_dir: what a run writes goes here.
          wanted: programs to measure; none: all.

        Raises:
          ValueError: anything in the configuration that cannot be done, in one line.
        """
        parts = make_offline_parts(config, run_dir, None)
        names = ("score", "update") if parts.algorithm.cached else ("update",)
        self._wanted = named(wanted, names)
        self._config = config
        self._parts = parts
        self.mesh = parts.mesh
        self.model = parts.loaded.model.config
        begun = fresh_state(config, parts.loaded, parts.algorithm, parts.tx, parts.mesh).state()
        update = make_update(
            config, parts.algorithm, parts.tx, parts.mesh, total_updates=parts.total_steps
        )
        self._updater = Updater(update, begun, parts.loaded.frozen, parts.mesh)
        self._score = Watched(jitted_scores(parts.algorithm.cached))
        self._own_reference: Params | None = None
        if parts.algorithm.cached and config.model.reference is not None:
            self._own_reference = load_reference(config, parts.mesh, parts.loaded.model)[1]
        size = config.training.eval_batch_size or config.training.batch_size
        self._examples = itertools.chain.from_iterable(
            parts.loader.sequential(size) for _ in itertools.count()
        )
        self.places = places(parts.loader.batch(0), config.training.microbatches)
        self.programs = {"score": self._score, "update": self._updater.program}
        self._score_passes: tuple[Pass, ...] = ()
        self._update_passes: tuple[Pass, ...] = ()

    def round(self, number: int) -> list[Sample]:
        """See `Rounds`."""
        samples = []
        if "score" in self._wanted:
            samples.append(self._scored(next(self._examples)[1]))
        if "update" in self._wanted:
            samples.append(self._updated(self._parts.loader.batch(number)))
        return samples

    @property
    def _reference(self) -> dict[str, Params]:
        # A run scores the start itself and lets go of it; here the policy, of the same shapes,
        # stands in for it, so that memory holds what it holds in a run.
        if self._own_reference is not None:
            return {"ref": self._own_reference}
        return {"ref": self._updater.state.params["policy"]}

    def _scored(self, batch: Any) -> Sample:
        if not self._score_passes:
            self._score_passes = score_passes(
                self._config.algorithm,
                self._parts.loaded.model,
                {},
                self._reference,
                batch,
                scores=lambda algorithm: algorithm.cached,
            )
        trees = self._reference
        self._score({}, trees, place_batch(batch, self.mesh))
        (seconds,) = self._score.take()
        stage = score_stage(self._score_passes, content_of(batch), trees)
        return Sample("score", seconds, (stage,), padding(batch))

    def _updated(self, batch: Any) -> Sample:
        if self._parts.algorithm.cached:
            placed = place_batch(batch, self.mesh)
            fields = self._score.function({}, self._reference, placed)
            batch = batch._replace(**on_host(fields))
        state = self._updater.state
        if not self._update_passes:
            self._update_passes = loss_passes(
                self._config.algorithm,
                self._parts.loaded.model,
                state.params,
                self._updater.frozen,
                batch,
                state.aux,
            )
        placed = jax.block_until_ready(place_batch(batch, self.mesh))
        return self._updater.sample(
            placed, self._update_passes, content_of(batch), epochs=1, updates=1
        )
