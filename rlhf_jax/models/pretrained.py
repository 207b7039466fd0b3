"""Loading and saving Hugging Face folders: config.json and safetensors."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from rlhf_jax.cloud import fetched
from rlhf_jax.models.adapter import abstract_params, make_model
from rlhf_jax.models.checkpoint import (
    Checkpoint,
    ModelLoadError,
    read_json,
    read_parameter,
    resolve_names,
    verify,
)
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.names import weight_maps
from rlhf_jax.models.reader import ModelConfigError
from rlhf_jax.sharding import infer_shardings
from rlhf_jax.types import Key, Model, Params

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "value_head.safetensors",
)


def load_pretrained(
    path: str | Path,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    replicate: Sequence[str] = (),
    compute_dtype: str | None = None,
    remat: str = "auto",
    layers: str = "auto",
    attention: str = "auto",
    head: str | None = None,
    context: int | None = None,
    key: Key | None = None,
) -> tuple[Model, Params]:
    """Loads a decoder from a folder in Hugging Face format.

    Every array is created in its shards: a device reads its own slices from the files, and the host
    holds one parameter at a time.

    Args:
      path: a local folder, or a hub id that is downloaded when the network allows.
      dtype: of the parameters, whatever the files hold.
      mesh: device mesh; None for one device.
      replicate: names of parameters to keep whole on every device, see
        `rlhf_jax.sharding.infer_shardings`.
      compute_dtype, remat, layers, attention, context: as for `make_model`.
      head: None; "reward": a scalar model, from a `...ForSequenceClassification` folder or from a
        language model, whose head is then fresh and whose unembedding is left out; "value": a
        scalar head beside the language-model head.
      key: a fresh scalar head is drawn with deviation ``1 / sqrt(hidden_size + 1)``; without a key
        it is 0.

    Returns:
      (model, params).

    Raises:
      ModelLoadError: the folder cannot be loaded; the message names the file or tensor.
      ModelConfigError: config.json asks for something that is not supported; the message names it.
    """
    folder = local_folder(path)
    config = read_config(folder)
    if head is None and not config.lm_head:
        raise ModelLoadError(
            f"{folder} is a scalar model (...ForSequenceClassification); pass head='reward'"
        )
    model = make_model(
        config,
        mesh=mesh,
        compute_dtype=compute_dtype,
        remat=remat,
        layers=layers,
        attention=attention,
        head=head,
        context=context,
    )
    checkpoint = Checkpoint(folder)
    fresh = config.lm_head and head is not None and "score.weight" not in checkpoint.names
    parts = resolve_names(
        checkpoint, weight_maps(model.config, scalar_head=head is not None and not fresh)
    )
    structs = abstract_params(config, head, dtype)
    flat = {
        tuple(entry.key for entry in path): struct
        for path, struct in jax.tree_util.tree_leaves_with_path(structs)
    }
    verify(
        checkpoint,
        model.config,
        parts,
        {path: struct.shape for path, struct in flat.items()},
        head=head,
    )
    shardings = None if mesh is None else infer_shardings(structs, mesh, replicate=replicate)
    by_path = {part.path: part for part in parts}

    def load(path: tuple[Any, ...], struct: jax.ShapeDtypeStruct, sharding: Any) -> Array:
        part = by_path.get(tuple(entry.key for entry in path))

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            index = index or (slice(None),) * len(struct.shape)
            if part is None:
                return _fresh_head(struct, key)[index]
            return read_parameter(checkpoint, part, struct.shape, index, struct.dtype)

        if sharding is None:
            return jnp.asarray(shard(None))
        return jax.make_array_from_callback(struct.shape, sharding, shard)

    placed = shardings if shardings is not None else jax.tree.map(lambda _: None, structs)
    return model, jax.tree_util.tree_map_with_path(
        load, structs, placed, is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct)
    )


def read_config(folder: str | Path) -> ModelConfig:
    """The architecture of a local folder.

    Raises:
      ModelLoadError: config.json is missing or is not JSON.
      ModelConfigError: it asks for something that is not supported.
    """
    path = Path(folder) / "config.json"
    try:
        return ModelConfig.from_hf(read_json(path))
    except ModelConfigError as error:
        raise ModelConfigError(f"{path}: {error}") from None


def local_folder(path: str | Path) -> Path:
    """A folder on this machine: `path` itself, or the download of the bucket or hub id that it is.

    Raises:
      ModelLoadError: neither.
    """
    folder = fetched(path, "model.path")
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelLoadError(f"{path} is a file; pass the folder that holds config.json")
    if not _HUB_ID.fullmatch(str(path)):
        raise ModelLoadError(f"{path} is not a folder on this machine (and not a hub id)")
    return _download(str(path))


def _download(name: str) -> Path:
    import huggingface_hub  # heavy: loaded when something is downloaded

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES)))
    # the hub client raises many kinds: offline, no such repository, gated, network
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(
            f"{name} is not a folder on this machine and cannot be downloaded: {reason}"
        ) from None


def _fresh_head(struct: jax.ShapeDtypeStruct, key: Key | None) -> np.ndarray:
    if key is None:
        return np.zeros(struct.shape, struct.dtype)
    drawn = jax.random.normal(key, struct.shape) / (struct.shape[0] + 1) ** 0.5
    return np.asarray(drawn.astype(struct.dtype))
