"""Tokenizers: one class for built-in bytes, trained BPE and any Hugging Face folder.

Folders are read, and chats rendered, by transformers (`tokenizer_folder`, `chat`), imported where
that is asked for. Saved folders load in transformers (`AutoTokenizer`, `PreTrainedTokenizerFast`)
and give the same ids. One exception is theirs: in a folder whose `config.json` says `qwen2`,
transformers 5 rebuilds its own Qwen2 class, which applies Unicode NFC first; decomposed text (never
NFC text) then differs. `PreTrainedTokenizerFast.from_pretrained` is exact there too.
"""

import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken

from rlhf_jax.data.chat import DEFAULT_CHAT_TEMPLATE, check_chat_template, render_chat
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.stops import first_stop, listed_ids, listed_strings, make_string_end
from rlhf_jax.data.tokenizer_folder import one_line_panics, token_text

logger = logging.getLogger(__name__)


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
    """A `tokenizers.Tokenizer` with the special tokens, chat templates and stops of its folder.

    Args:
        backend: the tokenizer proper (`tokenizer.json`). It is changed: no padding, no truncation,
            and the special tokens of `config` become added tokens of it, as transformers makes them
            when it reads the saved folder.
        config: `tokenizer_config.json` as a dict; `eos_token` is required, `chat_template` defaults
            to `DEFAULT_CHAT_TEMPLATE`, a missing `pad_token` means EOS (masks come from lengths, so
            pad may equal EOS). `stop_strings` are texts that end an answer besides those of
            `generation`.
        generation: `generation_config.json` as a dict: `eos_token_id` names further tokens that end
            an answer; its sampling defaults are kept for exports.

    Attributes:
        stop_ids: every token that ends an answer, EOS first; those of `generation` that no token
          has are left out.
        stop_strings: texts that end an answer, whatever tokens they are made of.
        special_tokens: "eos_token" -> text, ...
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
    ):
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.config = {"chat_template": DEFAULT_CHAT_TEMPLATE, **config}
        self.generation = dict(generation or {})
        tokens = {
            name: token_text(value) for name, value in config.items() if name.endswith("_token")
        }
        self.special_tokens = {
            name: text for name, text in tokens.items() if isinstance(text, str) and text
        }
        if "eos_token" not in self.special_tokens:
            raise DataError("the tokenizer has no eos_token: add one to its tokenizer_config.json")
        self.eos_id = self._special_id("eos_token")
        self.bos_id = self._special_id("bos_token") if "bos_token" in self.special_tokens else None
        self.pad_id = (
            self._special_id("pad_token") if "pad_token" in self.special_tokens else self.eos_id
        )
        self._add_special_tokens()
        self._ids = frozenset(backend.get_vocab(with_added_tokens=True).values())
        self._special = frozenset(
            token for token, added in backend.get_added_tokens_decoder().items() if added.special
        )
        self.vocab_size = max(self._ids) + 1
        named = [self.eos_id, *listed_ids(self.generation, "generation_config.json")]
        self.stop_ids: tuple[int, ...] = tuple(
            dict.fromkeys(token for token in named if token in self._ids)
        )
        strings = [self.generation.get("stop_strings"), self.config.get("stop_strings")]
        self.stop_strings = tuple(
            dict.fromkeys(text for value in strings for text in listed_strings(value))
        )
        plain = self.encode("a")
        special = self.encode("a", add_special_tokens=True)
        self.prefix_ids = special[: _find(special, plain)]
        self._templates = _named_templates(self.config["chat_template"])
        if self._templates != {"default": DEFAULT_CHAT_TEMPLATE}:  # checking imports transformers
            for template in self._templates.values():
                check_chat_template(template)

    def __reduce__(self) -> tuple[Any, ...]:
        return FastTokenizer, (self.backend, self.config, self.generation)

    @property
    def chat_template(self) -> str:
        """Jinja source."""
        return self._templates["default"]

    def template_for(self, tools: object) -> str:
        """The template of a conversation: the folder's "tool_use" where there are tools."""
        return self._templates[
            "tool_use" if tools is not None and "tool_use" in self._templates else "default"
        ]

    def with_chat_template(self, template: str) -> "FastTokenizer":
        """The same tokenizer with another chat template."""
        return FastTokenizer(
            self.backend, {**self.config, "chat_template": template}, self.generation
        )

    def with_stops(
        self, stops: Sequence[str] = (), *, generation: Mapping[str, Any] | None = None
    ) -> "FastTokenizer":
        """The same tokenizer with further stops.

        Args:
            stops: texts, as `rollout.stop`. One that is a token is added to `stop_ids`: as it
                stands in the vocabulary, or as the one token that the text is encoded to. It is a
                stop string as well where its text may come in another way (a newline in a token of
                two newlines). A text of several tokens is a stop string.
            generation: of another folder, that of the model (`read_generation`): its tokens that
                this tokenizer has, and its sampling defaults.
        """
        if not stops and not generation:
            return self
        merged = {**(generation or {}), **self.generation}
        named = [*self.stop_ids, *listed_ids(generation or {}, "generation_config.json")]
        strings = list(listed_strings(self.config.get("stop_strings")))
        added = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        for text in stops:
            encoded = self.encode(text)
            token = self.backend.token_to_id(text)
            if token is not None and (text in added or encoded != [token]):
                named.append(token)
                continue
            if len(encoded) == 1 and self.decode(encoded) == text:
                named += encoded
                if len(text.encode()) == 1 and not self._elsewhere(text, encoded[0]):
                    continue
            strings.append(text)
        config = (
            {**self.config, "stop_strings": list(dict.fromkeys(strings))}
            if strings
            else self.config
        )
        return FastTokenizer(
            self.backend, config, {**merged, "eos_token_id": list(dict.fromkeys(named))}
        )

    def without_stops(self) -> "FastTokenizer":
        """The same tokenizer with EOS as its only stop, without sampling defaults of a folder."""
        return FastTokenizer(
            self.backend,
            {name: value for name, value in self.config.items() if name != "stop_strings"},
        )

    def _elsewhere(self, text: str, token: int) -> bool:
        """Whether another token contains a text, as decoded or as it stands in the vocabulary."""
        ids = [other for other in self._ids - self._special if other != token]
        decoded = self.backend.decode_batch([[other] for other in ids], skip_special_tokens=True)
        # SentencePiece's space
        pieces = (str(self.backend.id_to_token(other)).replace("\u2581", " ") for other in ids)
        return any(text in part for part in (*decoded, *pieces))

    def missing_ids(self, vocab_size: int) -> tuple[int, ...]:
        """Ids below `vocab_size` (rows of an embedding) without a token: never to be sampled."""
        return tuple(token for token in range(vocab_size) if token not in self._ids)

    def string_end(self) -> Callable[[Sequence[int], int], int | None] | None:
        """The search for `stop_strings` in a growing completion (`make_string_end`); None: none."""
        plain, marked = self._split_strings()
        parts = (
            make_string_end(plain, functools.partial(self.decode, skip_special_tokens=True)),
            make_string_end(marked, self.decode),
        )
        searches = [part for part in parts if part is not None]

        def end(ids: Sequence[int], searched: int) -> int | None:
            return min(
                (found for search in searches if (found := search(ids, searched)) is not None),
                default=None,
            )

        return end if searches else None

    def _split_strings(self) -> tuple[list[str], list[str]]:
        """Stop strings without and with a special token in them, which calls do not show."""
        special = [str(self.backend.id_to_token(token)) for token in self._special]
        marked = [string for string in self.stop_strings if any(text in string for text in special)]
        return [string for string in self.stop_strings if string not in marked], marked

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Text to ids. Special tokens written out in it become their ids, as in transformers."""
        with one_line_panics("to encode a text"):
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts at once, on all cores, without special tokens around them."""
        with one_line_panics("to encode a text"):
            return [
                part.ids
                for part in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            ]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Ids to text. With the built-in bytes `decode(encode(text)) == text` for every string."""
        with one_line_panics("to decode ids"):
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def decode_answer(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of a completion without the stop that ended it: its last token, or a stop string."""
        ids = list(ids)
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        if not self.stop_strings:
            return self.decode(ids, skip_special_tokens=skip_special_tokens)
        strings, marked = self._split_strings()
        plain = self.decode(ids, skip_special_tokens=True)
        whole = self.decode(ids)
        where = first_stop(plain, strings)
        if where is not None:
            # the same end in both texts, but for special tokens within the stop
            behind = len(plain) - where
            return plain[:where] if skip_special_tokens else whole[: len(whole) - behind]
        where = first_stop(whole, marked)
        if skip_special_tokens:
            return plain if where is None else _without(whole[:where], self.backend)
        return whole[:where]

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Renders messages to text; see `render_chat` and `template_for`."""
        return render_chat(
            self.template_for(tools),
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables={**self.special_tokens, **(template_kwargs or {})},
        )

    def generation_config(self) -> dict[str, Any]:
        """generation_config.json of this tokenizer: the folder's sampling defaults, every stop."""
        stops = {
            "eos_token_id": list(self.stop_ids),
            "bos_token_id": self.bos_id,
            "pad_token_id": self.pad_id,
        }
        return {
            **self.generation,
            **{name: value for name, value in stops.items() if value is not None},
        }

    def save(self, path: str | pathlib.Path) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`."""
        folder = pathlib.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with one_line_panics(f"to write {folder}"):
            self.backend.save(str(folder / "tokenizer.json"))
        config = dict(self.config)
        if isinstance(config["chat_template"], Mapping):  # the form of the file
            config["chat_template"] = [
                {"name": k, "template": v} for k, v in config["chat_template"].items()
            ]
        for name, contents in (
            ("tokenizer_config", config),
            ("generation_config", self.generation_config()),
        ):
            text = json.dumps(contents, indent=2, ensure_ascii=False, sort_keys=True)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    def fingerprint(self) -> str:
        """Hash of what decides about ids: vocabulary, rules, special tokens, template, stops."""
        return _fingerprint(self)

    def _add_special_tokens(self) -> None:
        """What is only a word would be found by other rules after saving and reading back."""
        added = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        known = {
            text
            for text in self.special_tokens.values()
            if self.backend.token_to_id(text) is not None
        }
        missing = [
            AddedToken(text, special=True, normalized=False) for text in sorted(known - added)
        ]
        if missing:
            self.backend.add_special_tokens(missing)

    def _special_id(self, name: str) -> int:
        token = self.special_tokens[name]
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise DataError(
                f"the tokenizer's {name} {token!r} is not in its vocabulary: correct "
                "tokenizer_config.json"
            )
        return token_id


@functools.lru_cache(maxsize=8)
def _fingerprint(tokenizer: FastTokenizer) -> str:
    config = json.dumps([tokenizer.config, tokenizer.stop_ids], sort_keys=True, default=str)
    return hashlib.sha256((tokenizer.backend.to_str() + "\0" + config).encode()).hexdigest()


def _named_templates(value: Any) -> dict[str, str]:
    """The default chat template and those with a name (`DEFAULT_CHAT_TEMPLATE` without one)."""
    if isinstance(value, list):
        value = {
            entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)
        }
    named = dict(value) if isinstance(value, Mapping) else {"default": value}
    for template in named.values():
        if not isinstance(template, str):
            raise DataError(
                f"chat_template of the tokenizer is a {type(template).__name__}, expected Jinja "
                "source"
            )
    return {"default": DEFAULT_CHAT_TEMPLATE, **named}


def _without(text: str, backend: tokenizers.Tokenizer) -> str:
    """A text without the special tokens in it."""
    for token in backend.get_added_tokens_decoder().values():
        text = text.replace(token.content, "") if token.special else text
    return text


def _find(ids: list[int], part: list[int]) -> int:
    for start in range(len(ids) - len(part) + 1):
        if ids[start : start + len(part)] == part:
            return start
    return 0
