"""Reading a Hugging Face folder's weights lazily: every device reads the slices it holds.

`Checkpoint` knows which file holds which tensor. `resolve_names` matches the folder's names with
what a model needs, `verify` compares shapes before anything is read, and `read_parameter` assembles
the slice of a parameter that one device asks for.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from rlhf_jax.errors import RlhfError
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.names import WeightMap

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
VALUE_HEAD = "value_head.safetensors"

_FLOATS = ("F16", "BF16", "F32", "F64")
_PREFIXES = {
    "model.": ("model.", "", "language_model.model.", "model.language_model."),
    "transformer.": ("transformer.", ""),
}
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|(^|\.)h\.\d+\.attn\.(bias|masked_bias))$")
"""Constants that old files hold and the model computes."""
_VISION = re.compile(r"(^|^model\.)(vision_tower|multi_modal_projector)\.")

_log = logging.getLogger(__name__)


class ModelLoadError(RlhfError, ValueError):
    """A folder that cannot be loaded; one line with the file or tensor and what is wrong."""

    exit_code = 4


class Checkpoint:
    """The tensors of the safetensors files of one folder.

    Args:
      folder: holds `model.safetensors`, or `model.safetensors.index.json` and the files that it
        names.

    Raises:
      ModelLoadError: no such file, or one that is truncated, corrupt or not what the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: dict[str, Any] = {}
        if (folder / SINGLE).is_file():
            self._open(folder / SINGLE)
        elif (folder / INDEX).is_file():
            self._open_index(read_json(folder / INDEX))
        else:
            others = sorted(path.name for path in folder.glob("*.bin"))
            found = (
                f" (found {others[0]}; convert it with save_pretrained of transformers)"
                if others
                else ""
            )
            raise ModelLoadError(f"{folder} holds neither {SINGLE} nor {INDEX}{found}")
        if (folder / VALUE_HEAD).is_file():
            self._open(folder / VALUE_HEAD)

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._handles)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._handles[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Dtype of a tensor as safetensors spells it ("BF16")."""
        return self._handles[name].get_slice(name).get_dtype()

    def read(self, name: str, index: Sequence[slice]) -> np.ndarray:
        """A slice of a tensor; nothing else is read from disk."""
        return self._handles[name].get_slice(name)[tuple(index)]

    def _open(self, path: Path) -> None:
        try:
            handle = safe_open(path, framework="numpy")
            names = list(handle.keys())
        except (SafetensorError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ModelLoadError(
                f"{path} is truncated or not a safetensors file ({reason}); download it again"
            ) from None
        self._handles |= dict.fromkeys(names, handle)

    def _open_index(self, index: Mapping[str, Any]) -> None:
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, Mapping):
            raise ModelLoadError(f"{self.folder / INDEX} has no weight_map")
        for name, file in weight_map.items():
            _check_shard_name(file, f"{self.folder / INDEX}: tensor {name!r}")
        for file in sorted(set(weight_map.values())):
            if not (self.folder / file).is_file():
                raise ModelLoadError(f"{self.folder / file} does not exist, but {INDEX} names it")
            self._open(self.folder / file)
        for name, file in weight_map.items():
            if name not in self._handles:
                raise ModelLoadError(
                    f"{self.folder / file} does not hold tensor {name!r}, but {INDEX} says so"
                )


def _check_shard_name(file: Any, where: str) -> None:
    """A folder's index may only name files of that folder: it may come from a stranger."""
    inside = isinstance(file, str) and re.fullmatch(r"[^/\\\0]+\.safetensors", file)
    if not inside:
        raise ModelLoadError(
            f"{where} is said to lie in {file!r}, which is no .safetensors file of this folder"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      ModelLoadError: the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(
            f"{path} does not exist; a model folder holds config.json and {SINGLE}"
        ) from None
    except (ValueError, OSError) as error:  # no JSON, not UTF-8, a number of thousands of digits
        raise ModelLoadError(f"{path} cannot be read as JSON: {error}") from None
    except RecursionError:
        raise ModelLoadError(f"{path} cannot be read as JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def resolve_names(checkpoint: Checkpoint, parts: Sequence[WeightMap]) -> list[WeightMap]:
    """Gives every part this folder's prefix ("model." may be missing, or name a multimodal part).

    Args:
      checkpoint: the open files.
      parts: with transformers' usual names.
    """
    names = checkpoint.names
    embedding = next(part.name for part in parts if part.path == ("embed", "embedding"))
    usual = next(prefix for prefix in _PREFIXES if embedding.startswith(prefix))
    found = [
        prefix for prefix in _PREFIXES[usual] if prefix + embedding.removeprefix(usual) in names
    ]
    actual = found[0] if found else usual

    def renamed(part: WeightMap) -> WeightMap:
        name = actual + part.name.removeprefix(usual) if part.name.startswith(usual) else part.name
        if (
            name == "lm_head.weight"
            and name not in names
            and "language_model.lm_head.weight" in names
        ):
            name = "language_model.lm_head.weight"
        return WeightMap(part.path, name, part.dims, part.axis, part.offset)

    return [renamed(part) for part in parts]


def verify(
    checkpoint: Checkpoint,
    config: ModelConfig,
    parts: Sequence[WeightMap],
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
    *,
    head: str | None,
) -> None:
    """Checks that the folder holds exactly the tensors of the model.

    Args:
      checkpoint: the open files.
      config: the architecture.
      parts: with the folder's names.
      shapes: of every parameter, with the layer axis.
      head: the scalar head asked for.

    Raises:
      ModelLoadError: a tensor is missing, unexpected, of the wrong shape or not of a float dtype;
        the message names it.
    """
    expected = tensor_shapes(parts, shapes)
    names = checkpoint.names
    missing = [name for name in expected if name not in names]
    if missing:
        raise ModelLoadError(
            f"{checkpoint.folder}: tensor {missing[0]!r} is missing{_more(missing)}"
        )
    for name, shape in expected.items():
        if checkpoint.shape(name) != shape:
            raise ModelLoadError(
                f"{checkpoint.folder}: tensor {name!r} has shape {checkpoint.shape(name)}, but "
                f"config.json asks for {shape}"
            )
        if checkpoint.dtype(name) not in _FLOATS:
            raise ModelLoadError(
                f"{checkpoint.folder}: tensor {name!r} has dtype {checkpoint.dtype(name)}; "
                f"quantised weights are not supported, only {', '.join(_FLOATS)}"
            )
    unexpected = sorted(name for name in names - set(expected) if not _BUFFERS.search(name))
    if "score.weight" in unexpected and head is None:
        raise ModelLoadError(
            f"{checkpoint.folder} holds a scalar head (score.weight); pass head='reward' or "
            "head='value'"
        )
    unexpected = _without_known(checkpoint, config, parts, unexpected, head)
    if unexpected:
        raise ModelLoadError(
            f"{checkpoint.folder}: tensor {unexpected[0]!r} is unexpected for model_type "
            f"{config.family!r}{_more(unexpected)}"
        )


def tensor_shapes(
    parts: Sequence[WeightMap], shapes: Mapping[tuple[str, ...], tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor on disk, parts that are joined there put together.

    Args:
      parts: the model's parts.
      shapes: of every parameter, with the layer axis.
    """
    result: dict[str, tuple[int, ...]] = {}
    for layer in (
        None,
        *range(max((shapes[part.path][0] for part in parts if part.stacked), default=0)),
    ):
        for part in parts:
            if part.stacked != (layer is not None):
                continue
            shape = shapes[part.path][1:] if part.stacked else shapes[part.path]
            extent = list(part.extent(shape))
            extent[part.axis] += part.offset
            known = result.get(part.tensor_name(layer), tuple(extent))
            result[part.tensor_name(layer)] = tuple(
                max(a, b) for a, b in zip(known, extent, strict=True)
            )
    return result


def read_parameter(
    checkpoint: Checkpoint,
    part: WeightMap,
    shape: tuple[int, ...],
    index: tuple[slice, ...],
    dtype: Any,
) -> np.ndarray:
    """One shard of one parameter.

    Args:
      checkpoint: the open files.
      part: says where the parameter lies.
      shape: of the whole parameter, with the layer axis.
      index: the shard.
      dtype: of the result.

    Returns:
      Array of the shard's shape.
    """
    bounds = [range(size)[part_index] for size, part_index in zip(shape, index, strict=True)]
    if not part.stacked:
        return np.ascontiguousarray(_read_one(checkpoint, part, None, shape, bounds), dtype)
    out = np.empty([len(bound) for bound in bounds], dtype)
    for row, layer in enumerate(bounds[0]):
        out[row] = _read_one(checkpoint, part, layer, shape[1:], bounds[1:])
    return out


def _read_one(
    checkpoint: Checkpoint,
    part: WeightMap,
    layer: int | None,
    shape: Sequence[int],
    bounds: Sequence[range],
) -> np.ndarray:
    index = []
    read_shape = []
    inner = []
    for dim, axes in enumerate(part.dims):
        if not axes:
            index.append(slice(0, 1))
            continue
        major = axes[0]
        minor = axes[1:]
        stride = int(np.prod([shape[axis] for axis in minor], dtype=np.int64))
        shift = part.offset if dim == part.axis else 0
        index.append(
            slice(bounds[major].start * stride + shift, bounds[major].stop * stride + shift)
        )
        read_shape += [len(bounds[major]), *(shape[axis] for axis in minor)]
        inner += [slice(None), *(slice(bounds[axis].start, bounds[axis].stop) for axis in minor)]
    raw = checkpoint.read(part.tensor_name(layer), index).reshape(read_shape)[tuple(inner)]
    order = part.order()
    return raw.transpose([order.index(axis) for axis in range(len(order))])


def _without_known(
    checkpoint: Checkpoint,
    config: ModelConfig,
    parts: Sequence[WeightMap],
    names: list[str],
    head: str | None,
) -> list[str]:
    """Drops tensors that are understood: a tied copy, a head not asked for, the vision tower."""
    vision = (
        [name for name in names if _VISION.search(name)] if config.family == "gemma3_text" else []
    )
    if vision:
        _log.info(
            "%s: %d tensors of the vision tower are not loaded", checkpoint.folder, len(vision)
        )
    names = [name for name in names if name not in vision]
    for name in [
        name for name in names if name in ("lm_head.weight", "language_model.lm_head.weight")
    ]:
        if config.tie_embeddings:
            _check_tied(
                checkpoint,
                name,
                next(part.name for part in parts if part.path == ("embed", "embedding")),
            )
        elif head == "reward":
            _log.info(
                "%s: %s is not loaded: a reward model has no language-model head",
                checkpoint.folder,
                name,
            )
        else:
            continue
        names = [other for other in names if other != name]
    return names


def _check_tied(checkpoint: Checkpoint, name: str, embedding: str) -> None:
    rows = checkpoint.shape(embedding)[0]
    same = checkpoint.shape(name) == checkpoint.shape(embedding)
    for start in range(0, rows if same else 0, 8192):
        index = (slice(start, min(start + 8192, rows)), slice(None))
        same = same and np.array_equal(
            checkpoint.read(name, index), checkpoint.read(embedding, index)
        )
    if not same:
        raise ModelLoadError(
            f"{checkpoint.folder}: tie_word_embeddings is true, but {name!r} differs from "
            f"{embedding!r}; set tie_word_embeddings to false in config.json to load both"
        )


def _more(names: Sequence[str]) -> str:
    return "" if len(names) == 1 else f" (and {len(names) - 1} more)"
