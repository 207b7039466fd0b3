"""From parameters or a checkpoint to a Hugging Face folder."""

import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.config import CheckpointConfig, Config
from rlhf_jax.config.build import build
from rlhf_jax.config.document import read_document
from rlhf_jax.data import Tokenizer, load_tokenizer
from rlhf_jax.io import Checkpointer, CheckpointError
from rlhf_jax.io.disk import naming
from rlhf_jax.loops.resume import check_format
from rlhf_jax.models import ModelConfig, abstract_params, make_model, save_pretrained
from rlhf_jax.sharding import infer_shardings, make_mesh
from rlhf_jax.sharding.processes import from_leader
from rlhf_jax.types import Model, Params

_log = logging.getLogger(__name__)


def export_model(
    folder: pathlib.Path,
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: str | None = None,
) -> pathlib.Path:
    """Writes weights, config.json, the tokenizer and generation_config.json as a folder that
    transformers and vLLM load.

    generation_config.json holds every stop of the run and the sampling defaults of the model that
    it started from. A sequence classifier gets no pad id that also ends texts: transformers scores
    the last token that is not the pad id, and would score the one before EOS. Without a pad id it
    scores the last token of a row, as here, and refuses padded batches aloud.
    """
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    if not model.config.lm_head and tokenizer.pad_id in tokenizer.stop_ids:
        ids["pad_token_id"] = None
    save_pretrained(folder, model, params, dtype=dtype, extra_config=ids)

    def save() -> None:
        with naming(folder):
            tokenizer.save(folder)

    from_leader("export tokenizer", save)
    return folder


def export(
    checkpoint: str,
    folder: str,
    *,
    step: int | None = None,
    best: bool = False,
    dtype: str | None = None,
) -> pathlib.Path:
    """Writes a checkpoint of a run as a Hugging Face folder. Needs the run folder only, not the
    model it started from.

    Args:
      checkpoint: a run folder, its `checkpoints` folder, or one checkpoint in it.
      folder: where to write; must not hold anything yet.
      step: which checkpoint of a run folder; None: the newest.
      best: the one whose `checkpoint.best_metric` is best.
      dtype: of the weights, "float32", "bfloat16" or "float16"; None: as they were trained.

    Returns:
      The folder.

    Raises:
      CheckpointError: there is no such checkpoint.
      ValueError: the target is not empty, or step and best are both given.
    """
    if cloud.is_address(folder):
        raise ValueError(f"{folder} is in a bucket: export into a folder, and copy that")
    target = pathlib.Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f"{target} exists and is not an empty folder: choose another one to export into"
        )
    run_dir, step = find_run(checkpoint, step)
    if best:
        if step is not None:
            raise ValueError(f"give step={step} or best, not both")
        step = best_step(run_dir)
    mesh = make_mesh({}, devices=jax.local_devices()[:1])
    model, params = load_checkpoint(run_dir, step, mesh=mesh)
    tokenizer = load_tokenizer(run_dir / "tokenizer")
    return export_model(target, model, params, tokenizer, dtype=dtype)


def exporter(
    config: Config, run_dir: pathlib.Path, model: Model, tokenizer: Tokenizer
) -> Callable[[int, Params], None]:
    """(step, policy) -> an export of `checkpoint.export_every`.

    A folder appears under its name only when it is complete: whoever watches for new ones may load
    it.

    Args:
      config: a whole run.
      run_dir: where its files are written; of a run in a bucket its working folder.
      model: functions of the policy.
      tokenizer: of the run.

    Raises:
      ValueError: the model is one of the caller's own, which has no such folder.
    """
    every = config.checkpoint.export_every
    if every is not None and not isinstance(model.config, ModelConfig):
        raise ValueError(
            f"checkpoint.export_every={every}: a model of one's own cannot be exported; set it to "
            "null (checkpoints hold its weights)"
        )
    folder = run_dir / "exports"

    def write(step: int, policy: Params) -> None:
        unfinished = folder / f".step_{step}"
        whole = folder / f"step_{step}"
        export_model(unfinished, model, policy, tokenizer, dtype=config.checkpoint.export_dtype)

        def appear() -> None:
            with naming(whole):
                # of a session that was killed after this step, and before the next checkpoint
                shutil.rmtree(whole, ignore_errors=True)
                unfinished.rename(whole)

        from_leader("export appears", appear)
        _log.info("step %d: exported to %s", step, whole)

    return write


def find_run(checkpoint: str, step: int | None) -> tuple[Place, int | None]:
    """The run folder that a path lies in, and the step when the path names one checkpoint."""
    path = cloud.place(checkpoint, "checkpoint")
    path = path if cloud.is_bucket(path) else path.absolute()
    if path.parent.name == "checkpoints" and path.name.isdigit():
        if step not in (None, int(path.name)):
            raise ValueError(
                f"{checkpoint} is the checkpoint of step {path.name}, but step={step} is asked for"
            )
        return path.parent.parent, int(path.name)
    run_dir = path.parent if path.name == "checkpoints" else path
    if not (run_dir / "checkpoints").is_dir():
        raise CheckpointError(
            f"{checkpoint} is neither a run folder nor a checkpoint: it holds no folder "
            "'checkpoints'"
        )
    return run_dir, step


def best_step(run_dir: Place) -> int:
    """The step that the run's own configuration calls best."""
    # This section alone: the algorithm may be defined in a file that is not to be run here.
    section = read_document(cloud.fetched(run_dir / "config.yaml")).tree.get("checkpoint", {})
    config: CheckpointConfig = build(CheckpointConfig, section)
    if config.best_metric is None:
        raise CheckpointError(
            f"{run_dir}: the run has no checkpoint.best_metric, so no checkpoint is best: leave "
            "--best out"
        )
    with Checkpointer(
        run_dir / "checkpoints", best_metric=config.best_metric, best_mode=config.mode
    ) as checkpointer:
        step = checkpointer.best_step()
    if step is None:
        raise CheckpointError(
            f"{run_dir}: no checkpoint is ranked by {config.best_metric}, so none is best: none "
            "was evaluated, or too little "
            "could be graded (log.txt says which); leave --best out, or give --step"
        )
    return step


def load_checkpoint(
    run_dir: Place,
    step: int | None,
    *,
    mesh: Mesh | None,
    replicate: tuple[str, ...] = (),
    **execution: Any,
) -> tuple[Model, Params]:
    """Model and parameters of a checkpoint, created in their shards.

    Args:
      run_dir: a run folder.
      step: None: the newest.
      mesh: where the parameters lie; None: whole on the first device, outside of a mesh.
      replicate: names to keep whole (`MeshConfig.replicate`).
      execution: compute_dtype, remat, layers, attention, context of `make_model`.

    Returns:
      (model, params) in float32 or whatever the run kept.
    """
    place = make_mesh({}, devices=jax.local_devices()[:1]) if mesh is None else mesh
    with Checkpointer(run_dir / "checkpoints") as checkpointer:
        meta = checkpointer.read_meta(step)
        check_format(meta, run_dir)
        abstract = {role: _shapes(run_dir, tree) for role, tree in meta["trees"].items()}
        shardings = infer_shardings(abstract, place, replicate=replicate, roles=abstract.keys())
        structs = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
        )
        params = checkpointer.restore_params(step, structs)["policy"]
    if mesh is None:
        params = jax.device_put(params, place.devices.flat[0])
    policy = meta["trees"]["policy"]
    config = ModelConfig.from_hf(policy["config"])
    return make_model(config, mesh=mesh, head=policy["head"], **execution), params


def architecture_of(run_dir: Place, step: int | None) -> dict[str, Any]:
    """The policy of a checkpoint as keys of a Hugging Face config.json."""
    with Checkpointer(run_dir / "checkpoints") as checkpointer:
        meta = checkpointer.read_meta(step)
    check_format(meta, run_dir)
    return dict(_known(run_dir, meta["trees"]["policy"]))


def _shapes(run_dir: Place, tree: Mapping[str, Any]) -> Params:
    config = ModelConfig.from_hf(_known(run_dir, tree))
    return abstract_params(config, tree["head"], tree["dtype"])


def _known(run_dir: Place, tree: Mapping[str, Any]) -> dict[str, Any]:
    if tree["config"] is None:
        raise CheckpointError(
            f"{run_dir} is a run of a model of one's own: only the program that has its functions "
            "can use its weights (Checkpointer.restore_params)"
        )
    return dict(tree["config"])
