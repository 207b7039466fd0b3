"""Writing a model as a folder that transformers and vLLM load."""

import dataclasses
import errno
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rlhf_jax.models.checkpoint import INDEX, SINGLE, VALUE_HEAD, tensor_shapes
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.names import WeightMap, weight_maps
from rlhf_jax.sharding import fetch
from rlhf_jax.sharding.processes import from_leader, is_leader
from rlhf_jax.types import Model, Params

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_DTYPES = ("float32", "bfloat16", "float16")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_pretrained(
    path: str | Path,
    model: Model,
    params: Params,
    *,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    extra_config: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json and safetensors files with transformers' names, shapes and layouts.

    A model with head "reward" becomes `...ForSequenceClassification` with one label. With head
    "value" the folder is the language model, and the head lies beside it in value_head.safetensors,
    which `load_pretrained` reads.

    Args:
      path: folder; made if needed. Weights of an earlier model in it are replaced.
      model: made by this package.
      params: its parameters.
      dtype: cast to "float32", "bfloat16" or "float16"; None keeps the dtype of the parameters.
      max_shard_size: bytes of one file ("5GB"); above it there are several files and an index.
      extra_config: more keys of config.json, such as `bos_token_id`, `eos_token_id` and
        `pad_token_id`.

    Raises:
      ValueError: an unknown dtype or size, or an `extra_config` that contradicts the architecture.
    """
    config: ModelConfig = model.config
    dtype = dtype or str(params["embed"]["embedding"].dtype)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} cannot be saved; allowed: {', '.join(_DTYPES)}")
    limit = _bytes(max_shard_size)
    contents = {**config.to_hf(), "dtype": dtype, "torch_dtype": dtype, **(extra_config or {})}
    _check_same(config, contents)
    folder = Path(path)
    from_leader("export folder", lambda: folder.mkdir(parents=True, exist_ok=True))
    parts = weight_maps(config, scalar_head=model.scores is not None)
    heads = [part for part in parts if part.path[0] == "score" and config.lm_head]
    written = _write_weights(
        folder, [part for part in parts if part not in heads], params, jnp.dtype(dtype), limit
    )
    if heads:
        written |= _write_file(
            folder / VALUE_HEAD, _held(_tensors(heads, params, jnp.dtype(dtype)))
        )
    from_leader("export", lambda: _conclude(folder, written, contents))


def _conclude(folder: Path, written: set[str], contents: Mapping[str, Any]) -> None:
    """Removes the weights of an earlier model, and writes config.json."""
    for stale in folder.glob("*.safetensors*"):
        if stale.name not in written and re.fullmatch(
            r"(model(-\d+-of-\d+)?|value_head)\.safetensors(\.index\.json)?", stale.name
        ):
            stale.unlink()
    _write_json(folder / "config.json", contents)


def _write_weights(
    folder: Path, parts: list[WeightMap], params: Params, dtype: np.dtype, limit: int
) -> set[str]:
    shapes = tensor_shapes(parts, {part.path: _leaf(params, part).shape for part in parts})
    groups: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    tensors = _tensors(parts, params, dtype)
    if len(groups) == 1:
        return _write_file(folder / SINGLE, _held(tensors))
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        part_tensors = _held(itertools.islice(tensors, len(names)))
        total += sum(tensor.nbytes for tensor in part_tensors.values())
        weight_map |= dict.fromkeys(names, file)
        _write_file(folder / file, part_tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    from_leader("export index", lambda: _write_json(folder / INDEX, index))
    return {INDEX, *weight_map.values()}


def _held(tensors: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tensors of a file, by name. Every process takes part in fetching them, and only the one
    that writes keeps them."""
    return {name: tensor for name, tensor in tensors if is_leader()}


def _tensors(
    parts: list[WeightMap], params: Params, dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors one by one, in the order of `tensor_shapes`."""
    layers = max((_leaf(params, part).shape[0] for part in parts if part.stacked), default=0)
    for layer in (None, *range(layers)):
        joined: dict[str, list[WeightMap]] = {}
        for part in parts:
            if part.stacked == (layer is not None):
                joined.setdefault(part.tensor_name(layer), []).append(part)
        for name, group in joined.items():
            group.sort(key=lambda part: part.offset)
            arrays = [_to_disk(part, _leaf(params, part), layer) for part in group]
            yield name, np.ascontiguousarray(np.concatenate(arrays, axis=group[0].axis), dtype)


def _to_disk(part: WeightMap, leaf: jax.Array, layer: int | None) -> np.ndarray:
    value = fetch(leaf if layer is None else leaf[layer])
    return value.transpose(part.order()).reshape(part.extent(value.shape))


def _leaf(params: Params, part: WeightMap) -> jax.Array:
    node: Any = params
    for name in part.path:
        node = node[name]
    return node


def _check_same(config: ModelConfig, contents: Mapping[str, Any]) -> None:
    read = ModelConfig.from_hf(contents)
    names = [field.name for field in dataclasses.fields(config) if field.name not in _TOKENS]
    changed = [name for name in names if read.__dict__[name] != config.__dict__[name]]
    if changed:
        raise ValueError(
            f"extra_config changes {changed[0]} of the architecture; only add keys that leave it "
            "as it is"
        )


def _bytes(size: int | str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?B)?", str(size).strip().upper())
    if match is None or int(match[1]) < 1:
        raise ValueError(
            f"max_shard_size={size!r} must be a number of bytes, such as 5000000000 or '5GB'"
        )
    return int(match[1]) * _UNITS[match[2] or ""]


def _write_file(path: Path, tensors: dict[str, np.ndarray]) -> set[str]:
    from_leader("export file", lambda: _save_file(path, tensors))
    return {path.name}


def _save_file(path: Path, tensors: dict[str, np.ndarray]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata={"format": "pt"})
        os.replace(part, path)
    # of the operating system: a full disk, a read-only folder
    except (SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        raise _write_error(error, path) from error


def _write_error(error: Exception, path: Path) -> OSError:
    """An `OSError` with the path, whatever safetensors makes of it."""
    number = error.errno if isinstance(error, OSError) else None
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else number or errno.EIO
    return OSError(number, os.strerror(number), str(path))


def _write_json(path: Path, contents: Mapping[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:  # a full disk is noticed while writing, which does not know the name
        part.unlink(missing_ok=True)
        raise _write_error(error, path) from error
