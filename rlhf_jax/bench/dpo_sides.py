"""One side of the DPO step comparison, in a process of its own; `dpo_step` starts and drives it.

FOLDER holds `model` (a Hugging Face folder) and `tokens.npy` [N, 2, T], of which the first half of
every row, the prompt, is not trained. A line on stdin lets one window of steps run; its losses and
seconds come back (`sides`).
"""

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.bench import torch_sides
from rlhf_jax.bench.sides import OURS, answer, compute_dtype, peak_bytes, wait
from rlhf_jax.bench.trl_sides import in_order, trainer_options

BETA = 0.1


class Work(NamedTuple):
    """What every side does."""

    tokens: np.ndarray
    """int [N, 2, T] ids, chosen before rejected."""
    pairs: int
    """Of a step."""

    @property
    def prompt(self) -> int:
        """Tokens of every row that are not trained."""
        return self.tokens.shape[2] // 2

    @property
    def batches(self) -> int:
        """Before they come again."""
        return len(self.tokens) // self.pairs

    def batch(self, step: int) -> np.ndarray:
        """[pairs, 2, T] of step `step`."""
        first = step % self.batches * self.pairs
        return self.tokens[first : first + self.pairs]


def serve(
    step: Callable[[int], float],
    *,
    steps: int,
    windows: int,
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Runs `step(i)` (which returns the loss) in windows, each when asked; `finish` waits for what
    the last step left to do."""
    for window in range(windows):
        wait()
        start = time.perf_counter()
        losses = [step(window * steps + i) for i in range(steps)]
        finish()
        seconds = time.perf_counter() - start
        answer({"losses": losses, "seconds": seconds, "peak": peak_bytes()})


def run_ours(args: argparse.Namespace, work: Work) -> None:
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

    model, params = load_pretrained(args.folder / "model", compute_dtype=compute_dtype())
    config = DPOConfig(beta=BETA, reference=args.reference)
    algorithm = ALGORITHMS["dpo"](config, model)
    optimizer = OptimizerConfig(learning_rate=args.learning_rate, schedule="constant")
    tx = make_optimizers(optimizer, config.models.trained)
    update = jax.jit(make_step(algorithm, tx), donate_argnums=0)
    online = args.reference == "online"
    frozen = {"ref": jax.tree.map(lambda x: x.copy(), params)} if online else {}
    shape = work.batch(0).shape
    trained = np.broadcast_to(np.arange(shape[2]) >= work.prompt, shape)
    places = np.arange(work.prompt, shape[2], dtype=np.int32)
    scored = np.broadcast_to(places, trained[..., work.prompt :].shape)

    def batch(step: int) -> PairBatch:
        whole_head = args.side.endswith("whole head")
        fields = (work.batch(step), np.ones_like(trained), trained, np.ones(work.pairs, bool))
        return PairBatch(*jax.tree.map(jnp.asarray, (*fields, None if whole_head else scored)))

    score = jax.jit(make_score(algorithm.cached))
    cached = [score({}, {"ref": params}, batch(step)) for step in range(work.batches)]
    state = make_train_state({"policy": params}, tx, jax.random.key(0))
    key = jax.random.key(1)

    def one(step: int) -> float:
        nonlocal state
        now = batch(step)._replace(**cached[step % work.batches])
        state, metrics = update(state, frozen, now, key)
        return float(metrics["loss/total"])

    serve(one, steps=args.steps, windows=args.windows)


def run_plain(args: argparse.Namespace, work: Work) -> None:
    """A plain PyTorch loop: transformers with sdpa, AdamW, clipping; no TRL."""
    import torch

    torch.set_num_threads(args.threads)
    model = torch_sides.load(args.folder / "model")
    ref = torch_sides.load(args.folder / "model", compute_only=True)
    optimizer = torch_sides.adamw(model.parameters(), args.learning_rate)

    def sums(model: Any, ids: Any) -> Any:
        with torch_sides.products():
            logits = model(ids, use_cache=False).logits[:, work.prompt - 1 : -1].float()
        taken = ids[:, work.prompt :, None]
        return (torch.gather(logits, 2, taken)[..., 0] - torch.logsumexp(logits, -1)).sum(1)

    def ids_of(step: int) -> Any:
        chosen_first = work.batch(step).swapaxes(0, 1).reshape(2 * work.pairs, -1)
        return torch.from_numpy(chosen_first.astype(np.int64)).to(torch_sides.device())

    @torch.no_grad()
    def reference_of(step: int) -> Any:
        return sums(ref, ids_of(step))

    online = args.reference == "online"
    cached = None if online else [reference_of(step) for step in range(work.batches)]

    def one(step: int) -> float:
        base = reference_of(step) if cached is None else cached[step % work.batches]
        ratio = sums(model, ids_of(step)) - base
        gain = BETA * (ratio[: work.pairs] - ratio[work.pairs :])
        loss = -torch.nn.functional.logsigmoid(gain).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    serve(one, steps=args.steps, windows=args.windows, finish=torch_sides.finish)


def run_trl(args: argparse.Namespace, work: Work) -> None:
    """TRL's DPOTrainer with gradient checkpointing off, on token ids."""
    import datasets
    import tokenizers
    import torch
    import transformers
    import trl

    torch.set_num_threads(args.threads)
    steps = args.steps
    tokens = work.tokens
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
                torch_sides.finish()
                seconds = time.perf_counter() - self.start
                answer({"losses": losses[-steps:], "seconds": seconds, "peak": peak_bytes()})

    words = {str(i): i for i in range(int(tokens.max()) + 1)}
    word_level = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_level, pad_token="0", eos_token="1"
    )
    passes = -(-steps * args.windows // work.batches)
    rows = [
        {
            "prompt_ids": pair[0, : work.prompt].tolist(),
            "chosen_ids": pair[0, work.prompt :].tolist(),
            "rejected_ids": pair[1, work.prompt :].tolist(),
        }
        for pair in tokens
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder / "model", dtype=torch.float32
    )
    config = trl.DPOConfig(
        output_dir=str(args.folder / args.side),
        max_steps=steps * args.windows,
        per_device_train_batch_size=work.pairs,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        beta=BETA,
        max_length=None,
        precompute_ref_log_probs=args.reference == "precomputed",
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
    parser = argparse.ArgumentParser()
    parser.add_argument("side")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("reference", choices=("online", "precomputed"))
    parser.add_argument("steps", type=int)
    parser.add_argument("windows", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("pairs", type=int)
    parser.add_argument("learning_rate", type=float)
    args = parser.parse_args()
    work = Work(np.load(args.folder / "tokens.npy"), args.pairs)
    runs = {OURS: run_ours, "plain": run_plain, "TRL": run_trl}
    next(run for name, run in runs.items() if args.side.startswith(name))(args, work)


if __name__ == "__main__":
    main()
