"""Tokenizers of Hugging Face folders and hub ids, read by `PreTrainedTokenizerFast`."""

import contextlib
import inspect
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import tokenizers

from rlhf_jax.data.chat import quiet_transformers
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.json_files import read_object
from rlhf_jax.data.stops import read_generation

_HUB_PATTERNS = [
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "config.json",
    "generation_config.json",
]
_NEEDED = ("eos_token", "bos_token", "pad_token")


class TokenizerParts(NamedTuple):
    """What a folder says about its tokenizer."""

    backend: tokenizers.Tokenizer
    config: dict[str, Any]
    """tokenizer_config.json with the special tokens and chat templates that transformers finds in
    the folder's files."""
    generation: dict[str, Any]
    """See `read_generation`."""


@contextlib.contextmanager
def one_line_panics(doing: str) -> Iterator[None]:
    """Errors of the Rust library as `DataError`; its panics would pass `except Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise DataError(f"the tokenizer fails {doing}: {_short(error)}") from None


def read_folder(folder: pathlib.Path) -> TokenizerParts:
    """A folder's tokenizer: tokenizer.json, else converted from SentencePiece or a vocabulary.

    No code of the folder is run, and none of transformers' own tokenizer classes is used where
    there is a tokenizer.json: some of them change the text first (Qwen2's applies Unicode NFC).

    Raises:
        DataError: there is none, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    backend = _read_backend(path) if path.is_file() else None
    raw = {
        **read_object(folder / "special_tokens_map.json"),
        **read_object(folder / "tokenizer_config.json"),
    }
    generation = read_generation(folder)
    if backend is None:
        loaded = _convert(folder)
        raw = {"clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        loaded = _load(folder, backend, raw, generation)
    config = dict(raw)
    for name, text in loaded.special_tokens_map.items():
        if isinstance(text, str) and token_text(raw.get(name)) != text:
            config[name] = text
    # code is not copied, and tokenizer.json makes it needless
    for name in ("auto_map", "chat_template"):
        config.pop(name, None)
    if loaded.chat_template:
        config["chat_template"] = loaded.chat_template
    return TokenizerParts(loaded.backend_tokenizer, config, generation)


def _read_backend(path: pathlib.Path) -> tokenizers.Tokenizer:
    with one_line_panics(f"on {path}"):
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises bare Exception
            raise DataError(f"{path} cannot be read: {_short(error)}") from None


def _load(
    folder: pathlib.Path,
    backend: tokenizers.Tokenizer,
    raw: dict[str, Any],
    generation: dict[str, Any],
) -> Any:
    """What transformers makes of the folder, special tokens known to be in the vocabulary."""
    added = raw.get("added_tokens_decoder")
    texts = [token_text(value) for value in added.values()] if isinstance(added, dict) else []
    # transformers would give a token that is nowhere an id of its own, which no model embeds
    for name in _NEEDED:
        text = token_text(raw.get(name))
        if (
            isinstance(text, str)
            and text
            and backend.token_to_id(text) is None
            and text not in texts
        ):
            raise DataError(
                f"the tokenizer's {name} {text!r} is not in its vocabulary: correct "
                "tokenizer_config.json"
            )
    with one_line_panics(f"on {folder}"), quiet_transformers() as transformers:
        options = {
            name: value["content"] for name, value in raw.items() if _is_bare_token(name, value)
        }
        if not token_text(raw.get("eos_token")):
            options["eos_token"] = _missing_eos(folder, raw, generation, backend, transformers)
        try:
            loaded = transformers.PreTrainedTokenizerFast.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **options
            )
        except Exception as error:  # whatever transformers meets in files of any making
            raise DataError(f"the tokenizer in {folder} cannot be read: {_short(error)}") from None
    if backend.post_processor is None and not (
        raw.get("add_bos_token") or raw.get("add_eos_token")
    ):
        # transformers puts one there that does nothing; without it a saved folder reads back as
        # what was saved
        loaded.backend_tokenizer.post_processor = None
    return loaded


def _is_bare_token(name: str, value: Any) -> bool:
    """A special token as {"content": text} without the "__type" that transformers needs."""
    is_token = (
        name.endswith("_token")
        and isinstance(value, dict)
        and isinstance(value.get("content"), str)
    )
    return is_token and value.get("__type") != "AddedToken"


def _missing_eos(
    folder: pathlib.Path,
    raw: dict[str, Any],
    generation: dict[str, Any],
    backend: Any,
    transformers: ModuleType,
) -> str:
    """EOS where tokenizer_config.json names none (gpt2): of the model's files, or the class."""
    for token in generation.get("eos_token_id", []):
        text = backend.id_to_token(token)
        if text is not None:
            return text
    mapping = transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING_NAMES
    model_type = read_object(folder / "config.json").get("model_type")
    named = raw.get("tokenizer_class") or mapping.get(str(model_type))
    for name in (str(named), str(named).removesuffix("Fast")):
        known = vars(transformers).get(
            name
        ) or transformers.models.auto.tokenization_auto.tokenizer_class_from_name(name)
        if not inspect.isclass(known):
            continue
        parameter = inspect.signature(known.__init__).parameters.get("eos_token")
        text = None if parameter is None else token_text(parameter.default)
        if isinstance(text, str) and backend.token_to_id(text) is not None:
            return text
    raise DataError(
        "the tokenizer has no eos_token: add one to its tokenizer_config.json, or an eos_token_id "
        "to config.json"
    )


def _convert(folder: pathlib.Path) -> Any:
    if not any(
        any(folder.glob(pattern))
        for pattern in ("*.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
    ):
        raise DataError(
            f"{folder} holds no tokenizer: expected tokenizer.json (or a SentencePiece .model file)"
        )
    with one_line_panics(f"on {folder}"), quiet_transformers() as transformers:
        try:
            loaded = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            assert loaded.backend_tokenizer is not None
        except Exception as error:  # whatever transformers meets in files of any making
            mend = (
                "pip install sentencepiece protobuf"
                if any(folder.glob("*.model"))
                else "a tokenizer.json is needed"
            )
            raise DataError(
                f"transformers cannot convert the tokenizer in {folder} ({mend}): {_short(error)}"
            ) from None
    return loaded


def download(name: str) -> pathlib.Path:
    """Tokenizer files of a hub repository. Imports huggingface_hub: only this path needs it."""
    import huggingface_hub

    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise DataError(f"tokenizer folder {name} does not exist")
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_PATTERNS))
    # the hub client raises many kinds: offline, no such repository, gated, network
    except Exception as error:
        cause = type(error).__name__
        raise DataError(
            f"tokenizer {name!r} is neither a folder nor 'byte', and cannot be downloaded from the "
            f"hub ({cause}): give a folder, or check the name and the network"
        ) from None


def token_text(value: Any) -> Any:
    """The text of a special token (text, or {"content": text, ...}); else the value itself."""
    if isinstance(value, tokenizers.AddedToken):
        return value.content
    return value.get("content") if isinstance(value, dict) else value


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
