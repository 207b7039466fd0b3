"""One side of the DPO step comparison, in a process of its own; `dpo_step` starts and drives it.

    python start_side.py rlhf_jax.bench.dpo_sides \\
        SIDE FOLDER REFERENCE STEPS_PER_WINDOW WINDOWS THREADS

FOLDER holds `model` (a Hugging Face folder) and `tokens.npy` [N, 2, T], of which the first `prompt`
tokens of every row are not trained. A line on stdin lets one window of steps run; its losses and
seconds come back (`sides`).
"""

import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rlhf_jax.bench.sides import answer, wait
from rlhf_jax.bench.trl_sides import in_order, trainer_options

PAIRS = 8
PROMPT = 128
BETA = 0.1
LEARNING_RATE = 5e-4


def serve(step: Callable[[int], float], *, steps: int, windows: int) -> None:
    """Runs `step(i)` (which returns the loss) in windows, each when asked."""
    for window in range(windows):
        wait()
        start = time.perf_counter()
        losses = [step(window * steps + i) for i in range(steps)]
        answer({"losses": losses, "seconds": time.perf_counter() - start})


def batch_of(tokens: np.ndarray, step: int) -> np.ndarray:
    """[PAIRS, 2, T] of step `step`; starts over at the end."""
    return tokens[np.arange(step * PAIRS, (step + 1) * PAIRS) % len(tokens)]


def run_ours(
    folder: pathlib.Path,
    tokens: np.ndarray,
    reference: str,
    *,
    steps: int,
    windows: int,
    whole_head: bool,
) -> None:
    """This library: its model, algorithm and update step. Imports jax late: settings first."""
    from rlhf_jax.training.allocator import retain_freed_memory

    retain_freed_memory()
    import jax
    import jax.numpy as jnp

    from rlhf_jax.algorithms import ALGORITHMS, DPOConfig
    from rlhf_jax.models import load_pretrained
    from rlhf_jax.training import (
        OptimizerConfig,
        make_optimizers,
        make_score,
        make_step,
        make_train_state,
    )
    from rlhf_jax.types import PairBatch

    model, params = load_pretrained(folder / "model")
    config = DPOConfig(beta=BETA, reference=reference)
    algorithm = ALGORITHMS["dpo"](config, model)
    optimizer = OptimizerConfig(learning_rate=LEARNING_RATE, schedule="constant")
    tx = make_optimizers(optimizer, config.models.trained)
    update = jax.jit(make_step(algorithm, tx), donate_argnums=0)
    frozen = {"ref": jax.tree.map(lambda x: x.copy(), params)} if reference == "online" else {}
    trained = np.broadcast_to(np.arange(tokens.shape[2]) >= PROMPT, (PAIRS, *tokens.shape[1:]))
    scored = (
        None
        if whole_head
        else np.broadcast_to(
            np.arange(PROMPT, tokens.shape[2], dtype=np.int32), trained[..., PROMPT:].shape
        )
    )

    def batch(step: int) -> PairBatch:
        ids = batch_of(tokens, step)
        fields = (ids, np.ones_like(trained), trained, np.ones(PAIRS, bool), scored)
        return PairBatch(*jax.tree.map(jnp.asarray, fields))

    count = len(tokens) // PAIRS
    score = jax.jit(make_score(algorithm.cached))
    cached = [score({}, {"ref": params}, batch(step)) for step in range(count)]
    state = make_train_state({"policy": params}, tx, jax.random.key(0))
    key = jax.random.key(1)

    def one(step: int) -> float:
        nonlocal state
        now = batch(step)._replace(**cached[step % count])
        state, metrics = update(state, frozen, now, key)
        return float(metrics["loss/total"])

    serve(one, steps=steps, windows=windows)


def run_plain(
    folder: pathlib.Path,
    tokens: np.ndarray,
    reference: str,
    *,
    steps: int,
    windows: int,
    threads: int,
) -> None:
    """A plain PyTorch loop: transformers with sdpa, AdamW, clipping; no TRL."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    load = transformers.AutoModelForCausalLM.from_pretrained
    model, ref = (
        load(folder / "model", dtype=torch.float32, attn_implementation="sdpa") for _ in range(2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def sums(model: Any, ids: Any) -> Any:
        logits = model(ids, use_cache=False).logits[:, :-1]
        logps = torch.gather(logits, 2, ids[:, 1:, None])[..., 0] - torch.logsumexp(logits, -1)
        return logps[:, PROMPT - 1 :].sum(1)

    def ids_of(step: int) -> Any:
        chosen_first = batch_of(tokens, step).swapaxes(0, 1).reshape(2 * PAIRS, -1)
        return torch.from_numpy(chosen_first.astype(np.int64))

    @torch.no_grad()
    def reference_of(step: int) -> Any:
        return sums(ref, ids_of(step))

    count = len(tokens) // PAIRS
    cached = [reference_of(step) for step in range(count)] if reference == "precomputed" else None

    def one(step: int) -> float:
        base = reference_of(step) if cached is None else cached[step % count]
        ratio = sums(model, ids_of(step)) - base
        loss = -torch.nn.functional.logsigmoid(BETA * (ratio[:PAIRS] - ratio[PAIRS:])).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    serve(one, steps=steps, windows=windows)


def run_trl(
    folder: pathlib.Path,
    tokens: np.ndarray,
    reference: str,
    *,
    steps: int,
    windows: int,
    threads: int,
) -> None:
    """TRL's DPOTrainer with gradient checkpointing off, on token ids."""
    import datasets
    import tokenizers
    import torch
    import transformers
    import trl

    torch.set_num_threads(threads)
    losses: list[float] = []

    class Trainer(in_order(trl.DPOTrainer, losses)):  # type: ignore[misc]
        """Takes ids as they are, in order, and keeps losses."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    class Windows(transformers.TrainerCallback):
        """Waits for the driver before a window, answers after it."""

        start = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % steps == 0:
                wait()
                self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % steps == 0:
                answer({"losses": losses[-steps:], "seconds": time.perf_counter() - self.start})

    words = {str(i): i for i in range(int(tokens.max()) + 1)}
    word_level = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_level, pad_token="0", eos_token="1"
    )
    passes = -(-steps * windows * PAIRS // len(tokens))
    rows = [
        {
            "prompt_ids": pair[0, :PROMPT].tolist(),
            "chosen_ids": pair[0, PROMPT:].tolist(),
            "rejected_ids": pair[1, PROMPT:].tolist(),
        }
        for pair in tokens
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    config = trl.DPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps * windows,
        per_device_train_batch_size=PAIRS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        beta=BETA,
        max_length=None,
        precompute_ref_log_probs=reference == "precomputed",
        **trainer_options(),
    )
    data = datasets.Dataset.from_list(rows * passes)
    Trainer(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Windows()],
    ).train()


def main() -> None:
    """Runs one side; commands come on standard input, timings go to standard output."""
    side, folder, reference, steps, windows, threads = sys.argv[1:7]
    root = pathlib.Path(folder)
    tokens = np.load(root / "tokens.npy")
    sizes = {"steps": int(steps), "windows": int(windows)}
    if side.startswith("rlhf_jax"):
        run_ours(root, tokens, reference, whole_head=side.endswith("whole head"), **sizes)
    elif side.startswith("plain"):
        run_plain(root, tokens, reference, threads=int(threads), **sizes)
    else:
        run_trl(root, tokens, reference, threads=int(threads), **sizes)


if __name__ == "__main__":
    main()
