"""Every data option, in one frozen dataclass."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from rlhf_jax.checked import checked
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.messages import variables_fault

PLACE = "{prompt}"
"""Where the prompt goes in `data.prompt_template`."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows come from and how they become batches."""

    path: str
    """A file (.jsonl, .json, .csv, .parquet, the first three also .gz), a folder of them, a folder
    written by `Dataset.save_to_disk`, a hub name ("owner/name"), or generated data
    ("synthetic:arithmetic?noise=0.4", see `rlhf_jax.data.synthetic`). Rows that a program hands
    over, `rlhf_jax.train(..., data=rows)`, stand here as "<64 rows 3fa2b1c9d0e14f55>"."""
    split: str = "train"
    """Split of a hub dataset, of a saved `DatasetDict`, or of a folder whose files are named by
    split (train.jsonl, test-00000.parquet, ...). A single file, a saved `Dataset` and generated
    data have only "train"."""
    subset: str | None = None
    """Configuration name of a hub dataset ("main" of openai/gsm8k)."""
    data_dir: str | None = None
    """Folder inside a hub dataset ("harmless-base" of Anthropic/hh-rlhf)."""

    eval_path: str | None = None
    """Held-out rows from another file, folder or hub name."""
    eval_split: str | None = None
    """Held-out rows from this split (of `eval_path`, or of `path`), where the place has splits."""
    eval_fraction: float = 0.0
    """Held-out rows cut from `path`: this share of the rows, whole prompts at a time."""
    eval_size: int = 0
    """Held-out rows cut from `path`: at least this many rows, whole prompts at a time."""
    eval_seed: int = 0
    """Which prompts are held out. Separate from the training seed, so that runs with other seeds
    share the split."""

    format: Literal[
        "auto", "text", "messages", "prompt_completion", "unpaired", "preference", "prompt"
    ] = "auto"
    """Column format; "auto" looks at the columns and at what the algorithm needs."""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Ours -> theirs, when the columns have other names: `{prompt: question, completion: answer}`.
    Nested: "a.b"."""
    max_examples: int | None = None
    """Use only the first rows, for a quick try."""
    on_error: Literal["strict", "skip"] = "strict"
    """A bad row stops the run ("strict"), or is counted in the log and left out ("skip")."""

    transcript: bool = False
    """The texts are transcripts with turns of "\\n\\nHuman:" and "\\n\\nAssistant:" (hh-rlhf): make
    them conversations, for models that were trained with a chat template. Chosen and rejected have
    as prompt what they share, up to the answer in which they part (or the one before the question
    in which they do). A `text` is trained on all its answers; of a prompt of online algorithms an
    answer at its end is left out. Every text needs such a mark, except an answer behind a prompt;
    held-out rows stay the same."""
    prompt_template: str | None = None
    """Text around every prompt, such as "{prompt}\\nEnd with #### and the number.\\n": `{prompt}`
    is replaced by the prompt, or by the last user message of a conversation."""
    conversational: bool = False
    """Make plain prompts and answers a conversation (user, assistant), for models that were trained
    with a chat template. Texts that hold the marks of the chat template already are said, and need
    it false."""
    system_prompt: str | None = None
    """System message in front of every conversation that has none."""
    chat_template: str | None = None
    """Replaces the tokenizer's chat template: Jinja source or the path of a .jinja file."""
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the chat template sees besides the messages, such as `{enable_thinking: false}`. A row's
    column `chat_template_kwargs` adds to it, key by key."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Function schemas that the chat template shows to the model, for rows without a column
    `tools`."""
    append_eos: bool = True
    """End every completion (and every `text`) with EOS, unless it ends with one of the tokens that
    end an answer already."""
    train_on: Literal["completion", "all"] = "completion"
    """SFT only: "completion" trains on the answers, "all" on every token of prompt and answers
    (`text` rows always do)."""
    max_length: int = 1024
    """Tokens of a row at most, prompt and completion together. Online algorithms have
    `rollout.max_prompt_len` and `rollout.max_new_tokens` instead."""
    max_prompt_len: int | None = None
    """Tokens of the prompt at most; None: bounded by `max_length` alone. Offline algorithms
    only."""
    truncation: Literal["keep_end", "keep_start", "drop"] | None = None
    """What happens to rows that are too long. null: "keep_end" for rows with answers, "drop" for
    prompts (online algorithms). "keep_end": the prompt loses its start (down to half of
    `max_length`), then the completion its end; a conversation loses whole turns, then the start of
    its last message, never a header or the system message. Of several answers that do not fit even
    so, the later ones go first: the question stays whole where it fits with the first one.
    "keep_start": the row is cut at `max_length`. "drop": the row is left out. A row that cannot
    keep one token of its completion is always left out, and counted. Prompts without answers are
    left out under "keep_start"."""
    num_proc: int = 1
    """Processes for tokenisation (offline algorithms). One process already uses all cores inside
    the tokenizer; more help with slow chat templates."""

    shuffle: bool = True
    """Another order every epoch, from (seed, epoch); False: storage order."""
    packing: bool = False
    """SFT only: put several documents into one row of `max_length` (best fit decreasing), kept
    apart by segment ids."""
    num_buckets: int = 4
    """How many row lengths (compiled shapes) there are at most, chosen to waste the least
    padding."""
    pad_multiple: int = 16
    """Row lengths are multiples of this (128 suits TPU and GPU kernels), or `max_length` itself."""
    buckets: tuple[int, ...] = ()
    """Row lengths (online algorithms: prompt lengths) chosen by hand instead, ascending. These
    three shape rows of one example each; the rows of packed updates have widths of their own, and
    with `buckets` nothing is packed unless `training.pack` says so."""
    length_window: int = 32
    """Rows are shuffled, then sorted by length within windows of this many batches; 1 switches
    sorting off. Offline algorithms only."""

    def __post_init__(self) -> None:
        if not self.path:
            raise DataError(
                "data.path is empty: give a file, folder, hub name or 'synthetic:arithmetic'"
            )
        for field, least in (
            ("max_length", 2),
            ("num_proc", 1),
            ("num_buckets", 1),
            ("pad_multiple", 1),
            ("length_window", 1),
        ):
            if self.__dict__[field] < least:
                raise DataError(
                    f"data.{field} {self.__dict__[field]} is too small: at least {least}"
                )
        if self.max_prompt_len is not None and not 1 <= self.max_prompt_len < self.max_length:
            raise DataError(
                f"data.max_prompt_len {self.max_prompt_len} must be from 1 to max_length - 1 = "
                f"{self.max_length - 1}"
            )
        if self.max_examples is not None and self.max_examples < 1:
            raise DataError(f"data.max_examples {self.max_examples} must be at least 1")
        if not 0.0 <= self.eval_fraction < 1.0:
            raise DataError(
                f"data.eval_fraction {self.eval_fraction} must be from 0 up to, not including, 1"
            )
        if self.eval_size < 0:
            raise DataError(f"data.eval_size {self.eval_size} must not be negative")
        fault = variables_fault(self.chat_template_kwargs)
        if fault:
            raise DataError(f"data.chat_template_kwargs {fault}")
        if self.prompt_template is not None and PLACE not in self.prompt_template:
            raise DataError(
                f"data.prompt_template {self.prompt_template!r} has no {PLACE}, the place of the "
                "prompt"
            )
        self._check_eval()
        self._check_buckets()

    def _check_eval(self) -> None:
        sources = {
            "eval_path / eval_split": self.eval_path is not None or self.eval_split is not None,
            "eval_fraction": self.eval_fraction > 0,
            "eval_size": self.eval_size > 0,
        }
        given = [name for name, is_given in sources.items() if is_given]
        if len(given) > 1:
            raise DataError(
                f"data.{' and data.'.join(given)} exclude each other: keep one source of held-out "
                "rows"
            )

    def _check_buckets(self) -> None:
        if self.buckets and (
            list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 1
        ):
            raise DataError(
                f"data.buckets {list(self.buckets)} must be positive and strictly ascending"
            )
        if self.buckets and self.buckets[-1] < self.max_length:
            raise DataError(
                f"data.buckets {list(self.buckets)} end below max_length {self.max_length}: the "
                "last one must reach it"
            )

    @property
    def row_truncation(self) -> str:
        """What happens to rows with answers that are too long."""
        return self.truncation or "keep_end"

    @property
    def prompt_truncation(self) -> str:
        """What happens to prompts without answers that are too long."""
        return self.truncation or "drop"

    @property
    def has_eval(self) -> bool:
        """Whether held-out rows are configured at all."""
        named = self.eval_path is not None or self.eval_split is not None
        return named or self.eval_fraction > 0 or self.eval_size > 0
