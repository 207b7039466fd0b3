"""Writes trl_preferences.json: TRL's fifteen DPO losses, sums of several, and KTO, computed by TRL.

    python tests/golden/make_trl_preferences.py

Needs torch, transformers and trl (see the versions in the file it wrote); no test needs them. As in
make_trl.py the log-probabilities are ours and every other line is TRL's.
"""

import json
import pathlib
import types

import numpy as np
import torch
import trl
from make_trl import numbers, tensor, trainer

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(20260107)
LOSSES = [
    ({"loss_type": name}, smoothing)
    for name, smoothing in [
        ("sigmoid", 0.0),
        ("hinge", 0.0),
        ("ipo", 0.0),
        ("exo_pair", 1e-3),
        ("nca_pair", 0.0),
        ("robust", 0.1),
        ("bco_pair", 0.0),
        ("sppo_hard", 0.0),
        ("aot", 0.0),
        ("aot", 0.1),
        ("aot_unpaired", 0.0),
        ("aot_unpaired", 0.1),
        ("apo_zero", 0.0),
        ("apo_down", 0.0),
        ("discopop", 0.0),
        ("sft", 0.0),
        ("sigmoid_norm", 0.0),
    ]
] + [
    ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]}, 0.0),  # RPO
    ({"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}, 0.0),  # MPO
    ({"loss_type": ["ipo", "aot", "apo_zero"]}, 0.0),
]


def ragged(rows, width):
    lengths = RNG.integers(1, width + 1, rows)
    mask = (np.arange(width)[None, :] < lengths[:, None]).astype(np.int64)
    return mask, RNG.normal(-2.0, 1.0, mask.shape) * mask


def with_prompt(mask):
    """A prompt of one token before each completion."""
    return np.concatenate([np.zeros((len(mask), 1), np.int64), mask], axis=1)


def outputs_of(logps):
    other = torch.zeros_like(logps)
    return types.SimpleNamespace(
        log_probs=logps, entropy=other, mean_logits=other, is_top1=other.bool()
    )


def dpo_cases():
    pairs, width = 5, 7
    mask, logps = ragged(2 * pairs, width)
    _, per_token = ragged(2 * pairs, width)
    ref = per_token.sum(1)
    for beta in (0.1, 0.5):
        for options, smoothing in LOSSES:
            names = options["loss_type"]
            names = [names] if isinstance(names, str) else names
            scored = tensor(logps, grad=True)
            me = trainer(
                ld_alpha=None,
                precompute_ref_logps=True,
                f_divergence_type="reverse_kl",
                loss_types=names,
                loss_weights=options.get("loss_weights", [1.0] * len(names)),
                beta=beta,
                label_smoothing=smoothing,
                use_weighting=False,
                args=types.SimpleNamespace(discopop_tau=0.05),
            )
            completion = with_prompt(mask)
            inputs = {
                "input_ids": torch.zeros(completion.shape, dtype=torch.int64),
                "attention_mask": torch.ones(completion.shape, dtype=torch.int64),
                "completion_mask": torch.tensor(completion),
                "ref_chosen_logps": tensor(ref[:pairs]),
                "ref_rejected_logps": tensor(ref[pairs:]),
            }
            loss = trl.DPOTrainer._compute_loss(
                me, lambda scored=scored, **kwargs: outputs_of(scored), inputs, False
            )
            loss.backward()
            metrics = {k: v[0] for k, v in me._metrics["train"].items() if k.startswith("rewards/")}
            yield {
                "options": {"beta": beta, "label_smoothing": smoothing, **options},
                "logps": numbers(logps),
                "ref": numbers(ref),
                "completion_mask": numbers(mask),
                "loss": loss.item(),
                "gradient": numbers(scored.grad),
                "metrics": metrics,
            }


def kto_cases():
    rows, width = 6, 7
    label = np.array([True, False, True, True, False, True])
    settings = [
        {"loss_type": "kto"},
        {"loss_type": "kto", "desirable_weight": 0.5, "undesirable_weight": 1.2},
        {"loss_type": "apo_zero_unpaired"},
    ]
    for drift in (0.4, -0.4):  # above the reference, and below it, where the baseline is 0
        mask, logps = ragged(rows, width)
        unrelated_mask, unrelated = ragged(rows, width)
        ref = logps.sum(1) + RNG.normal(0.0, 2.0, rows)
        ref_unrelated = unrelated.sum(1) - drift + RNG.normal(0.0, 0.1, rows)
        for setting in settings:
            options = {
                "beta": 0.3,
                "desirable_weight": 1.0,
                "undesirable_weight": 1.0,
                **setting,
            }
            scored = tensor(logps, grad=True)
            me = trainer(
                **options, precompute_ref_logps=True, calculate_KL=setting["loss_type"] == "kto"
            )
            me._compute_kl_logps = types.MethodType(trl.KTOTrainer._compute_kl_logps, me)

            def model(input_ids, scored=scored, unrelated=unrelated, **kwargs):
                is_unrelated = bool(input_ids[0, 0])
                return outputs_of(tensor(unrelated) if is_unrelated else scored)

            inputs = {"label": torch.tensor(label), "ref_logps": tensor(ref)}
            inputs["ref_KL_logps"] = tensor(ref_unrelated)
            for prefix, masked, token in (("", mask, 0), ("KL_", unrelated_mask, 1)):
                completion = with_prompt(masked)
                inputs |= {
                    f"{prefix}input_ids": torch.full(completion.shape, token, dtype=torch.int64),
                    f"{prefix}attention_mask": torch.ones(completion.shape, dtype=torch.int64),
                    f"{prefix}completion_mask": torch.tensor(completion),
                }
            loss = trl.KTOTrainer._compute_loss(me, model, inputs, False)
            loss.backward()
            names = ("rewards/", "logps/", "kl")
            yield {
                "options": options,
                "logps": numbers(logps),
                "mask": numbers(mask),
                "unrelated": numbers(unrelated),
                "unrelated_mask": numbers(unrelated_mask),
                "ref": numbers(ref),
                "ref_unrelated": numbers(ref_unrelated),
                "label": numbers(label.astype(int)),
                "loss": loss.item(),
                "gradient": numbers(scored.grad),
                "metrics": {
                    k: v[0] for k, v in me._metrics["train"].items() if k.startswith(names)
                },
            }


def main():
    made = {
        "made_by": "tests/golden/make_trl_preferences.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "dpo": list(dpo_cases()),
        "kto": list(kto_cases()),
    }
    (HERE / "trl_preferences.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
