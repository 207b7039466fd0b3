"""Held-out prompts answered by a model folder, or by the checkpoints of a run."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator

from rlhf_jax.algorithms import DAPOConfig, GRPOConfig
from rlhf_jax.config import Config, ModelSection
from rlhf_jax.io import Checkpointer
from rlhf_jax.loops.export import find_run, load_checkpoint
from rlhf_jax.loops.held_out_prompts import evaluate_prompts
from rlhf_jax.loops.online_setup import OnlineSetup, make_online_setup


@contextlib.contextmanager
def measuring(config: Config) -> Iterator[OnlineSetup]:
    """What an online run needs to measure itself, and no more: no critic, no reference model, no
    optimizer state.

    Args:
      config: an online run; its `model.path` is the model at hand, and nothing is written to its
        `run_dir`.

    Raises:
      ValueError: no held-out prompts, or anything that cannot be loaded.
    """
    if not config.data.has_eval:
        raise ValueError(
            "there are no held-out prompts: give data.eval_path, eval_split, eval_fraction or "
            "eval_size"
        )
    algorithm = config.algorithm
    # which keeps no further model, and says which reward is accuracy
    if not isinstance(algorithm, DAPOConfig):
        algorithm = GRPOConfig(
            group_size=max(2, algorithm.group_size), temperature=algorithm.temperature
        )
    model = dataclasses.replace(config.model, reference=None, critic=None)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, algorithm=algorithm, model=model, run_dir=folder)
        setup = make_online_setup(config)
        with setup.grader:
            yield setup


def evaluate_folder(config: Config, folder: str | pathlib.Path | None = None) -> dict[str, float]:
    """Metrics of a model's completions of the held-out prompts (`evaluate_prompts`).

    Args:
      config: an online run.
      folder: Hugging Face folder or hub id of the model; None: the model that the configuration
        starts from.

    Returns:
      Metric name -> value.
    """
    if folder is not None:
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, path=str(folder), config=None)
        )
    with measuring(config) as setup:
        return evaluate_prompts(setup, setup.params, seed=config.seed).metrics


def evaluate_checkpoints(
    config: Config, checkpoint: str | pathlib.Path, steps: list[int | None]
) -> list[dict[str, float]]:
    """The same for the policies in checkpoints of a run, of any algorithm with a language model.

    Args:
      config: an online run.
      checkpoint: a run folder, or one checkpoint in it.
      steps: which checkpoints of a run folder; None: the newest.

    Returns:
      Metrics of each.
    """
    found = [find_run(str(checkpoint), step) for step in steps]
    run_dir = found[0][0]
    with Checkpointer(run_dir / "checkpoints") as checkpointer:
        architecture = checkpointer.read_meta(found[0][1])["model"]
    section: ModelSection = dataclasses.replace(config.model, path=None, config=architecture)
    tokenizer = str(run_dir / "tokenizer")
    metrics = []
    with measuring(dataclasses.replace(config, model=section, tokenizer=tokenizer)) as setup:
        for _, step in found:
            _, params = load_checkpoint(
                run_dir, step, mesh=setup.mesh, replicate=config.mesh.replicate
            )
            # without a shared value head
            policy = {name: leaves for name, leaves in params.items() if name in setup.params}
            metrics.append(evaluate_prompts(setup, policy, seed=config.seed).metrics)
    return metrics
