"""PyTorch sides of the PPO iteration, a process each; `ppo_iteration` starts and drives them.

FOLDER holds `model`, `reference`, `critic` (a reward model's folder), `prompts.npy` [B, Tp],
`lengths.npy` [B] (tokens after which a completion is cut, as if its end had come), and for the gate
`completions.npy` [B, T] and `noise.npy` of that shape. The first line on stdin asks for losses and
gradient norm of the given completions, with `noise` added to the old logit of every taken token;
every further line lets one iteration run: generate, reward, score, update.
"""

import argparse
import time
from typing import Any

import numpy as np

from rlhf_jax.bench import torch_sides
from rlhf_jax.bench.grpo_sides import gradient_norm, main, serve, word_tokenizer
from rlhf_jax.bench.low_ids import low_ids, vocab_size
from rlhf_jax.bench.sides import answer, peak_bytes, wait
from rlhf_jax.bench.trl_sides import trainer_options

CLIP = 0.2
VALUE_CLIP = 0.2
VF_COEF = 0.1
KL_COEF = 0.05
GAE_LAMBDA = 0.95
LEARNING_RATE = 1e-5


def load_models(folder: Any) -> tuple[Any, Any, Any]:
    """Policy, reference and critic in transformers."""
    import torch
    import transformers

    critic = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "critic", num_labels=1, dtype=torch.float32, attn_implementation="sdpa"
    )
    return torch_sides.load(folder / "model"), torch_sides.load(folder / "reference"), critic


def whitened_gae(rewards: Any, values: Any, mask: Any) -> tuple[Any, Any]:
    """Advantages, whitened over the tokens of `mask`, and returns; all [B, T], values 0 off it."""
    import torch

    last = torch.zeros(len(rewards))
    following = torch.zeros(len(rewards))
    columns = []
    for t in reversed(range(rewards.shape[1])):
        last = (rewards[:, t] + following - values[:, t] + GAE_LAMBDA * last) * mask[:, t]
        following = values[:, t]
        columns.append(last)
    advantages = torch.stack(columns[::-1], 1)
    trained = advantages[mask.bool()]
    whitened = (advantages - trained.mean()) * torch.rsqrt(trained.var() + 1e-8)
    return whitened, advantages + values


def run_plain(args: argparse.Namespace) -> None:
    """A plain PyTorch loop: `generate`, sdpa, AdamW, the head on completions only; no TRL.

    The log-probabilities before the update are read off the logits of the generation, as TRL does.
    Every microbatch is as wide as its longest row, no wider.
    """
    import torch

    torch.set_num_threads(args.threads)
    policy, reference, critic = (model.eval() for model in load_models(args.folder))
    trained = [*policy.parameters(), *critic.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    prompts = torch.from_numpy(np.load(args.folder / "prompts.npy").astype(np.int64))
    width = prompts.shape[1]
    lengths = torch.from_numpy(np.load(args.folder / "lengths.npy").astype(np.int64))
    mask = (torch.arange(args.new_tokens) < lengths[:, None]).float()
    sampling = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "pad_token_id": 0,
    }

    def part_of(number: int, *arrays: Any) -> list[Any]:
        """Rows of a microbatch, with as many columns of completions as its longest row has."""
        rows = slice(number, None, args.microbatches)
        spare = args.new_tokens - int(lengths[rows].max())
        return [x[rows, : x.shape[1] - spare] for x in arrays]

    def taken_logps(logits: Any, taken: Any) -> Any:
        return torch.gather(logits, 2, taken[..., None])[..., 0] - torch.logsumexp(logits, -1)

    def logps_of(model: Any, tokens: Any) -> Any:
        taken = tokens[:, width:]
        return taken_logps(
            model(tokens, use_cache=False, logits_to_keep=taken.shape[1] + 1).logits[:, :-1], taken
        )

    def values_of(tokens: Any) -> Any:
        hidden = critic.model(tokens, use_cache=False).last_hidden_state[:, width - 1 : -1]
        return critic.score(hidden)[..., 0]

    @torch.no_grad()
    def score(tokens: Any) -> tuple[Any, Any]:
        ref_logps = torch.zeros_like(mask)
        values = torch.zeros_like(mask)
        for number in range(args.microbatches):
            (part,) = part_of(number, tokens)
            rows = slice(number, None, args.microbatches)
            ref_logps[rows, : part.shape[1] - width] = logps_of(reference, part)
            values[rows, : part.shape[1] - width] = values_of(part)
        return ref_logps, values * mask

    @torch.no_grad()
    def advantages_of(tokens: Any, old_logps: Any, ref_logps: Any, values: Any) -> tuple[Any, Any]:
        completions = zip(tokens[:, width:].tolist(), lengths.tolist(), strict=True)
        rewards = -KL_COEF * (old_logps - ref_logps) * mask
        rewards[torch.arange(len(tokens)), lengths - 1] += torch.tensor(
            low_ids([], [], [ids[:length] for ids, length in completions])
        )
        return whitened_gae(rewards, values, mask)

    def backward(tokens: Any, old_logps: Any, ref_logps: Any, values: Any) -> dict[str, float]:
        advantages, returns = advantages_of(tokens, old_logps, ref_logps, values)
        optimizer.zero_grad()
        losses = np.zeros(2)
        for number in range(args.microbatches):
            arrays = (tokens, mask / mask.sum(), old_logps, advantages, returns, values)
            losses += backward_part(*part_of(number, *arrays))
        return {"loss/policy": losses[0], "loss/value": losses[1]}

    def backward_part(
        tokens: Any, weights: Any, old_logps: Any, advantages: Any, returns: Any, old_values: Any
    ) -> list[float]:
        ratio = torch.exp((logps_of(policy, tokens) - old_logps) * (weights > 0))
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
        policy_loss = -(gain * weights).sum()
        values = values_of(tokens)
        clipped = old_values + (values - old_values).clamp(-VALUE_CLIP, VALUE_CLIP)
        error = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
        value_loss = 0.5 * (error * weights).sum()
        (policy_loss + VF_COEF * value_loss).backward()
        return [float(policy_loss.detach()), float(value_loss.detach())]

    def gate() -> dict[str, float]:
        completions, noise = (
            torch.from_numpy(np.load(args.folder / name))
            for name in ("completions.npy", "noise.npy")
        )
        tokens = torch.cat([prompts, completions.long()], 1)
        with torch.no_grad():
            logps = logps_of(policy, tokens)
        old_logps = logps + noise - torch.log1p(torch.exp(logps) * torch.expm1(noise))
        losses = backward(tokens, old_logps, *score(tokens))
        return losses | {"grad_norm": gradient_norm(trained)}

    def iterate() -> dict[str, float]:
        start = time.perf_counter()
        attended = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}
        out = policy.generate(
            **attended,
            max_new_tokens=args.new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
            **sampling,
        )
        logps = [
            taken_logps(step[:, None], taken[:, None])
            for step, taken in zip(out.logits, out.sequences[:, width:].unbind(1), strict=True)
        ]
        generated = time.perf_counter()
        scores = score(out.sequences)
        scored = time.perf_counter()
        backward(out.sequences, torch.cat(logps, 1), *scores)
        optimizer.step()
        return {
            "generation": generated - start,
            "score": scored - generated,
            "update": time.perf_counter() - scored,
        }

    serve(gate, iterate, windows=args.windows)


def run_trl(args: argparse.Namespace) -> None:
    """TRL's PPOTrainer (last in TRL 1.10), no gradient checkpointing, a reward at no cost."""
    import datasets
    import torch
    import transformers
    import trl.experimental.ppo.ppo_trainer as trl_ppo
    from trl.experimental.ppo import PPOConfig

    torch.set_num_threads(args.threads)
    prompts = np.load(args.folder / "prompts.npy")
    policy, reference, critic = load_models(args.folder)
    gate: dict[str, float] = {}

    class LowIds(torch.nn.Module):
        """`low_ids` in the form of a reward model: TRL's PPO takes nothing else."""

        base_model_prefix = "backbone"

        def __init__(self) -> None:
            super().__init__()
            self.score = torch.nn.Identity()

        def backbone(self, input_ids: Any, **kwargs: Any) -> Any:
            rewards = torch.tensor(low_ids([], [], input_ids[:, prompts.shape[1] :].tolist()))
            shown = rewards[:, None, None].expand(*input_ids.shape, 1)
            return transformers.modeling_outputs.BaseModelOutput(hidden_states=(shown,))

    class Windows(transformers.TrainerCallback):
        """Lets the driver decide when an iteration runs; the first one is the gate."""

        start = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if state.global_step == 1:
                gate.update(
                    {"loss/policy": logs["loss/policy_avg"], "loss/value": logs["loss/value_avg"]}
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            window = {"seconds": time.perf_counter() - self.start, "peak": peak_bytes()}
            answer(gate if state.global_step == 1 else window)
            if state.global_step < state.max_steps:
                wait()
            self.start = time.perf_counter()

    sample = trl_ppo.batch_generation

    def given_first(model: Any, *rest: Any) -> Any:
        """The gate's completions and perturbed logits first, then TRL's own generation."""
        trl_ppo.batch_generation = sample
        completions, noise = (
            torch.from_numpy(np.load(args.folder / name))
            for name in ("completions.npy", "noise.npy")
        )
        taken = completions.long()
        tokens = torch.cat([torch.from_numpy(prompts.astype(np.int64)), taken], 1)
        logits = model(tokens, use_cache=False, logits_to_keep=taken.shape[1] + 1).logits[:, :-1]
        return tokens, logits.scatter_add(2, taken[..., None], noise[..., None])

    trl_ppo.batch_generation = given_first
    config = PPOConfig(
        output_dir=str(args.folder / args.side),
        total_episodes=len(prompts) * (args.windows + 1),
        per_device_train_batch_size=len(prompts),
        local_rollout_forward_batch_size=len(prompts),
        response_length=args.new_tokens,
        temperature=1.0,
        num_ppo_epochs=1,
        num_mini_batches=1,
        num_sample_generations=0,
        kl_coef=KL_COEF,
        cliprange=CLIP,
        cliprange_value=VALUE_CLIP,
        vf_coef=VF_COEF,
        gamma=1.0,
        lam=GAE_LAMBDA,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        **trainer_options(logging_steps=1),
    )
    trainer = trl_ppo.PPOTrainer(
        args=config,
        processing_class=word_tokenizer(vocab_size(args.folder / "model")),
        model=policy,
        ref_model=reference,
        reward_model=LowIds(),
        value_model=critic,
        train_dataset=datasets.Dataset.from_list([{"input_ids": ids} for ids in prompts.tolist()]),
        eval_dataset=datasets.Dataset.from_list([{"input_ids": prompts[0].tolist()}]),
        callbacks=[Windows()],
    )

    def keep_norm(*_: Any) -> None:
        if "grad_norm" not in gate:
            gate["grad_norm"] = gradient_norm(trainer.model.parameters())

    trainer.optimizer.optimizer.register_step_pre_hook(keep_norm)
    trainer.train()


if __name__ == "__main__":
    main({"plain": run_plain, "TRL": run_trl})
