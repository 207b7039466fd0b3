"""Preference losses as float64 NumPy loops, written from the papers. No jax here."""

import math


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def nll(x):
    """-log sigmoid(x) without overflow."""
    return math.log1p(math.exp(-x)) if x >= 0 else -x + math.log1p(math.exp(x))


def dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta, loss_type, smoothing=0.0):
    """Loss of one pair."""
    up, down = chosen - ref_chosen, rejected - ref_rejected
    h = up - down
    return {
        "sigmoid": lambda: (1 - smoothing) * nll(beta * h) + smoothing * nll(-beta * h),
        "robust": lambda: (
            ((1 - smoothing) * nll(beta * h) - smoothing * nll(-beta * h)) / (1 - 2 * smoothing)
        ),
        "ipo": lambda: (h - 0.5 / beta) ** 2,
        "hinge": lambda: max(0.0, 1 - beta * h),
        "apo_zero": lambda: sigmoid(-beta * up) + sigmoid(beta * down),
        "apo_down": lambda: sigmoid(beta * up) + sigmoid(-beta * h),
    }[loss_type]()


def reward(chosen, rejected, *, margin=0.0, center=0.0):
    """Loss of one pair."""
    return nll(chosen - rejected - margin) + center * (chosen + rejected) ** 2
