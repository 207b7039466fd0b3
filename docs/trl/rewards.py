"""Two rewards that compare the completions of a batch, as TRL calls them."""

from collections import defaultdict


def right(prompts, completions, answer, **kwargs):
    """1 for the right number."""
    return [float(c[0]["content"].strip() == a) for c, a in zip(completions, answer, strict=True)]


def shortest(prompts, completions, **kwargs):
    """1 for the shortest completions of each prompt."""
    lengths = defaultdict(list)
    for prompt, completion in zip(prompts, completions, strict=True):
        lengths[str(prompt)].append(len(completion[0]["content"]))
    return [
        float(len(completion[0]["content"]) == min(lengths[str(prompt)]))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
