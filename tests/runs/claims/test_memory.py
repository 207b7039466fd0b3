"""Memory by set-up: bytes a parameter are those of the arithmetic, and a compiled update needs
more."""

import pytest

from rlhf_jax.config import make_claims
from rlhf_jax.runs.claims import judge, tables
from rlhf_jax.runs.claims.memory import SetupMemory, by_setup, measure_setups, memory_findings

SETUPS = {
    "dpo": {"algorithm": {"name": "dpo"}},
    "dpo online": {"algorithm": {"name": "dpo", "reference": "online"}},
    "grpo": {"algorithm": {"name": "grpo", "group_size": 2}},
    "ppo shared": {
        "algorithm": {"name": "ppo", "group_size": 2, "critic": "shared"},
        "rewards": [{"function": "model", "options": {"path": "{model}"}}],
    },
    "ppo separate": {
        "algorithm": {"name": "ppo", "group_size": 2},
        "rewards": [{"function": "model", "options": {"path": "{model}"}}],
    },
}
BYTES = {"dpo": 16, "dpo online": 20, "grpo": 16, "ppo shared": 24, "ppo separate": 40}
"""A parameter, float32 with AdamW: 16 for what is trained, 4 for what is read."""


def tree(names=tuple(SETUPS), **memory):
    return {
        "setups": {
            "common": {
                "model": {
                    "config": {
                        "model_type": "qwen2",
                        "vocab_size": 320,
                        "hidden_size": 32,
                        "num_hidden_layers": 1,
                        "num_attention_heads": 2,
                        "num_key_value_heads": 1,
                        "intermediate_size": 64,
                        "max_position_embeddings": 64,
                        "tie_word_embeddings": True,
                    }
                },
                "tokenizer": "byte",
                "mesh": {"fsdp": 1},
                "data": {"path": "synthetic:arithmetic", "max_length": 16},
                "training": {"batch_size": 2, "max_steps": 1},
            },
            "prompts": {
                "rollout": {"max_prompt_len": 8, "max_new_tokens": 8},
                "rewards": [{"function": "exact_match"}],
            },
            "runs": [{"name": name, "config": SETUPS[name]} for name in names],
        },
        "claims": [
            {
                "name": "memory",
                "says": "so it is",
                "source": "somebody",
                "claimed": 0.3,
                "memory": {"setup": "dpo", "against": ["ppo shared"]} | memory,
            }
        ],
    }


@pytest.mark.slow
def test_bytes_a_parameter_are_those_of_the_arithmetic():
    setups = make_claims(tree()).setups
    found = {one.name: one for one in measure_setups(setups)}
    for name, expected in BYTES.items():
        # heads of one output, and counters of the optimizer, come on top
        assert found[name].bytes_a_parameter == pytest.approx(expected, rel=0.02), name
        assert found[name].measured > found[name].arithmetic - found[name].gradients
    assert found["dpo"].reference == found["dpo"].critic == found["dpo"].reward_models == 0
    assert found["ppo shared"].critic == 0 < found["ppo shared"].reward_models
    assert found["ppo separate"].critic == pytest.approx(found["dpo"].policy, rel=0.02)
    assert found["dpo online"].reference == found["dpo"].policy


@pytest.mark.slow
def test_a_claim_about_memory_is_judged_by_set_up():
    config = make_claims(tree(("dpo", "ppo shared")), ["claims[0].memory.bytes=arithmetic"])
    found = judge(config)
    (judged,) = found.judged
    assert judged.findings[0].value == pytest.approx(1 - 16 / 24, rel=0.02)
    assert judged.verdict == "holds against ppo shared"
    assert "| ppo shared | 4.0 |  | 4.0 | 8.0 | 4.0 | 4.0 | 24.0 |" in tables.as_markdown(found)


def setup(name, measured):
    return SetupMemory(name, 10, 40, 0, 0, 0, 40, 80, measured)


def test_the_verdict_names_the_set_ups_with_which_it_holds():
    asked = make_claims(
        tree(against=["ppo shared", "ppo separate", "grpo"], quantity="saving")
    ).claims[0]
    measured = [
        setup("dpo", 100), setup("ppo shared", 125), setup("ppo separate", 250), setup("grpo", 100),
    ]  # fmt: skip
    rows = memory_findings(0.3, asked.memory, measured)
    assert [row.value for row in rows] == pytest.approx([0.2, 0.6, 0.0])
    assert [row.verdict for row in rows] == ["direction only", "confirmed", "refuted"]
    assert {row.interval for row in rows} == {"exact"}
    assert by_setup(asked.memory, rows) == (
        "holds against ppo separate. Not against ppo shared (direction only); grpo (refuted)"
    )


def test_an_excess_is_a_share_of_the_smaller():
    asked = make_claims(tree(quantity="excess")).claims[0].memory
    (row,) = memory_findings(0.5, asked, [setup("dpo", 100), setup("ppo shared", 150)])
    assert row.value == pytest.approx(0.5) and row.verdict == "confirmed"
    assert row.note == "by arithmetic +0.0 %"
