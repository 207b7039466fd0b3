"""The embedded default run: a small model learns sums from imperfect examples by SFT, then the right answers by DPO."""

import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from rlhf_jax.algorithms.dpo import DPOConfig
from rlhf_jax.algorithms.sft import SFTConfig
from rlhf_jax.config import CheckpointConfig, Config, ModelSection, TrainingConfig
from rlhf_jax.data import DataConfig, Loader, load_tokenizer, make_loader
from rlhf_jax.io import read_metrics
from rlhf_jax.loops.train import train
from rlhf_jax.models import load_pretrained
from rlhf_jax.sharding import MeshConfig
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Model, PairBatch, Params

DATA = "synthetic:arithmetic?size=20000&min_operand=10&noise=0.5"
EVAL_SIZE = 1000
MODEL = {
    "model_type": "qwen2",
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 344,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


class QuickstartResult(NamedTuple):
    """What the quickstart measured on held-out sums, before and after DPO."""

    before: dict[str, float]
    after: dict[str, float]
    history: list[dict[str, float]]
    """Evaluations during DPO: step, rewards/margin, rewards/accuracy."""
    seconds: dict[str, float]
    """Wall time of each stage."""
    export_dir: pathlib.Path


def quickstart(run_dir: str, *, seed: int = 0, progress: bool | None = None) -> QuickstartResult:
    """SFT from random weights on sums of which every other one is wrong, then DPO on pairs of a right and a wrong answer.

    Everything goes through the same `train` as a real run: the second stage starts from the first one's exported folder.

    Args:
      run_dir: a new folder; the stages run in `sft/` and `dpo/` inside it.
      seed: of weights and data order.
      progress: show a live display; None: when standard error is a terminal.

    Returns:
      A `QuickstartResult`.
    """
    root, seconds = pathlib.Path(run_dir), {}
    clock = time.perf_counter()
    sft = train(sft_config(root / "sft", seed), progress=progress)
    seconds["sft"] = time.perf_counter() - clock
    dpo = train(dpo_config(root / "dpo", sft.run_dir / "export", seed), progress=progress)
    seconds["dpo"] = time.perf_counter() - clock - seconds["sft"]
    before, after = (held_out(path, seed) for path in (sft.run_dir / "export", dpo.run_dir / "export"))
    history = [row for row in read_metrics(dpo.run_dir / "metrics.jsonl") if row["split"] == "eval"]
    return QuickstartResult(before, after, history, seconds, dpo.run_dir / "export")


def sft_config(run_dir: pathlib.Path, seed: int) -> Config:
    """SFT from random weights on imperfect answers."""
    return Config(
        algorithm=SFTConfig(),
        run_dir=str(run_dir),
        seed=seed,
        tokenizer="byte",
        model=ModelSection(config=MODEL),
        data=DataConfig(path=DATA, eval_size=EVAL_SIZE, max_length=16),
        training=TrainingConfig(batch_size=64, max_steps=400, eval_every=100, save_every=0),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50, b2=0.98),
        mesh=MeshConfig(fsdp=1),
        checkpoint=CheckpointConfig(keep_last=1),
    )


def dpo_config(run_dir: pathlib.Path, start: pathlib.Path, seed: int) -> Config:
    """DPO from the SFT model on pairs of a right answer and a plausible mistake."""
    return Config(
        algorithm=DPOConfig(beta=0.5),
        run_dir=str(run_dir),
        seed=seed,
        model=ModelSection(path=str(start)),
        data=DataConfig(path=DATA, eval_size=EVAL_SIZE, max_length=16),
        training=TrainingConfig(batch_size=64, max_steps=100, eval_every=10, save_every=0),
        optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", warmup_steps=10),
        mesh=MeshConfig(fsdp=1),
        checkpoint=CheckpointConfig(keep_last=1),
    )


def held_out(folder: pathlib.Path, seed: int) -> dict[str, float]:
    """Held-out quality of an exported model.

    Args:
      folder: a Hugging Face folder.
      seed: of the loader; evaluation visits every example once, so no figure depends on it.

    Returns:
      `accuracy/sampled`: probability that an answer sampled at temperature 1 is right, in the mean over sums;
      `accuracy/greedy`: share of sums whose greedy answer is right; `accuracy/pairs`: share of pairs whose right answer is
      more probable than the mistake.
    """
    model, params = load_pretrained(folder)
    data = DataConfig(path=DATA, eval_size=EVAL_SIZE, max_length=16)
    loader = make_loader(data, load_tokenizer(folder), kind="pairs", split="eval", batch_size=100, seed=seed, cache_dir=None)
    return score_pairs(model, params, loader)


def score_pairs(model: Model, params: Params, loader: Loader) -> dict[str, float]:
    """The figures of `held_out` for a model in memory; builds whole logits, so it is for small vocabularies."""

    @jax.jit
    def score(params: Params, batch: PairBatch) -> tuple[Array, Array, Array]:
        chosen, mask = batch.tokens[:, 0], batch.completion_mask[:, 0]
        right = greedy_matches(model.logits(params, chosen, batch.mask[:, 0]), chosen, mask)
        logps = [
            jnp.where(batch.completion_mask[:, i], model.token_logps(params, batch.tokens[:, i], batch.mask[:, i])[0], 0).sum(-1)
            for i in (0, 1)
        ]
        return jnp.exp(logps[0]), right, logps[0] > logps[1]

    parts = [
        [np.asarray(x)[indices >= 0] for x in score(params, batch)] for indices, batch in loader.sequential(loader.batch_size)
    ]
    means = (float(np.concatenate(column).mean()) for column in zip(*parts, strict=True))
    return dict(zip(("accuracy/sampled", "accuracy/greedy", "accuracy/pairs"), means, strict=True))


def greedy_matches(logits: Array, tokens: Array, completion_mask: Array) -> Bool[Array, " B"]:
    """Whether greedy decoding from the prompt would give exactly this completion.

    Greedy decoding repeats a completion if and only if each of its tokens is the most probable one after those before it, so
    one forward pass over the completion decides it.

    Args:
      logits: [B, T, V]; row t predicts token t+1.
      tokens: [B, T].
      completion_mask: [B, T], EOS included.

    Returns:
      [B] bool.
    """
    agrees = jnp.argmax(logits[:, :-1], axis=-1) == tokens[:, 1:]
    return jnp.all(agrees | ~completion_mask[:, 1:], axis=-1)
