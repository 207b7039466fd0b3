"""Tokenizers by name: the built-in bytes, a byte-level BPE trained on a text, or a folder's."""

import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from rlhf_jax.cloud import fetched
from rlhf_jax.data.chat import template_source
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.tokenizer_folder import download, read_folder

logger = logging.getLogger(__name__)

BOS = "<|bos|>"
EOS = "<|endoftext|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (
    BOS,
    EOS,
    PAD,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|reserved|>",
)
"""Of the built-in tokenizers. 256 bytes + 8 = 264, divisible by 8, so that the vocabulary can be
sharded."""

# Qwen2's pre-tokenizer: words with their leading space, single digits, punctuation runs, newlines.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _builtin_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte: character -> byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }


def byte_tokenizer() -> FastTokenizer:
    """The built-in byte-level tokenizer: id = byte for 0..255, then `SPECIAL_TOKENS`.

    `decode(encode(text)) == text` for every string. BOS is never added by itself.
    """
    backend = tokenizers.Tokenizer(models.BPE(vocab=_byte_alphabet(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return FastTokenizer(backend, _builtin_config())


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2
) -> FastTokenizer:
    """Trains a byte-level BPE tokenizer: lossless, tokens and chat template as the built-in one.

    Args:
        texts: training texts, for example from `iterate_texts`.
        vocab_size: entries wanted, at least 264 (256 bytes and 8 special tokens). Fewer come out
          when the text is too small.
        min_frequency: a pair of tokens is merged only if it occurs this often.

    Raises:
        DataError: `vocab_size` is too small.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise DataError(
            f"vocab_size {vocab_size} is too small: a byte-level vocabulary needs at least "
            f"{smallest}"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[
            AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = FastTokenizer(backend, _builtin_config())
    if tokenizer.vocab_size < vocab_size:
        logger.info(
            "the text supports only %d of the %d tokens asked for", tokenizer.vocab_size, vocab_size
        )
    return tokenizer


def load_tokenizer(
    path: str | pathlib.Path | None = None, *, chat_template: str | None = None
) -> FastTokenizer:
    """The built-in byte-level tokenizer, or one from a Hugging Face folder or hub id.

    Args:
        path: None or "byte" for the built-in one; a folder with `tokenizer.json`; a folder with a
            SentencePiece or vocabulary file only (converted by transformers); or a hub id
            (downloaded). No code of the folder is run.
        chat_template: replaces the tokenizer's template: Jinja source, or the path of a `.jinja`
          file.

    Raises:
        DataError: the folder or hub id does not exist, or holds no tokenizer that can be read.
    """
    if path is None or str(path) == "byte":
        tokenizer = byte_tokenizer()
    else:
        folder = fetched(path, "tokenizer")
        tokenizer = FastTokenizer(*read_folder(folder if folder.is_dir() else download(str(path))))
    if chat_template is None:
        return tokenizer
    return tokenizer.with_chat_template(template_source(chat_template))
