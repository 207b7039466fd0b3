"""Policy losses, estimators, rewards as float64 NumPy loops, from the papers. No jax here."""

import math

import numpy as np


def token_logps(logits, tokens):
    out = np.zeros(tokens.shape)
    for b in range(tokens.shape[0]):
        for t in range(1, tokens.shape[1]):
            row = [float(x) for x in logits[b, t - 1]]
            top = max(row)
            total = math.fsum(math.exp(x - top) for x in row)
            out[b, t] = row[tokens[b, t]] - top - math.log(total)
    return out


def token_entropy(logits):
    out = np.zeros(logits.shape[:2])
    for b in range(logits.shape[0]):
        for t in range(1, logits.shape[1]):
            row = [float(x) for x in logits[b, t - 1]]
            top = max(row)
            total = math.fsum(math.exp(x - top) for x in row)
            for x in row:
                p = math.exp(x - top) / total
                out[b, t] -= p * math.log(p) if p > 0 else 0.0
    return out


def loss_weights(mask, mode, constant=None, segment_ids=None):
    """Weights by counting the documents one by one."""
    rows, width = mask.shape
    documents = {}
    for b in range(rows):
        if segment_ids is None:
            documents[b, 0] = []
        for t in range(width):
            key = (b, 0) if segment_ids is None else (b, int(segment_ids[b, t]))
            if segment_ids is not None and key[1] == 0:
                continue
            documents.setdefault(key, [])
            if mask[b, t]:
                documents[key].append((b, t))
    tokens = sum(int(x) for x in mask.reshape(-1))
    filled = sum(1 for d in documents.values() if d)
    out = np.zeros(mask.shape)
    for positions in documents.values():
        for b, t in positions:
            if mode == "token":
                out[b, t] = 1 / tokens
            elif mode == "sequence":
                out[b, t] = 1 / (filled * len(positions))
            else:
                out[b, t] = 1 / (len(documents) * constant)
    return out


def kl(logp, ref, kind):
    d = logp - ref
    if kind == "k1":
        return d
    if kind == "k2":
        return d * d / 2
    d = min(max(d, -20.0), 20.0)
    return math.exp(-d) - 1 + d


def kl_loss(logps, old, ref, weights, kind, unbiased):
    """GRPO eq. 4, token by token; unbiased: DeepSeek-V3.2 eq. 7."""
    total = 0.0
    for index in np.ndindex(*logps.shape):
        if weights[index] != 0:
            ratio = math.exp(min(max(logps[index] - old[index], -20.0), 20.0))
            term = kl(logps[index], ref[index], kind)
            total += weights[index] * term * (ratio if unbiased else 1.0)
    return total


def surrogate(logps, old, advantages, weights, *, low=0.2, high=0.2, dual=None, level="token"):
    """Clipped loss and the share of binding clips, token by token."""
    loss = clipped = 0.0
    for b in range(logps.shape[0]):
        live = [t for t in range(logps.shape[1]) if weights[b, t] != 0]
        for t in live:
            if level == "token":
                d = logps[b, t] - old[b, t]
            else:
                d = sum(logps[b, s] - old[b, s] for s in live) / len(live)
            ratio = math.exp(min(max(d, -20.0), 20.0))
            advantage = advantages[b, t]
            bounded = min(max(ratio, 1 - low), 1 + high)
            gain = min(ratio * advantage, bounded * advantage)
            clipped += weights[b, t] * (bounded * advantage < ratio * advantage)
            if dual is not None and advantage < 0:
                gain = max(gain, dual * advantage)
            loss -= weights[b, t] * gain
    return loss, clipped


def cispo(logps, old, advantages, weights, *, low=0.0, high=5.0):
    """Loss, and its gradient: the ratio is a constant."""
    loss, gradient = 0.0, np.zeros(logps.shape)
    for index in np.ndindex(*logps.shape):
        if weights[index] != 0:
            ratio = math.exp(min(max(logps[index] - old[index], -20.0), 20.0))
            gradient[index] = -weights[index] * min(max(ratio, low), high) * advantages[index]
            loss += gradient[index] * logps[index]
    return loss, gradient


def value_loss(values, old, returns, weights, clip):
    total = 0.0
    for index in np.ndindex(*values.shape):
        if weights[index] != 0:
            near = old[index] + min(max(values[index] - old[index], -clip), clip)
            total += (
                weights[index]
                * max((values[index] - returns[index]) ** 2, (near - returns[index]) ** 2)
                / 2
            )
    return total


def gae(rewards, values, mask, gamma, lam):
    """GAE eq. 16 as the explicit sum over the kept tokens of a row (not the recursion)."""
    advantages, returns = np.zeros(rewards.shape), np.zeros(rewards.shape)
    for b in range(rewards.shape[0]):
        kept = [t for t in range(rewards.shape[1]) if mask[b, t]]
        deltas = []
        for i, t in enumerate(kept):
            after = values[b, kept[i + 1]] if i + 1 < len(kept) else 0.0
            deltas.append(rewards[b, t] + gamma * after - values[b, t])
        for i, t in enumerate(kept):
            advantages[b, t] = sum(
                (gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(kept))
            )
            returns[b, t] = advantages[b, t] + values[b, t]
    return advantages, returns


def group_advantages(rewards, valid, *, std=True, eps=1e-4, ddof=1):
    out = np.zeros(rewards.shape)
    every = [r for r, v in zip(rewards.flat, valid.flat, strict=True) if v and not math.isnan(r)]
    for p in range(rewards.shape[0]):
        members = [
            g for g in range(rewards.shape[1]) if valid[p, g] and not math.isnan(rewards[p, g])
        ]
        if len({float(rewards[p, g]) for g in members}) < 2:
            continue
        mean = sum(rewards[p, g] for g in members) / len(members)
        spread = math.sqrt(
            sum((rewards[p, g] - mean) ** 2 for g in members) / (len(members) - ddof)
        )
        if std == "batch":
            spread = np.std(every, ddof=ddof)
        for g in members:
            out[p, g] = (rewards[p, g] - mean) / ((spread + eps) if std else 1.0)
    return out


def leave_one_out(rewards, valid):
    out = np.zeros(rewards.shape)
    for p in range(rewards.shape[0]):
        members = [
            g for g in range(rewards.shape[1]) if valid[p, g] and not math.isnan(rewards[p, g])
        ]
        for g in members:
            others = [rewards[p, j] for j in members if j != g]
            if others:
                out[p, g] = rewards[p, g] - sum(others) / len(others)
    return out


def whiten(x, mask, shift_mean=True):
    kept = [float(x[i]) for i in np.ndindex(*x.shape) if mask[i]]
    mean = sum(kept) / len(kept)
    variance = sum((v - mean) ** 2 for v in kept) / (len(kept) - 1)
    out = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        if mask[i]:
            out[i] = (x[i] - mean) / math.sqrt(variance + 1e-8) + (0.0 if shift_mean else mean)
    return out


def overlong(length, max_len, buffer_len, factor):
    if length <= max_len - buffer_len:
        return 0.0
    if length <= max_len:
        return factor * ((max_len - buffer_len) - length) / buffer_len
    return -factor


def shaped_rewards(scores, kl, mask, coef, clip=None):
    out = np.zeros(kl.shape)
    for b in range(kl.shape[0]):
        kept = [t for t in range(kl.shape[1]) if mask[b, t]]
        for t in kept:
            out[b, t] = -coef * kl[b, t]
        if kept:
            out[b, kept[-1]] += scores[b] if clip is None else min(max(scores[b], -clip), clip)
    return out
