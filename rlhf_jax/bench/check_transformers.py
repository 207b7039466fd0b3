"""Compares logits (or rewards) of a model folder here and in transformers, on ragged batches.

    python -m rlhf_jax.bench.check_transformers FOLDER [FOLDER ...]  # folders on disk
    # random models of every family, saved by this library
    python -m rlhf_jax.bench.check_transformers --families

Exit status 1 when a difference exceeds the tolerance. Needs the `bench` extra (torch).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.models import ModelConfig, init_model, load_pretrained, read_config, save_pretrained

_SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
_GPT2 = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "scale_attn_weights": False,
}
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LONG = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 5.0, 9.0]}
_GEMMA3_ROPE = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}

FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **_LLAMA3},
        "mlp_bias": True,
        "attention_bias": True,
    },
    "qwen2": {
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 2,
        "num_key_value_heads": 2,
    },
    "qwen3": {"head_dim": 16, "num_key_value_heads": 1},
    "mistral": {"sliding_window": 9, "num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {
        "sliding_window": 6,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 20,
    },
    "gemma3_text": {
        "sliding_window": 6,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "rope_parameters": _GEMMA3_ROPE,
    },
    "phi3": {
        "rope_scaling": {"type": "longrope", **_LONG},
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
    },
    "gpt2": {},
}
"""What each family's random model sets beside the common sizes."""


class Comparison(NamedTuple):
    """One folder on both sides.

    Attributes:
      what: "logits" or "rewards".
      max_abs: largest magnitude.
      difference: largest absolute difference.
      unexpected: tensors of the folder that transformers does not use.
    """

    what: str
    max_abs: float
    difference: float
    unexpected: tuple[str, ...]


def compare_folder(
    folder: str | Path, *, rows: int = 4, length: int = 33, seed: int = 0
) -> Comparison:
    """Loads a folder in float32 on both sides and compares on random ragged rows.

    Args:
      folder: a Hugging Face folder.
      rows: rows of the batch; the first is full, the others are shorter.
      length: tokens of the longest row.
      seed: of the tokens and lengths.

    Returns:
      What was compared, the largest magnitude, and the largest difference at present tokens.

    Raises:
      ValueError: the folder cannot be loaded here, or a tensor is missing or of another shape for
        transformers.
    """
    import torch  # only the bench extra has it
    import transformers

    config = read_config(folder)
    reward = not config.lm_head
    rng = np.random.default_rng(seed)
    length = min(length, config.max_position)
    lengths = np.concatenate([[length], rng.integers(1, length, rows - 1)])
    mask = np.arange(length)[None, :] < lengths[:, None]
    pad = config.pad_token_id or 0
    tokens = rng.integers(0, config.vocab_size, (rows, length))
    tokens = np.where(mask, np.where(tokens == pad, (pad + 1) % config.vocab_size, tokens), pad)

    head = "reward" if reward else None
    if not reward and (Path(folder) / "value_head.safetensors").is_file():
        head = "value"
    # transformers stretches by the longest row at hand, which here is the first
    model, params = load_pretrained(folder, head=head, context=length)
    apply = jax.jit(model.scores if reward and model.scores is not None else model.logits)
    ours = np.asarray(apply(params, jnp.asarray(tokens), jnp.asarray(mask)))
    auto = (
        transformers.AutoModelForSequenceClassification
        if reward
        else transformers.AutoModelForCausalLM
    )
    theirs_model, report = auto.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    unexpected = tuple(sorted(map(str, report.pop("unexpected_keys", ()))))
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise ValueError(f"{folder}: transformers reports {json.dumps(wrong)}")
    with torch.no_grad():
        theirs = theirs_model.eval()(
            torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64))
        ).logits.numpy()
    if reward:
        ours = ours[np.arange(rows), lengths - 1]
        theirs = theirs[:, 0]
    else:
        ours = ours[mask]
        theirs = theirs[mask]
    what = "rewards" if reward else "logits"
    return Comparison(
        what, float(np.abs(theirs).max()), float(np.abs(ours - theirs).max()), unexpected
    )


def save_families(root: Path, *, seed: int = 0) -> list[Path]:
    """Saves random models of every family: tied (sharded), untied, a reward model, one with values.

    Args:
      root: folders are made in it.
      seed: of the weights.
    """
    folders = []
    for name, own in FAMILY_CONFIGS.items():
        sizes = _GPT2 if name == "gpt2" else _SIZES
        for variant in ("tied", "untied", "reward", "value"):
            tied = {"tie_word_embeddings": variant == "tied"}
            config = ModelConfig.from_hf(
                {"model_type": name, **sizes, **own, **tied, "initializer_range": 0.2}
            )
            head = variant if variant in ("reward", "value") else None
            model, params = init_model(config, jax.random.key(seed), head=head)
            params = _perturbed(params, jax.random.key(seed + 1))
            folders.append(root / f"{name}-{variant}")
            ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
            save_pretrained(
                folders[-1],
                model,
                params,
                max_shard_size="40KB" if variant == "tied" else "5GB",
                extra_config=ids,
            )
    return folders


def _perturbed(params: Any, key: jax.Array) -> Any:
    """Noise on every parameter, so that norms, biases and the scalar head are no constants."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape, leaf.dtype)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def main(argv: Sequence[str] | None = None) -> int:
    """Compares a folder in both libraries and prints the largest difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", help="model folders")
    parser.add_argument(
        "--families",
        action="store_true",
        help="also save and compare random models of every family",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest absolute difference allowed (default 1e-4)",
    )
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=33)
    args = parser.parse_args(argv)
    if not args.folders and not args.families:
        parser.error("give at least one folder, or --families")
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        made = save_families(Path(scratch)) if args.families else []
        for folder in [*map(Path, args.folders), *made]:
            result = compare_folder(folder, rows=args.rows, length=args.length)
            worst = max(worst, result.difference)
            print(
                f"{folder.name:24s} {result.what:8s} max |x| {result.max_abs:8.3f}   max "
                f"difference {result.difference:.2e}"
            )
            if result.unexpected:
                print(f"{'':24s} not used by transformers: {', '.join(result.unexpected)}")
    print(
        f"{'worst':24s} {'':8s} {'':16s}   max difference {worst:.2e}  (allowed "
        f"{args.tolerance:.0e})"
    )
    return int(not worst <= args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
