"""The supported architectures: how each reads and writes its config.json.

A family is one line of `FAMILIES`. Readers are strict: a key that is neither understood nor known
to leave the maths alone is an error, so that no setting of a checkpoint is ever ignored. Dropout is
never applied, whatever config.json says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_jax.models.hf_read import (
    read_gemma2,
    read_gemma3,
    read_gemma3_multimodal,
    read_gpt2,
    read_llama,
    read_qwen,
    read_windowed,
)
from rlhf_jax.models.hf_write import write_gemma2, write_gemma3, write_gpt2, write_phi3, write_rms
from rlhf_jax.models.reader import ModelConfigError


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
      title: models that use it, for people.
      causal: class name of the language model in transformers.
      classifier: class name of the scalar model in transformers.
      layout: how weights are named and fused on disk, a key of `names.LAYOUTS`.
      read: contents of config.json -> fields of `ModelConfig`.
      write: fields of `ModelConfig` -> contents of config.json.
    """

    title: str
    causal: str
    classifier: str
    layout: str
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[Mapping[str, Any]], dict[str, Any]]


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json.

    Raises:
      ModelConfigError: `model_type` is missing or not supported; the message lists the supported
        ones.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ModelConfigError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


FAMILIES: dict[str, Family] = {
    "llama": Family(
        "Llama 2, 3.x",
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        "llama",
        read_llama,
        write_rms,
    ),
    "qwen2": Family(
        "Qwen2, Qwen2.5",
        "Qwen2ForCausalLM",
        "Qwen2ForSequenceClassification",
        "llama",
        read_qwen,
        write_rms,
    ),
    "qwen3": Family(
        "Qwen3", "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "llama", read_qwen, write_rms
    ),
    "mistral": Family(
        "Mistral",
        "MistralForCausalLM",
        "MistralForSequenceClassification",
        "llama",
        read_windowed,
        write_rms,
    ),
    "gemma2": Family(
        "Gemma 2",
        "Gemma2ForCausalLM",
        "Gemma2ForSequenceClassification",
        "llama",
        read_gemma2,
        write_gemma2,
    ),
    "gemma3_text": Family(
        "Gemma 3 (text)",
        "Gemma3ForCausalLM",
        "Gemma3TextForSequenceClassification",
        "llama",
        read_gemma3,
        write_gemma3,
    ),
    "gemma3": Family(
        "Gemma 3 (multimodal: the text part)",
        "Gemma3ForConditionalGeneration",
        "Gemma3ForSequenceClassification",
        "llama",
        read_gemma3_multimodal,
        write_gemma3,
    ),
    "phi3": Family(
        "Phi-3, Phi-4",
        "Phi3ForCausalLM",
        "Phi3ForSequenceClassification",
        "phi3",
        read_windowed,
        write_phi3,
    ),
    "gpt2": Family(
        "GPT-2", "GPT2LMHeadModel", "GPT2ForSequenceClassification", "gpt2", read_gpt2, write_gpt2
    ),
}
"""`model_type` of config.json -> family."""
