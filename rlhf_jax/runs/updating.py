"""The state before a run's first step and the update that moves it, of any algorithm.

`run_offline`, `run_online` and the measurements (`roofline`) begin here, so that what is measured
is what trains.
"""

import jax
import optax
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.loops.resume import Fresh
from rlhf_jax.runs.trees import Loaded
from rlhf_jax.training import UpdateStep, make_rate, make_step
from rlhf_jax.types import Algorithm, Key


def state_key(config: Config) -> Key:
    """Random key of the train state."""
    return jax.random.fold_in(jax.random.key(config.seed), 2)


def fresh_state(
    config: Config,
    loaded: Loaded,
    algorithm: Algorithm,
    tx: optax.GradientTransformation,
    mesh: Mesh,
) -> Fresh:
    """What the state before the first step is made of.

    Args:
      config: a whole run.
      loaded: its trees; the trained ones are consumed when the state is made.
      algorithm: with its own state.
      tx: the optimizer.
      mesh: where the state lies.
    """
    return Fresh(
        loaded.trained,
        config.algorithm.models.trained,
        tx,
        state_key(config),
        mesh,
        dict(algorithm.aux),
        config.mesh.replicate,
    )


def make_update(
    config: Config,
    algorithm: Algorithm,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    total_updates: int,
) -> UpdateStep:
    """The step of training, not jitted: (state, frozen, batch, key) -> (state, metrics).

    Args:
      config: a whole run.
      algorithm: what to do.
      tx: the optimizer.
      mesh: of the run.
      total_updates: of the whole run; the learning rate that is reported follows from it.
    """
    trained = config.algorithm.models.trained
    return make_step(
        algorithm,
        tx,
        num_microbatches=config.training.microbatches,
        mesh=mesh,
        learning_rate=make_rate(config.optimizer, trained, total_steps=total_updates),
    )
