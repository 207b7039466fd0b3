"""Writes trl.json: losses and gradients computed by TRL and transformers themselves.

    python tests/golden/make_trl.py --old-trl FOLDER

Needs torch, transformers and trl (see the versions in the file it wrote); no test needs them. TRL's
loss methods are called on a stand-in for the trainer and for the model, so that the
log-probabilities are ours and every other line is TRL's. `--old-trl` is a checkout of TRL at
f2cd57710ae345ea6428ae95363267fcf38a3dc8, the last with PPO (its masked functions) and the overlong
reward.
"""

import argparse
import ast
import collections
import json
import pathlib
import tempfile
import types

import numpy as np
import tokenizers
import torch
import transformers
import trl
from datasets import Dataset
from transformers.loss.loss_utils import ForCausalLMLoss
from trl.experimental.cpo import CPOTrainer

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(20260101)


class Accelerator:
    """One process: gathering changes nothing."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def reduce(self, x, reduction):
        return x


def trainer(**fields):
    """What TRL's loss methods read from `self`."""
    return types.SimpleNamespace(
        model=types.SimpleNamespace(training=True),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        _metrics={"train": collections.defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **fields,
    )


def tensor(x, grad=False):
    return torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=grad)


def numbers(x):
    return x.detach().tolist() if isinstance(x, torch.Tensor) else np.asarray(x).tolist()


def dpo_cases():
    pairs, width = 5, 7
    lengths = RNG.integers(1, width, 2 * pairs)
    mask = (np.arange(width)[None, :] < lengths[:, None]).astype(np.int64)
    completion = np.concatenate([np.zeros((2 * pairs, 1), np.int64), mask], axis=1)
    logps = RNG.normal(-2.0, 1.0, (2 * pairs, width)) * mask
    ref = (RNG.normal(-2.0, 1.0, (2 * pairs, width)) * mask).sum(1)
    settings = [
        ("sigmoid", 0.0),
        ("ipo", 0.0),
        ("hinge", 0.0),
        ("robust", 0.1),
        ("apo_zero", 0.0),
        ("apo_down", 0.0),
    ]
    for beta in (0.1, 0.5):
        for loss_type, smoothing in settings:
            scored = tensor(logps, grad=True)
            other = torch.zeros(2 * pairs, width, dtype=torch.float64)
            outputs = types.SimpleNamespace(
                log_probs=scored,
                entropy=other,
                mean_logits=other,
                is_top1=torch.zeros(2 * pairs, width, dtype=torch.bool),
            )
            me = trainer(
                ld_alpha=None,
                precompute_ref_logps=True,
                f_divergence_type="reverse_kl",
                loss_types=[loss_type],
                loss_weights=[1.0],
                beta=beta,
                label_smoothing=smoothing,
                use_weighting=False,
            )
            inputs = {
                "input_ids": torch.zeros(completion.shape, dtype=torch.int64),
                "attention_mask": torch.ones(completion.shape, dtype=torch.int64),
                "completion_mask": torch.tensor(completion),
                "ref_chosen_logps": tensor(ref[:pairs]),
                "ref_rejected_logps": tensor(ref[pairs:]),
            }
            loss = trl.DPOTrainer._compute_loss(
                me, lambda outputs=outputs, **kwargs: outputs, inputs, False
            )
            loss.backward()
            metrics = {k: v[0] for k, v in me._metrics["train"].items() if k.startswith("rewards/")}
            yield {
                "options": {"beta": beta, "loss_type": loss_type, "label_smoothing": smoothing},
                "logps": numbers(logps),
                "ref": numbers(ref),
                "completion_mask": numbers(mask),
                "loss": loss.item(),
                "gradient": numbers(scored.grad),
                "metrics": metrics,
            }


def cdpo_cases():
    """cDPO: DPOTrainer ignores label_smoothing on sigmoid; CPOTrainer has it (reference 0)."""
    for smoothing in (0.0, 0.1, 0.3):
        chosen, rejected = RNG.normal(0.0, 8.0, 6), RNG.normal(0.0, 8.0, 6)
        me = trainer(alpha=0.0, loss_type="sigmoid", beta=0.2, label_smoothing=smoothing)
        losses, _, _ = CPOTrainer.cpo_loss(me, tensor(chosen), tensor(rejected))
        yield {
            "options": {"beta": 0.2, "label_smoothing": smoothing},
            "chosen": numbers(chosen),
            "rejected": numbers(rejected),
            "losses": numbers(losses),
        }


def reward_cases():
    for margin, center in ((False, None), (True, None), (True, 0.01)):
        scores, margins = RNG.normal(0.0, 2.0, 12), np.abs(RNG.normal(size=6))
        logits = tensor(scores[:, None], grad=True)
        me = trainer(args=types.SimpleNamespace(center_rewards_coefficient=center))

        def model(logits=logits, **inputs):
            return types.SimpleNamespace(logits=logits)

        inputs = {"attention_mask": torch.ones(12, 3)} | (
            {"margin": tensor(margins)} if margin else {}
        )
        loss = trl.RewardTrainer.compute_loss(me, model, inputs)
        loss.backward()
        yield {
            "chosen": numbers(scores[:6]),
            "rejected": numbers(scores[6:]),
            "margin": numbers(margins) if margin else None,
            "center_coef": center or 0.0,
            "loss": loss.item(),
            "gradient": numbers(logits.grad[:, 0]),
            "accuracy": me._metrics["train"]["accuracy"][0],
        }


def grpo_cases():
    rows, width = 6, 8
    lengths = RNG.integers(1, width + 1, rows)
    mask = (np.arange(width)[None, :] < lengths[:, None]).astype(np.float64)
    old = RNG.normal(-1.5, 0.5, (rows, width)) * mask
    logps, ref = (
        old + RNG.normal(0.0, 0.3, old.shape) * mask,
        old + RNG.normal(0.0, 0.3, old.shape) * mask,
    )
    advantages = RNG.normal(size=rows)
    settings = [
        {"loss_type": "grpo"},
        {"loss_type": "grpo", "beta": 0.04},
        {"loss_type": "dr_grpo"},
        {"loss_type": "dapo", "epsilon_high": 0.28},
        {"loss_type": "bnpo"},
        {"loss_type": "cispo", "epsilon_high": 1.2},
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.03,
            "epsilon_high": 0.04,
        },
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": True},
        {"loss_type": "cispo", "epsilon_high": 1.2, "beta": 0.04, "use_bias_correction_kl": True},
    ]
    for setting in settings:
        options = {
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "beta": 0.0,
            "importance_sampling_level": "token",
        } | setting
        scored = tensor(logps, grad=True)
        me = trainer(
            **options,
            args=types.SimpleNamespace(
                delta=None,
                use_bias_correction_kl=setting.get("use_bias_correction_kl", False),
                steps_per_generation=1,
            ),
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=False,
            max_completion_length=width,
            current_gradient_accumulation_steps=1,
            _entropy_bonus_enabled=False,
            _get_per_token_logps_and_entropies=lambda *args, scored=scored, **kwargs: (
                scored,
                torch.zeros_like(scored),
                None,
            ),
        )
        inputs = {
            "prompt_ids": torch.zeros(rows, 1, dtype=torch.int64),
            "prompt_mask": torch.ones(rows, 1, dtype=torch.int64),
            "completion_ids": torch.zeros(rows, width, dtype=torch.int64),
            "completion_mask": tensor(mask),
            "advantages": tensor(advantages),
            "old_per_token_logps": tensor(old),
            "ref_per_token_logps": tensor(ref),
            "num_items_in_batch": tensor(mask.sum()),
        }
        loss = trl.GRPOTrainer._compute_loss(me, None, inputs)
        loss.backward()
        yield {
            "options": options,
            "logps": numbers(logps),
            "old": numbers(old),
            "ref": numbers(ref),
            "mask": numbers(mask),
            "advantages": numbers(advantages),
            "loss": loss.item(),
            "gradient": numbers(scored.grad),
            "metrics": {k: v[0] for k, v in me._metrics["train"].items()},
        }


def grpo_advantage_cases():
    """A real GRPOTrainer with a model of a few weights and a reward that returns what we want."""
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "a", "b"])}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    shape = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    rewards = [
        1.0,
        0.0,
        0.5,
        0.0,
        0.25,
        0.25,
        0.25,
        0.25,
        2.0,
        None,
        -1.0,
        0.5,
        None,
        None,
        3.0,
        None,
    ]
    for scale in ("group", "none"):
        with tempfile.TemporaryDirectory() as folder:
            args = trl.GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=16,
                num_generations=4,
                max_completion_length=2,
                scale_rewards=scale,
                use_cpu=True,
                bf16=False,
                report_to="none",
            )
            made = trl.GRPOTrainer(
                model=transformers.Qwen2ForCausalLM(
                    transformers.Qwen2Config(vocab_size=4, eos_token_id=1, pad_token_id=0, **shape)
                ),
                reward_funcs=lambda completions, **kwargs: rewards,
                args=args,
                train_dataset=Dataset.from_list([{"prompt": "a"}] * 16),
                processing_class=tokenizer,
            )
            made.model.train()
            advantages = made._generate_and_score_completions([{"prompt": "a"}] * 16)["advantages"]
        yield {
            "scale": scale,
            "group_size": 4,
            "rewards": rewards,
            "advantages": numbers(advantages),
        }


def sft_cases():
    """transformers' causal language model loss: mean over the labels that are not -100."""
    logits, tokens = RNG.normal(0.0, 3.0, (3, 6, 11)), RNG.integers(0, 11, (3, 6))
    trained = RNG.random((3, 6)) < 0.7
    scored = tensor(logits, grad=True)
    labels = torch.tensor(np.where(trained, tokens, -100))
    loss = ForCausalLMLoss(scored, labels, vocab_size=11)
    loss.backward()
    yield {
        "logits": numbers(logits),
        "tokens": numbers(tokens),
        "trained": numbers(trained.astype(int)),
        "loss": loss.item(),
        "gradient": numbers(scored.grad),
    }


def old_functions(path, names):
    """Top-level definitions of a source file, without running its imports."""
    tree = ast.parse(path.read_text())
    wanted = [node for node in tree.body if getattr(node, "name", None) in names]
    scope = {"torch": torch, "Callable": collections.abc.Callable}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), scope)
    return scope


def old_cases(folder):
    ppo = old_functions(
        folder / "trl/experimental/ppo/ppo_trainer.py",
        {"masked_mean", "masked_var", "masked_whiten"},
    )
    rewards = old_functions(
        folder / "trl/rewards/other_rewards.py",
        {"get_soft_overlong_punishment", "_SoftOverlongPunishment"},
    )
    x, mask = RNG.normal(2.0, 3.0, (4, 6)), RNG.random((4, 6)) < 0.6
    whitened = {
        str(shift): ppo["masked_whiten"](tensor(x), torch.tensor(mask), shift).tolist()
        for shift in (True, False)
    }
    lengths = [0, 10, 79, 80, 81, 90, 100, 101, 150]
    penalty = rewards["get_soft_overlong_punishment"](max_completion_len=100, soft_punish_cache=20)
    return {
        "whiten": {"x": numbers(x), "mask": numbers(mask.astype(int)), "whitened": whitened},
        "overlong": {
            "lengths": lengths,
            "max_len": 100,
            "buffer_len": 20,
            "penalties": penalty([[0] * n for n in lengths]),
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--old-trl", type=pathlib.Path, required=True, help="checkout of TRL f2cd5771"
    )
    arguments = parser.parse_args()
    versions = {
        "trl": trl.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    versions["old_trl"] = "f2cd57710ae345ea6428ae95363267fcf38a3dc8"
    made = {
        "made_by": "tests/golden/make_trl.py",
        "versions": versions,
        "dpo": list(dpo_cases()),
        "cdpo": list(cdpo_cases()),
        "reward": list(reward_cases()),
        "grpo": list(grpo_cases()),
        "grpo_advantages": list(grpo_advantage_cases()),
        "sft": list(sft_cases()),
        **old_cases(arguments.old_trl),
    }
    (HERE / "trl.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
