"""PyTorch sides of the GRPO iteration, a process each; `grpo_iteration` starts and drives them.

FOLDER holds `model`, `prompts.npy` [P, Tp], and for the gate `completions.npy` [P * G, T] and
`noise.npy` of that shape. The first line on stdin asks for loss and gradient norm of the given
completions, with `old_logps = logps + noise`; every further line lets one iteration run: generate,
reward, one update.
"""

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rlhf_jax.bench import torch_sides
from rlhf_jax.bench.low_ids import low_ids, vocab_size
from rlhf_jax.bench.sides import answer, on_gpu, peak_bytes, wait
from rlhf_jax.bench.trl_sides import trainer_options

GROUP = 8
CLIP = 0.2
LEARNING_RATE = 1e-5
EPS = 1e-4


def serve(
    gate: Callable[[], dict[str, float]], iterate: Callable[[], dict[str, float]], *, windows: int
) -> None:
    """Answers the driver: the gate, then the seconds of each iteration.

    Args:
      gate: returns the losses and the gradient norm of the given completions.
      iterate: one iteration; returns its parts' seconds.
      windows: to be run.
    """
    wait()
    answer(gate())
    for _ in range(windows):
        wait()
        start = time.perf_counter()
        parts = iterate()
        answer({"seconds": time.perf_counter() - start, "peak": peak_bytes()} | parts)


def gradient_norm(parameters: Any) -> float:
    """Summed in float64: torch's own float32 sum of two million squares is off by 4e-5 here."""
    return float(
        sum(p.grad.double().square().sum() for p in parameters if p.grad is not None) ** 0.5
    )


def run_plain(args: argparse.Namespace) -> None:
    """A plain PyTorch loop: `generate`, sdpa, AdamW, clipping; the head on completions; no TRL."""
    import torch

    torch.set_num_threads(args.threads)
    model = torch_sides.load(args.folder / "model").eval()
    # A GPU samples from a copy in bfloat16, filled anew in every iteration.
    sampler = torch_sides.load(args.folder / "model", compute_only=True) if on_gpu() else model
    optimizer = torch_sides.adamw(model.parameters(), LEARNING_RATE)
    prompts = torch.from_numpy(
        np.load(args.folder / "prompts.npy").astype(np.int64)
    ).repeat_interleave(GROUP, 0)
    prompts = prompts.to(model.device)
    width = prompts.shape[1]
    sampling = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "pad_token_id": 0,
    }

    def advantages_of(tokens: Any) -> Any:
        rewards = torch.tensor(
            low_ids([], [], tokens[:, width:].tolist()), device=model.device
        ).view(-1, GROUP)
        spread = rewards.std(1, keepdim=True) + EPS
        return ((rewards - rewards.mean(1, keepdim=True)) / spread).view(-1, 1)

    def backward(tokens: Any, advantages: Any, noise: Any) -> float:
        optimizer.zero_grad()
        return sum(
            backward_part(*(x[i :: args.microbatches] for x in (tokens, advantages, noise)))
            for i in range(args.microbatches)
        )

    def backward_part(tokens: Any, advantages: Any, noise: Any) -> float:
        taken = tokens[:, width:]
        with torch_sides.products():
            logits = (
                model(tokens, use_cache=False, logits_to_keep=taken.shape[1] + 1)
                .logits[:, :-1]
                .float()
            )
        logps = torch.gather(logits, 2, taken[..., None])[..., 0] - torch.logsumexp(logits, -1)
        ratio = torch.exp(logps - (logps.detach() + noise))
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
        loss = -gain.mean() / args.microbatches
        loss.backward()
        return float(loss.detach())

    def gate() -> dict[str, float]:
        completions, noise = (
            torch.from_numpy(np.load(args.folder / name)).to(model.device)
            for name in ("completions.npy", "noise.npy")
        )
        tokens = torch.cat([prompts, completions.long()], 1)
        loss = backward(tokens, advantages_of(tokens), noise)
        return {"loss/total": loss, "grad_norm": gradient_norm(model.parameters())}

    def iterate() -> dict[str, float]:
        start = time.perf_counter()
        attended = torch.ones_like(prompts)
        if sampler is not model:
            for mine, trained in zip(sampler.parameters(), model.parameters(), strict=True):
                mine.data.copy_(trained.data)
        tokens = sampler.generate(
            input_ids=prompts, attention_mask=attended, max_new_tokens=args.new_tokens, **sampling
        )
        torch_sides.finish()
        generated = time.perf_counter()
        backward(tokens, advantages_of(tokens), torch.zeros(len(tokens), 1, device=model.device))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch_sides.finish()
        return {"generation": generated - start, "update": time.perf_counter() - generated}

    serve(gate, iterate, windows=args.windows)


def word_tokenizer(vocab: int) -> Any:
    """A tokenizer of TRL's kind whose words are the ids; EOS and padding lie outside of the model.

    So no completion ends early, without a logits processor that would slow TRL down.

    Args:
      vocab: of the model.
    """
    import tokenizers
    import transformers

    words = {str(i): i for i in range(vocab + 2)}
    word_level = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    word_level.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_level, eos_token=str(vocab), pad_token=str(vocab + 1)
    )


def run_trl(args: argparse.Namespace) -> None:
    """TRL's GRPOTrainer: generation by transformers, gradient checkpointing off, no KL."""
    import datasets
    import torch
    import transformers
    import trl

    torch.set_num_threads(args.threads)
    prompts = np.load(args.folder / "prompts.npy")
    rows = [{"prompt": " ".join(map(str, ids))} for ids in prompts.tolist()]

    class Windows(transformers.TrainerCallback):
        """Lets the driver say when an iteration runs; generation lies inside of a step."""

        start = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            answer(gate())

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            torch_sides.finish()
            answer({"seconds": time.perf_counter() - self.start, "peak": peak_bytes()})

    def gate() -> dict[str, float]:
        completions, noise = (
            np.load(args.folder / name) for name in ("completions.npy", "noise.npy")
        )
        where = torch_sides.device()
        ids = torch.from_numpy(prompts.astype(np.int64)).repeat_interleave(GROUP, 0).to(where)
        given = torch.from_numpy(completions.astype(np.int64)).to(where)
        graded = low_ids([], [], completions.tolist())
        rewards = torch.tensor(graded, device=where).view(-1, GROUP)
        advantages = (
            (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + EPS)
        ).view(-1)
        tokens = torch.cat([ids, given], 1)
        model = trainer.model
        with torch.no_grad():
            logps = trainer._get_per_token_logps_and_entropies(
                model, tokens, torch.ones_like(tokens), given.shape[1]
            )[0]
        batch = {"prompt_ids": ids, "prompt_mask": torch.ones_like(ids), "completion_ids": given}
        batch |= {"completion_mask": torch.ones_like(given), "advantages": advantages}
        batch |= {
            "old_per_token_logps": logps + torch.from_numpy(noise).to(where),
            "num_items_in_batch": torch.tensor(given.numel(), device=where),
        }
        loss = trainer._compute_loss(model, batch)
        loss.backward()
        result = {
            "loss/total": float(loss.detach()),
            "grad_norm": gradient_norm(model.parameters()),
        }
        model.zero_grad()
        return result

    batch_size = len(prompts) * GROUP
    config = trl.GRPOConfig(
        output_dir=str(args.folder / args.side),
        max_steps=args.windows,
        num_generations=GROUP,
        per_device_train_batch_size=batch_size // args.microbatches,
        gradient_accumulation_steps=args.microbatches,
        max_completion_length=args.new_tokens,
        temperature=1.0,
        beta=0.0,
        epsilon=CLIP,
        loss_type="grpo",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        **trainer_options(),
    )
    trainer = trl.GRPOTrainer(
        model=torch_sides.load(args.folder / "model"),
        reward_funcs=low_ids,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=word_tokenizer(vocab_size(args.folder / "model")),
        callbacks=[Windows()],
    )
    trainer.train()


def parse() -> argparse.Namespace:
    """The arguments that the driver gives to every side of an online comparison."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("algorithm", choices=("grpo", "ppo"))
    parser.add_argument("new_tokens", type=int)
    parser.add_argument("windows", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("microbatches", type=int)
    return parser.parse_args()


def main(sides: dict[str, Callable[[argparse.Namespace], None]]) -> None:
    """Runs one side.

    Args:
      sides: beginning of the name -> what runs it.
    """
    args = parse()
    next(run for name, run in sides.items() if args.side.startswith(name))(args)


if __name__ == "__main__":
    main({"plain": run_plain, "TRL": run_trl})
