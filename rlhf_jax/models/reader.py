"""Strict reading of config.json: every key is understood, known to be harmless, or an error."""

from collections.abc import Mapping
from typing import Any

from rlhf_jax.errors import RlhfError

_HARMLESS = frozenset(
    """architectures auto_map model_type transformers_version torch_dtype dtype use_cache
    initializer_factor pretraining_tp attention_dropout resid_pdrop embd_pdrop attn_pdrop
    hidden_dropout classifier_dropout id2label label2id num_labels problem_type
    finetuning_task task_specific_params tokenizer_class prefix sep_token_id
    decoder_start_token_id n_ctx reorder_and_upcast_attn cache_implementation
    gradient_checkpointing output_attentions output_hidden_states output_scores return_dict
    return_dict_in_generate chunk_size_feed_forward torchscript use_bfloat16 tf_legacy_loss
    attn_implementation summary_type summary_use_proj summary_activation
    summary_proj_to_labels summary_first_dropout do_sample max_length min_length temperature
    top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size num_beams
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences num_beam_groups
    diversity_penalty early_stopping forced_bos_token_id forced_eos_token_id
    remove_invalid_values suppress_tokens begin_suppress_tokens
    exponential_decay_length_penalty max_new_tokens unsloth_fixed unsloth_version""".split()
)
"""Keys that do not change the logits: bookkeeping, dropout, generation defaults of old files, class
heads we do not build."""

_HARMLESS_PREFIXES = ("_",)
_LAYER_COUNTS = ("num_hidden_layers", "n_layer")
MAX_LAYERS = 10_000


class ModelConfigError(RlhfError, ValueError):
    """A configuration that cannot be used: one line with the key, its value, what is supported."""

    exit_code = 4


class Reader:
    """Reads keys of a config.json and remembers which.

    Args:
      config: the parsed JSON.
      defaults: values of required keys that the family's class supplies.
    """

    def __init__(
        self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        self._config = config
        self._defaults = defaults or {}
        self._used = {"model_type"}
        self.model_type: str = config["model_type"]

    def get(self, key: str, default: Any = None) -> Any:
        """The value; `default` when the key is absent or null."""
        self._used.add(key)
        value = self._config.get(key)
        return default if value is None else value

    def nullable(self, key: str, default: Any) -> Any:
        """The value, null included; `default` only when the key is absent."""
        self._used.add(key)
        return self._config.get(key, default)

    def require(self, key: str) -> int:
        """The size; an error when there is none."""
        value = self.get(key, self._defaults.get(key))
        if value is None:
            raise ModelConfigError(
                f"{key!r} is missing from the configuration of model_type {self.model_type!r}"
            )
        # a tuple is made of it
        if key in _LAYER_COUNTS and isinstance(value, int) and value > MAX_LAYERS:
            raise ModelConfigError(f"{key}={_short(value)} must be at most {MAX_LAYERS}")
        return self._positive(key, value, int)

    def size(self, key: str, default: int) -> int:
        """`get` of a count or a width: 1 at least."""
        return self._positive(key, self.get(key, default), int)

    def positive(self, key: str, default: float) -> float:
        """`get` of a number above 0."""
        return self._positive(key, self.get(key, default), int | float)

    def cap(self, key: str, default: float | None) -> float | None:
        """`nullable` of a number above 0."""
        value = self.nullable(key, default)
        return None if value is None else self._positive(key, value, int | float)

    def share(self, whole: str, parts: str) -> int:
        """How much of the size `whole` each of `parts` has; an error when that is no integer."""
        size = self.require(whole)
        count = self.require(parts)
        if size % count:
            raise ModelConfigError(
                f"{whole}={size} is not a multiple of {parts}={count}: {whole}="
                f"{count * -(-size // count)} would be"
            )
        return size // count

    def integer(self, key: str, default: int) -> int:
        """`get` of an integer."""
        return self._checked(key, self.get(key, default), int)

    def number(self, key: str, default: float) -> float:
        """`get` of a number."""
        return float(self._checked(key, self.get(key, default), int | float))

    def mapping(self, key: str) -> dict[str, Any]:
        """`get` of an object; empty when absent or null."""
        return dict(self._checked(key, self.get(key, {}), Mapping))

    def use(self, key: str) -> None:
        """Marks a key as understood without reading it."""
        self._used.add(key)

    def expect(self, key: str, only: Any) -> None:
        """An error when the key is set to anything but `only`."""
        if self.get(key, only) != only:
            raise ModelConfigError(
                f"{key}={_short(self._config[key])} is not supported for model_type "
                f"{self.model_type!r}; supported: {only!r}"
            )

    def tokens(self) -> dict[str, Any]:
        """Special token ids and the initializer, as fields of `ModelConfig`."""
        eos = self.get("eos_token_id")
        return {
            "bos_token_id": self.get("bos_token_id"),
            "eos_token_id": tuple(eos) if isinstance(eos, list | tuple) else eos,
            "pad_token_id": self.get("pad_token_id"),
            "initializer_range": self.number("initializer_range", 0.02),
        }

    def _checked(self, key: str, value: Any, kind: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = {int: "an integer", Mapping: "an object"}.get(kind, "a number")
            raise ModelConfigError(f"{key}={_short(value)} must be {expected}")
        return value

    def _positive(self, key: str, value: Any, kind: Any) -> Any:
        # not `value <= 0`: NaN; as a float: an integer that is beyond all of them is an error too
        if not float(self._checked(key, value, kind)) > 0:
            raise ModelConfigError(f"{key}={_short(value)} must be positive")
        return value

    def finish(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Adds `lm_head` and checks that nothing was left unread.

        Raises:
          ModelConfigError: a set key that is neither understood nor harmless.
        """
        for key, value in self._config.items():
            if (
                key in self._used
                or key in _HARMLESS
                or key.startswith(_HARMLESS_PREFIXES)
                or not value
            ):
                continue
            raise ModelConfigError(
                f"{key}={_short(value)} in config.json is not supported for model_type "
                f"{self.model_type!r}; remove the key if it does not change the logits"
            )
        classifier = any(
            name.endswith("SequenceClassification")
            for name in self._config.get("architectures") or ()
        )
        return {**fields, "lm_head": not classifier}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
