"""`load`: a model with its tokenizer, from a Hugging Face folder, the hub, or a run."""

import logging
import os
import pathlib
from typing import NamedTuple

from rlhf_jax.data import FastTokenizer, load_tokenizer
from rlhf_jax.fields import documented
from rlhf_jax.io import CheckpointError
from rlhf_jax.models import load_pretrained, local_folder, read_config
from rlhf_jax.runs.export import find_run, load_checkpoint
from rlhf_jax.types import Model, Params

_log = logging.getLogger(__name__)


@documented
class LoadedModel(NamedTuple):
    """A model ready for use: ``model, params, tokenizer = rlhf_jax.load(...)``."""

    model: Model
    """Pure functions of the parameters."""
    params: Params
    """Nested dict of arrays, whole on one device."""
    tokenizer: FastTokenizer
    """Its tokenizer, with everything that ends an answer."""


class Place(NamedTuple):
    """Where a model lies."""

    folder: pathlib.Path | None
    """In Hugging Face's format; None: in a checkpoint."""
    run_dir: pathlib.Path | None = None
    step: int | None = None
    """Of the checkpoint; None: the newest."""

    def tokenizer(self) -> FastTokenizer:
        """Its tokenizer alone."""
        if self.folder is not None:
            return load_tokenizer(self.folder)
        assert self.run_dir is not None
        return load_tokenizer(self.run_dir / "tokenizer")

    def model(
        self,
        *,
        dtype: str = "float32",
        compute_dtype: str | None = None,
        context: int | None = None,
    ) -> tuple[Model, Params]:
        """Functions and parameters. Arguments as for `load`."""
        if self.folder is None:
            assert self.run_dir is not None
            return load_checkpoint(
                self.run_dir,
                self.step,
                mesh=None,
                compute_dtype=compute_dtype,
                context=context,
            )
        return load_pretrained(
            self.folder,
            dtype=dtype,
            compute_dtype=compute_dtype,
            context=context,
            head=None if read_config(self.folder).lm_head else "reward",
        )


def find_model(source: str | os.PathLike[str], step: int | None = None) -> Place:
    """Where the model of a folder, a run or a hub id lies.

    Args:
      source: see `load`.
      step: see `load`.

    Raises:
      CheckpointError: a step of what is no run, or there is no such checkpoint.
      ModelLoadError: neither a folder with a model nor a hub id.
    """
    path = pathlib.Path(source)
    is_checkpoint = path.name == "checkpoints" or path.parent.name == "checkpoints"
    is_run = (path / "config.yaml").is_file() and not (path / "config.json").is_file()
    if not (is_run or (is_checkpoint and path.is_dir())):
        if step is not None:
            raise CheckpointError(f"step={step} chooses a checkpoint of a run, {source} is no run")
        return Place(local_folder(os.fspath(source)))
    if is_run and step is None:
        if (path / "export" / "config.json").is_file():
            return Place(path / "export")
        if not (path / "checkpoints").is_dir():
            raise CheckpointError(f"{source} is a run without an export and without a checkpoint")
        _log.info("%s has no export yet: its newest checkpoint is taken", path)
    run_dir, step = find_run(str(path), step)
    return Place(None, run_dir, step)


def load(
    source: str | os.PathLike[str],
    step: int | None = None,
    *,
    dtype: str = "float32",
    compute_dtype: str | None = None,
    context: int | None = None,
) -> LoadedModel:
    """Loads a model and its tokenizer.

    Args:
      source: a folder in Hugging Face format; a hub id (downloaded, where the network allows); a
        run folder, whose `export/` is taken, the model at its end, and without one the newest
        checkpoint; or one checkpoint of it (``runs/grpo/checkpoints/40``).
      step: the checkpoint of this step, of a run folder.
      dtype: of the parameters, whatever the files hold; those of a checkpoint stay as the run had
        them.
      compute_dtype: of weights and activations in matrix products; None: that of the parameters.
      context: longest row in tokens that rotary scalings are set for; None: the model's own limit.

    Returns:
      (model, params, tokenizer). A scalar model (a reward model) has `model.scores`.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
      ModelLoadError: the folder cannot be loaded; the message names the file or tensor.
      ModelConfigError: config.json asks for something that is not supported.
      DataError: the tokenizer cannot be read.
    """
    place = find_model(source, step)
    tokenizer = place.tokenizer()
    model, params = place.model(dtype=dtype, compute_dtype=compute_dtype, context=context)
    return LoadedModel(model, params, tokenizer)
