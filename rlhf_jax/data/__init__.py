"""Host side data: tokenizers, column formats, and batches with random access (NumPy, no device)."""

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.examples import ExampleSet, iterate_texts, load_examples
from rlhf_jax.data.kinds import Kind, PairExample, PromptExample, TextExample, TokenExample
from rlhf_jax.data.loader import Loader, make_loader
from rlhf_jax.data.messages import ChatOptions
from rlhf_jax.data.named_tokenizers import byte_tokenizer, load_tokenizer, train_tokenizer
from rlhf_jax.data.prefetch import prefetch
from rlhf_jax.data.prompts import PromptBatch, PromptLoader, make_prompt_loader
from rlhf_jax.data.stops import read_generation
from rlhf_jax.data.tokenizer import FastTokenizer, Tokenizer

__all__ = [
    "BadRow",
    "ChatOptions",
    "DataConfig",
    "DataError",
    "ExampleSet",
    "FastTokenizer",
    "Kind",
    "Loader",
    "PairExample",
    "PromptBatch",
    "PromptExample",
    "PromptLoader",
    "TextExample",
    "TokenExample",
    "Tokenizer",
    "byte_tokenizer",
    "iterate_texts",
    "load_examples",
    "load_tokenizer",
    "make_loader",
    "make_prompt_loader",
    "prefetch",
    "read_generation",
    "train_tokenizer",
]
