"""A results.json written by hand: two or three runs whose figures are known."""

import json

METRIC = "accuracy/mean@4"
HARMFUL = "rewards/harmful_sampled"
SEEDS = (0, 1, 2, 3)


def cell(run, seed, values, *, cost=1.0, tokens=100.0, kl=None, harmful=None, by_prompt=None):
    """One cell; an evaluation for each value, whose step is ten times its place."""
    points = []
    for place, value in enumerate(values):
        point = {
            "step": 10.0 * place,
            "seconds": 2.0 * cost * place,
            "tokens": tokens * place,
            METRIC: value,
            "accuracy/greedy": value,
        }
        if kl is not None and place:
            point["kl/ref_sequence"] = kl[place]
        if harmful is not None:
            point[HARMFUL] = harmful[place]
        points.append(point)
    return {
        "run": run,
        "seed": seed,
        "algorithm": run,
        "evaluations": points,
        "seconds": 9.0,
        "compiling_seconds": None,
        "bytes": 1000,
        "samples": 64,
        "entropy": None,
        "by_prompt": by_prompt or {},
    }


def document(cells, *, names=("dapo", "ppo"), seeds=SEEDS, evaluation=None):
    """What `rlhf-jax compare` writes, as far as it is read here."""
    return {
        "metric": METRIC,
        "commit": ["0123456"],
        "config": {
            "seeds": list(seeds),
            "common": {"data": {"path": "x", "eval_size": 500}},
            "prompts": {"evaluation": evaluation or {"samples": 4, "max_prompts": 256}},
            "runs": [{"name": name} for name in names],
        },
        "cells": cells,
    }


def write(path, cells, **options):
    """The file, and its path as text."""
    path.write_text(json.dumps(document(cells, **options)))
    return str(path)


def claims_tree(results, kind, asked, *, claimed=0.1, **options):
    """One claim on one comparison, as a file of claims would hold it."""
    return {
        "comparisons": {"sums": {"results": results, "config": "sums.yaml"}},
        "claims": [
            {
                "name": "it",
                "says": "so it is",
                "source": "somebody",
                "claimed": claimed,
                kind: {"comparison": "sums", "run": "dapo", "against": "ppo"} | asked,
            }
        ],
        **options,
    }
