"""Preference losses as float64 NumPy loops, written from the papers. No jax here."""

import math


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def nll(x):
    """-log sigmoid(x) without overflow."""
    return math.log1p(math.exp(-x)) if x >= 0 else -x + math.log1p(math.exp(x))


def dpo(
    chosen,
    rejected,
    ref_chosen,
    ref_rejected,
    *,
    beta,
    loss_type,
    smoothing=0.0,
    lengths=(1, 1),
    tau=0.05,
):
    """Loss of one pair."""
    up, down = chosen - ref_chosen, rejected - ref_rejected
    h = up - down
    p, q = sigmoid(beta * h), sigmoid(-beta * h)
    mean = up / lengths[0] - down / lengths[1]
    return {
        "sigmoid": lambda: (1 - smoothing) * nll(beta * h) + smoothing * nll(-beta * h),
        "robust": lambda: (
            ((1 - smoothing) * nll(beta * h) - smoothing * nll(-beta * h)) / (1 - 2 * smoothing)
        ),
        "ipo": lambda: (mean - 0.5 / beta) ** 2,
        "hinge": lambda: max(0.0, 1 - beta * h),
        "apo_zero": lambda: sigmoid(-beta * up) + sigmoid(beta * down),
        "apo_down": lambda: sigmoid(beta * up) + sigmoid(-beta * h),
        # KL((p, q) || (1 - e, e))
        "exo_pair": lambda: p * math.log(p / (1 - smoothing)) + q * math.log(q / smoothing),
        "nca_pair": lambda: nll(beta * up) + (nll(-beta * up) + nll(-beta * down)) / 2,
        "bco_pair": lambda: nll(beta * up) + nll(-beta * down),
        "sppo_hard": lambda: (up - 1 / (2 * beta)) ** 2 + (down + 1 / (2 * beta)) ** 2,
        "discopop": lambda: (
            (1 - sigmoid(beta * h / tau)) * nll(beta * h)
            + sigmoid(beta * h / tau) * math.exp(-beta * h)
        ),
        "sigmoid_norm": lambda: nll(beta * mean),
    }[loss_type]()


def dpo_batch(pairs, weights, lengths, *, beta, loss_type, smoothing=0.0, tau=0.05):
    """Loss of a batch: (chosen, rejected, ref_chosen, ref_rejected) of each pair; a weight of 0 is
    a filler."""
    real = [i for i, weight in enumerate(weights) if weight]
    if loss_type == "sft":
        return -sum(pairs[i][0] for i in real) / sum(lengths[i][0] for i in real)
    if loss_type in ("aot", "aot_unpaired"):
        # Two sorted lists, compared place by place, every pair alike.
        if loss_type == "aot":
            first = sorted(pairs[i][0] - pairs[i][1] for i in real)
            second = sorted(pairs[i][2] - pairs[i][3] for i in real)
        else:
            first = sorted(pairs[i][0] - pairs[i][2] for i in real)
            second = sorted(pairs[i][1] - pairs[i][3] for i in real)
        margins = [beta * (a - b) for a, b in zip(first, second, strict=True)]
        each = [(1 - smoothing) * nll(m) + smoothing * nll(-m) for m in margins]
        return sum(each) / len(each)
    options = {"beta": beta, "loss_type": loss_type, "smoothing": smoothing, "tau": tau}
    return sum(weights[i] * dpo(*pairs[i], **options, lengths=lengths[i]) for i in real)


def kto(rows, *, beta, desirable=1.0, undesirable=1.0, unrelated=None):
    """Loss of (log-probability, reference's, label) each; `unrelated`: the same of answers to other
    prompts, without labels, or None for no baseline."""
    z = 0.0
    if unrelated is not None:
        z = max(0.0, sum(policy - ref for policy, ref in unrelated) / len(unrelated))
    total = 0.0
    for policy, ref, label in rows:
        u = policy - ref
        if label:
            total += desirable * (1 - sigmoid(beta * (u - z)))
        else:
            total += undesirable * (1 - sigmoid(beta * (z - u)))
    return total / len(rows)


def reward(chosen, rejected, *, margin=0.0, center=0.0):
    """Loss of one pair."""
    return nll(chosen - rejected - margin) + center * (chosen + rejected) ** 2
