"""Tokenizers: one class over the `tokenizers` library serves the built-in bytes, trained BPE and any Hugging Face folder.

Saved folders load in transformers (`AutoTokenizer`, `PreTrainedTokenizerFast`) and give the same ids. One exception is
theirs: in a folder whose `config.json` says `qwen2`, transformers 5 rebuilds its own Qwen2 class, which applies Unicode NFC
first; decomposed text (never NFC text) then differs. `PreTrainedTokenizerFast.from_pretrained` is exact there too.
"""

import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from rlhf_jax.data.chat import DEFAULT_CHAT_TEMPLATE, check_chat_template, render_chat
from rlhf_jax.data.errors import DataError

logger = logging.getLogger(__name__)

BOS, EOS, PAD = "<|bos|>", "<|endoftext|>", "<|pad|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|reserved|>")
"""Of the built-in tokenizers. 256 bytes + 8 = 264, divisible by 8, so that the vocabulary can be sharded."""

# Qwen2's pre-tokenizer: words with their leading space, single digits, punctuation runs, newlines.
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HUB_PATTERNS = [
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
]


class Tokenizer(Protocol):
    """What the library asks of a tokenizer."""

    eos_id: int
    bos_id: int | None
    pad_id: int
    vocab_size: int
    prefix_ids: list[int]
    """What `add_special_tokens=True` puts in front of a text (usually nothing or BOS)."""
    stop_ids: tuple[int, ...]
    """Every token that ends an answer, EOS first."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str: ...
    def save(self, path: str | pathlib.Path) -> None: ...
    def fingerprint(self) -> str: ...


class FastTokenizer:
    """A `tokenizers.Tokenizer` with the special tokens and the chat template of its `tokenizer_config.json`.

    Args:
        backend: the tokenizer proper (`tokenizer.json`).
        config: `tokenizer_config.json` as a dict; `eos_token` is required, `chat_template` defaults to
            `DEFAULT_CHAT_TEMPLATE`, a missing `pad_token` means EOS (masks come from lengths, so pad may equal EOS).
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any]):
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.config = {"chat_template": DEFAULT_CHAT_TEMPLATE, **config}
        self.special_tokens = {key: _token_text(value) for key, value in config.items() if key.endswith("_token") and value}
        self.special_tokens = {key: value for key, value in self.special_tokens.items() if isinstance(value, str)}
        if "eos_token" not in self.special_tokens:
            raise DataError("the tokenizer has no eos_token: add one to its tokenizer_config.json")
        self.eos_id = self._special_id("eos_token")
        self.bos_id = self._special_id("bos_token") if "bos_token" in self.special_tokens else None
        self.pad_id = self._special_id("pad_token") if "pad_token" in self.special_tokens else self.eos_id
        self.stop_ids: tuple[int, ...] = (self.eos_id,)
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        plain, special = backend.encode("a", add_special_tokens=False).ids, backend.encode("a", add_special_tokens=True).ids
        self.prefix_ids = special[: _find(special, plain)]
        check_chat_template(self.chat_template)

    @property
    def chat_template(self) -> str:
        """Jinja source."""
        return self.config["chat_template"]

    def with_chat_template(self, template: str) -> "FastTokenizer":
        """The same tokenizer with another chat template."""
        return FastTokenizer(self.backend, {**self.config, "chat_template": template})

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Text to ids. Special tokens written out in the text become their ids, as in transformers."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts at once, on all cores, without special tokens around them."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Ids to text. With the built-in bytes `decode(encode(text)) == text` for every string."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Renders messages to text; see `render_chat`."""
        return render_chat(
            self.chat_template,
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables={**self.special_tokens, **(template_kwargs or {})},
        )

    def save(self, path: str | pathlib.Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` (chat template included) into a folder."""
        folder = pathlib.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        text = json.dumps(self.config, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def fingerprint(self) -> str:
        """Hash of everything that decides about ids: vocabulary, rules, special tokens and chat template."""
        return _fingerprint(self)

    def _special_id(self, name: str) -> int:
        token = self.special_tokens[name]
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise DataError(f"the tokenizer's {name} {token!r} is not in its vocabulary: correct tokenizer_config.json")
        return token_id


@functools.lru_cache(maxsize=8)
def _fingerprint(tokenizer: FastTokenizer) -> str:
    config = json.dumps(tokenizer.config, sort_keys=True, default=str)
    return hashlib.sha256((tokenizer.backend.to_str() + "\0" + config).encode()).hexdigest()


def _token_text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _find(ids: list[int], part: list[int]) -> int:
    for start in range(len(ids) - len(part) + 1):
        if ids[start : start + len(part)] == part:
            return start
    return 0


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
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def byte_tokenizer() -> FastTokenizer:
    """The built-in byte-level tokenizer: id = byte for 0..255, then `SPECIAL_TOKENS`; needs no download.

    `decode(encode(text)) == text` for every string. BOS is never added by itself.
    """
    backend = tokenizers.Tokenizer(models.BPE(vocab=_byte_alphabet(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return FastTokenizer(backend, _builtin_config())


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> FastTokenizer:
    """Trains a byte-level BPE tokenizer: lossless on any text, special tokens and chat template as the built-in one.

    Args:
        texts: training texts, for example from `iterate_texts`.
        vocab_size: entries wanted, at least 264 (256 bytes and 8 special tokens). Fewer come out when the text is too small.
        min_frequency: a pair of tokens is merged only if it occurs this often.

    Raises:
        DataError: `vocab_size` is too small.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise DataError(f"vocab_size {vocab_size} is too small: a byte-level vocabulary needs at least {smallest}")
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
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = FastTokenizer(backend, _builtin_config())
    if tokenizer.vocab_size < vocab_size:
        logger.info("the text supports only %d of the %d tokens asked for", tokenizer.vocab_size, vocab_size)
    return tokenizer


def load_tokenizer(path: str | pathlib.Path | None = None, *, chat_template: str | None = None) -> FastTokenizer:
    """The built-in byte-level tokenizer, or one from a Hugging Face folder or hub id.

    Args:
        path: None or "byte" for the built-in one; a folder with `tokenizer.json`; a folder with a SentencePiece or
            vocabulary file only (converted by transformers, imported then); or a hub id (downloaded).
        chat_template: replaces the tokenizer's template: Jinja source, or the path of a `.jinja` file.

    Raises:
        DataError: the folder or hub id does not exist, or holds no tokenizer that can be read.
    """
    if path is None or str(path) == "byte":
        tokenizer = byte_tokenizer()
    else:
        folder = pathlib.Path(path) if pathlib.Path(path).is_dir() else _download(str(path))
        has_fast = (folder / "tokenizer.json").is_file()
        tokenizer = _read_folder(folder) if has_fast else _convert_folder(folder)
    return tokenizer if chat_template is None else tokenizer.with_chat_template(template_source(chat_template))


def template_source(template: str) -> str:
    """Jinja source, given as such or as the path of a .jinja file."""
    if not template.endswith((".jinja", ".jinja2", ".j2")):
        return template
    if not pathlib.Path(template).is_file():
        raise DataError(f"chat template file {template} does not exist")
    return pathlib.Path(template).read_text(encoding="utf-8")


def _read_folder(folder: pathlib.Path) -> FastTokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust library raises bare Exception
        raise DataError(f"{folder / 'tokenizer.json'} cannot be read: {' '.join(str(error).split())}") from None
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                config.update(json.loads((folder / name).read_text(encoding="utf-8")))
            except ValueError as error:
                raise DataError(f"{folder / name} is not valid JSON: {error}") from None
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    config["chat_template"] = template or DEFAULT_CHAT_TEMPLATE
    return FastTokenizer(backend, config)


def _convert_folder(folder: pathlib.Path) -> FastTokenizer:
    """A folder without tokenizer.json, through transformers (imported here: it takes seconds)."""
    if not any(any(folder.glob(pattern)) for pattern in ("*.model", "vocab.json", "vocab.txt", "tokenizer_config.json")):
        raise DataError(f"{folder} holds no tokenizer: expected tokenizer.json (or a SentencePiece .model file)")
    import transformers

    try:
        loaded = transformers.AutoTokenizer.from_pretrained(str(folder))
        backend = loaded.backend_tokenizer
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        mend = "pip install sentencepiece protobuf" if any(folder.glob("*.model")) else "a tokenizer.json is needed"
        raise DataError(f"transformers cannot convert the tokenizer in {folder} ({mend}): {cause}") from None
    config = {
        **{key: value for key, value in loaded.special_tokens_map.items() if isinstance(value, str)},
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": loaded.chat_template or DEFAULT_CHAT_TEMPLATE,
    }
    return FastTokenizer(backend, config)


def _download(name: str) -> pathlib.Path:
    """Tokenizer files of a hub repository (huggingface_hub is imported here: only this path needs it)."""
    import huggingface_hub

    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise DataError(f"tokenizer folder {name} does not exist")
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_PATTERNS))
    except Exception as error:
        cause = type(error).__name__
        raise DataError(
            f"tokenizer {name!r} is neither a folder nor 'byte', and cannot be downloaded from the hub ({cause}): "
            "give a folder, or check the name and the network"
        ) from None
