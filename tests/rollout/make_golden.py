"""Makes tests/rollout/golden.json: greedy `generate` of transformers with tests/models/golden.

Run where torch and transformers are installed (the `bench` extra):

    python -m tests.rollout.make_golden

Prompts of different lengths go through one by one, so that no padding of transformers is involved.
For every model the same prompts are completed without EOS and with a token as EOS that occurs early
in a completion.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

MODELS = pathlib.Path(__file__).parent.parent / "models" / "golden"
OUT = pathlib.Path(__file__).parent / "golden.json"
NEW = 12
LENGTHS = {"phi3_long": (20, 13 + 6, 17)}
"""Long enough that every step is on one side of a switch of the RoPE scaling."""
SKIPPED = ("llama_dynamic",)
"""transformers turns new keys by other frequencies than the cached ones as the row grows; here a
row has one set."""


def generate(model: torch.nn.Module, prompt: list[int], eos: list[int]) -> list[int]:
    """Ids after the prompt, EOS included."""
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=eos or None,
        pad_token_id=0,
        bos_token_id=None,
    )
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=config
    )
    return out[0, len(prompt) :].tolist()


def make(folder: pathlib.Path, seed: int) -> dict:
    """One model."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.generation_config = transformers.GenerationConfig()
    rng = np.random.default_rng(seed)
    prompts = [
        rng.integers(3, 48, length).tolist() for length in LENGTHS.get(folder.name, (9, 5, 1))
    ]
    without = [generate(model, prompt, []) for prompt in prompts]
    eos = [without[0][5], without[1][2]]
    return {
        "prompts": prompts,
        "completions": without,
        "eos": eos,
        "stopped": [generate(model, p, eos) for p in prompts],
    }


if __name__ == "__main__":
    folders = sorted(
        f
        for f in MODELS.iterdir()
        if f.is_dir() and not f.name.endswith("reward") and f.name not in SKIPPED
    )
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    cases = {folder.name: make(folder, seed) for seed, folder in enumerate(folders)}
    OUT.write_text(json.dumps({"versions": versions, "new_tokens": NEW, "cases": cases}) + "\n")
