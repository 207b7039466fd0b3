"""Every option of generation, in one frozen dataclass."""

import dataclasses

from rlhf_jax.checked import checked
from rlhf_jax.sharding import MeshConfig


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How completions are sampled. The temperature is the algorithm's (`algorithm.temperature`)."""

    max_new_tokens: int = 512
    """Tokens of a completion at most, its stop included. One that ends here without a stop is
    truncated."""
    max_prompt_len: int = 512
    """Tokens of a prompt at most."""
    prompts_per_batch: int | None = None
    """Prompts per generation batch; null: `training.batch_size`."""
    top_p: float = 1.0
    """Sample only from the fewest most likely tokens whose probabilities reach this sum; 1 is
    off."""
    top_k: int = 0
    """Sample only from this many most likely tokens; 0 is off."""
    min_p: float = 0.0
    """Sample only from tokens at least this share as likely as the likeliest; 0 is off."""
    slots: int | None = None
    """Completions that decode at the same time. A slot that becomes free takes the next waiting
    completion, so that short ones do not wait for the longest; null: all of a batch at once, with
    no refilling."""
    chunk: int = 16
    """Tokens decoded in one go. Finished completions are noticed, and slots refilled, between two
    of these."""
    stop: tuple[str, ...] = ()
    """What else ends a completion, besides the tokenizer's EOS and the tokens that
    generation_config.json and config.json name: tokens ("<|im_end|>") and texts ("\\n\\n",
    "Question:"), which end it with the token that completes them. Rewards see the completion
    without its stop; all of it is trained on. Texts are looked for every `chunk` tokens, in the
    slots' programs."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text that rewards see; false where a reward looks for tags
    that are special tokens ("<think>" of some models). The stop that ends a completion is left out
    either way."""
    record: str | None = None
    """Folder to which every training batch is written as the update gets it (arrays, after
    scoring), a file per step."""
    replay: str | None = None
    """Folder of `record` whose batches the updates get, in place of sampling, grading and scoring:
    to debug an update, to time it alone, to report a fault."""
    mesh: MeshConfig | None = None
    """The layout of the parameters for generation, such as {data: 8, tensor: 8}; null: that of
    training, or where `mesh.fsdp` divides the weights, which every token would gather, one that is
    chosen from heads, bytes and memory and told in the log. Give the training mesh to keep it."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_prompt_len", "chunk"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.record is not None and self.replay is not None:
            raise ValueError(
                f"record={self.record!r} and replay={self.replay!r}: what is replayed is recorded "
                "already"
            )
        for name in ("prompts_per_batch", "slots"):
            value = self.__dict__[name]
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1, or null")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1 (1 is off)")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must not be negative (0 is off)")
        if not 0.0 <= self.min_p < 1.0:
            raise ValueError(f"min_p={self.min_p} must be at least 0 and below 1 (0 is off)")
        if "" in self.stop:
            raise ValueError(
                "stop lists an empty text, which would end every completion at once; leave it out"
            )
