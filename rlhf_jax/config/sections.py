"""Sections of a run's configuration that belong to no lower layer: model, training, evaluation,
checkpoint, logging."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_jax.algorithms.directions import better
from rlhf_jax.checked import checked

TRAINED_TOKENIZER = re.compile(r"bpe:([1-9][0-9]*)")


@checked
@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Which model starts the run, and how it computes."""

    path: str | None = None
    """Hugging Face folder or hub id of the starting weights; or give `config`."""
    config: dict[str, Any] | None = None
    """Keys of a Hugging Face config.json (model_type, hidden_size, ...) for a model with random
    weights; or give `path`."""
    given: bool = False
    """The model is handed to `train(config, model=...)` as functions and parameters."""
    reference: str | None = None
    """Folder or hub id of the frozen reference (DPO, KTO; PPO and GRPO with a KL penalty); null:
    the starting weights."""
    critic: str | None = None
    """Folder or hub id that a separate critic of PPO starts from, such as the reward model; null:
    the starting weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which parameters are kept and updated."""
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of weights and activations in matrix products; null: `dtype`. Losses and statistics are
    float32 always."""
    remat: Literal[
        "auto", "none", "products", "dots", "dots_no_batch", "save_attention", "full"
    ] = "auto"
    """What each layer keeps for the backward pass. none: everything; products: matrix products and
    attention, while norms, activations and rotations are computed again; dots: results of matrix
    products; dots_no_batch: those without a batch dimension; save_attention: attention's output;
    full: nothing. auto: none where layers are unrolled, otherwise the first of products,
    save_attention, full that takes at most a quarter of a device's memory."""
    layers: Literal["auto", "scan", "unroll"] = "auto"
    """Layers in a compiled loop or unrolled; auto: a loop when the model is deep."""
    attention: Literal["auto", "blocked", "splash", "cudnn", "dot_product", "xla"] = "auto"
    """Attention implementation. blocked: for CPUs; splash: kernels for TPUs (rows a multiple of 128
    tokens); cudnn: flash attention for NVIDIA GPUs (compute_dtype=bfloat16); dot_product, xla:
    everywhere, all scores of a row in memory. auto: blocked on CPU, splash on TPU and cudnn on GPU
    where they can, else dot_product, or xla for a model with a softcap, and the log says why. One
    that is named and cannot is an error."""
    context: int | None = None
    """Longest row in tokens that longrope and dynamic NTK scalings are set for, the same for every
    row and width (vLLM's max_model_len); null: the run's longest row (data.max_length, online
    rollout.max_prompt_len + rollout.max_new_tokens)."""

    def __post_init__(self) -> None:
        if self.given and (self.path is not None or self.config is not None):
            raise ValueError("model.given=true and model.path or model.config: give one of them")
        if self.path is not None and self.config is not None:
            raise ValueError(
                f"model.path={self.path!r} and model.config are both given; set one of them to null"
            )


@checked
@dataclass(frozen=True, kw_only=True)
class EarlyStoppingConfig:
    """When a run ends before its last step: as soon as evaluations no longer improve."""

    metric: str | None = None
    """Evaluation metric that must improve, such as `loss/total`; null: `checkpoint.best_metric`."""
    mode: Literal["max", "min"] | None = None
    """Whether a large or a small value is good; null: by the metric's meaning, as
    `checkpoint.best_mode`."""
    patience: int = 3
    """Evaluations in a row without an improvement after which the run ends."""
    min_delta: float = 0.0
    """What the best value so far must be beaten by, to count as an improvement."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience={self.patience} must be at least 1 evaluation")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta={self.min_delta} must not be negative")
        if self.metric is not None and self.mode is None and better(self.metric) is None:
            raise ValueError(
                f"metric={self.metric!r} does not say whether a large or a small value is good; "
                "give mode=max or mode=min"
            )


@checked
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long to train, in which portions, and how often to look."""

    batch_size: int = 8
    """Rows (SFT, KTO), pairs (reward model, DPO) or prompts (PPO, GRPO, DAPO) per step, over all
    devices. A step of the online algorithms is one batch of rollouts, on which they make
    `algorithm.num_epochs` x `algorithm.num_minibatches` updates."""
    num_microbatches: int | Literal["auto"] = 1
    """Parts into which a batch (of the online algorithms: a minibatch of completions) is split to
    save memory; the gradient is the same. Packed rows are computed in parts of no more tokens.
    auto: as few as fit into the memory of a device, asked of the compiled update."""
    pack: bool | None = None
    """Put several sequences into one row of the update, so that padding is not computed; losses,
    gradients and metrics stay those of a row each. null: on CPUs, where it saves places; not with a
    model of your own, which must take the arguments of packed rows (`types.TokenLogpsFn`). A step
    has as many examples as without (`data.packing` of SFT fills rows with as many as fit)."""
    max_tokens_per_row: int | None = None
    """Width of packed rows, which it asks for; null: chosen from the lengths."""
    share_prompt: bool = True
    """Completions of one prompt that are packed into one row read it once (with
    `algorithm.num_minibatches` > 1 they are dealt apart, and each reads it)."""
    num_epochs: int = 1
    """Passes over the training data. Online: as many steps as would pass all prompts so often if
    each were trained on; dynamic sampling draws more (see the metric `data/epoch`)."""
    max_steps: int | None = None
    """Steps; when given, `num_epochs` is not used."""
    eval_every: int = 100
    """Steps between evaluations on the held-out split; 0: only before the first and after the last
    step."""
    eval_batch_size: int | None = None
    """Rows, pairs or prompts per evaluation batch; null: `batch_size` (online: as many as sample no
    more rows than a training batch)."""
    save_every: int = 100
    """Steps between checkpoints; 0: only after the last step."""
    save_before: str | None = None
    """Time after its start at which a session saves and ends as if it were interrupted, such as
    3h50m before a scheduler's limit of 4 hours: hours, minutes and seconds, as 3h50m, 90m or
    1h30m20s; null: none. Leave room for a step, an evaluation and the saving."""
    log_every: int = 1
    """Steps between rows in metrics.jsonl; a row holds the means since the one before (of counters
    and of the learning rate the last value). Every checkpoint and the last step have a row too."""
    compilation_cache: str | None = "auto"
    """Folder that keeps compiled programs for the next start: auto: JAX_COMPILATION_CACHE_DIR, else
    the user's cache folder (~/.cache/rlhf_jax/xla); null: nothing is kept."""
    max_nonfinite: int = 5
    """Updates (online: steps with all their updates) in a row that may be skipped because the loss
    or a gradient is not finite, before the run stops."""
    early_stopping: EarlyStoppingConfig | None = None
    """End before the last step when evaluations no longer improve; null: never. The run then is
    over, and the same command does not go on."""

    def __post_init__(self) -> None:
        at_least = {
            "batch_size": 1,
            "num_microbatches": 1,
            "num_epochs": 1,
            "max_steps": 1,
            "eval_batch_size": 1,
            "max_tokens_per_row": 1,
            "log_every": 1,
        }
        seconds_of("training.save_before", self.save_before)
        at_least |= {"eval_every": 0, "save_every": 0, "max_nonfinite": 0}
        for name, least in at_least.items():
            value = self.__dict__[name]
            if isinstance(value, int) and value < least:
                raise ValueError(f"training.{name}={value} must be at least {least}")

    @property
    def microbatches(self) -> int:
        """`num_microbatches` as a number, which a run has settled before it builds anything."""
        if self.num_microbatches == "auto":
            raise TypeError("training.num_microbatches=auto has not been settled")
        return self.num_microbatches


def seconds_of(key: str, text: str | None) -> float | None:
    """A time such as 3h50m in seconds; None stays None.

    Args:
      key: whose value it is.
      text: hours, minutes and seconds, largest first.

    Raises:
      ValueError: it is no time, or no time at all.
    """
    if text is None:
        return None
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    numbers = [int(part or 0) for part in parts.groups()] if parts else [0]
    if not any(numbers):
        raise ValueError(f"{key}={text!r} is no time: give hours, minutes and seconds, as in 3h50m")
    hours, minutes, seconds = numbers
    return 3600.0 * hours + 60.0 * minutes + seconds


@checked
@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the online algorithms are measured on held-out prompts: once greedily, and over several
    samples of each prompt."""

    samples: int = 4
    """Sampled completions per prompt, the k of mean@k, pass@k and maj@k (majority vote); 0: greedy
    completions only."""
    max_prompts: int | None = 256
    """Held-out prompts used, the first ones in storage order; null: all."""
    temperature: float | None = None
    """Temperature of the samples; null: `algorithm.temperature`."""
    top_p: float | None = None
    """Nucleus of the samples; null: `rollout.top_p`."""
    accuracy_reward: str | tuple[str, ...] | None = None
    """Names of the rewards that say right (> 0) or wrong, for every accuracy that is reported (DAPO
    trains by its own `algorithm.accuracy_reward`): a completion is judged by the first of them that
    grades it, and one that none of them grades is neither right nor wrong. null: DAPO's
    `algorithm.accuracy_reward`, or else the first of `rewards` (built-in ones for form, such as
    `format` and `length`, come last) and, of the others, each that grades nothing but what those
    before it leave ungraded: the verifier of another task."""
    reference: str | None = None
    """Hugging Face folder or hub id of a model, mostly the one the run starts from: the samples are
    scored by it too, and `kl/ref_sequence` says how far the policy has gone from it (nats per
    answer). It takes the memory of one more model. null: it is not measured."""

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(
                f"evaluation.samples={self.samples} must not be negative (0: greedy completions "
                "only)"
            )
        if self.max_prompts is not None and self.max_prompts < 1:
            raise ValueError(
                f"evaluation.max_prompts={self.max_prompts} must be at least 1, or null for all"
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(
                f"evaluation.temperature={self.temperature} must be above 0 (greedy completions "
                "are made anyway)"
            )
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                f"evaluation.top_p={self.top_p} must be above 0 and at most 1 (1 is off)"
            )
        if self.reference is not None and not self.samples:
            raise ValueError(
                f"evaluation.reference={self.reference} scores samples, and evaluation.samples=0 "
                "makes none"
            )


@checked
@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which checkpoints stay, and whether a run goes on from them."""

    keep_last: int = 2
    """Newest checkpoints to keep."""
    keep_every: int | None = None
    """Steps from one checkpoint that stays for good to the next: of every stretch of so many steps
    the first one saved is kept; null: none."""
    export_every: int | None = None
    """Steps between exports of the policy to RUN/exports/step_STEP while the run goes on (Hugging
    Face folders, as RUN/export at its end); null: none."""
    export_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of the weights in exports; null: `model.dtype`."""
    keep_best: int = 0
    """Checkpoints to keep beside them because their `best_metric` is best."""
    best_metric: str | None = None
    """Evaluation metric that decides, such as `rewards/accuracy` or `loss/total`. A checkpoint of
    which less than 90 % of the held-out completions could be graded is not ranked."""
    best_mode: Literal["max", "min"] | None = None
    """Whether a large or a small `best_metric` is good; null: by its meaning (losses, lengths,
    divergences, perplexity: small; rewards, accuracies: large)."""
    resume: Literal["auto", "never", "must"] = "auto"
    """auto: go on when run_dir holds this run; never: run_dir must be new; must: there has to be a
    checkpoint."""
    start_from: str | None = None
    """A new run goes on from this one, given as RUN or RUN@STEP: from its weights, optimizer state,
    random keys, KL coefficient, place in the data and carried-over groups, as far as they fit.
    Every change to the configuration is allowed, and listed in the log. Steps of the other run
    count in `training.max_steps` (but not in `num_epochs` over other data)."""

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(
                f"checkpoint.keep_last={self.keep_last} must be at least 1: the newest checkpoint "
                "is needed to resume"
            )
        for name in ("keep_every", "export_every"):
            value = self.__dict__[name]
            if value is not None and value < 1:
                raise ValueError(f"checkpoint.{name}={value} must be at least 1, or null")
        if self.keep_best < 0:
            raise ValueError(f"checkpoint.keep_best={self.keep_best} must not be negative")
        if self.keep_best and self.best_metric is None:
            raise ValueError(
                f"checkpoint.keep_best={self.keep_best} needs best_metric, for example "
                "best_metric=rewards/accuracy"
            )
        if (
            self.best_metric is not None
            and self.best_mode is None
            and better(self.best_metric) is None
        ):
            raise ValueError(
                f"checkpoint.best_metric={self.best_metric!r} does not say whether a large or a "
                "small value is good; "
                "give best_mode=max or best_mode=min"
            )

    @property
    def mode(self) -> Literal["max", "min"]:
        """`best_mode`, its default worked out; "max" where there is no `best_metric`."""
        return self.best_mode or better(self.best_metric or "") or "max"


@checked
@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where metrics go besides metrics.jsonl and log.txt, which are always written."""

    tensorboard: bool = True
    """Write TensorBoard events to run_dir/tensorboard."""
    wandb: bool = False
    """Send metrics to Weights & Biases (install the extra `wandb`)."""
    wandb_project: str = "rlhf_jax"
    """Project of the W&B run."""
    wandb_name: str | None = None
    """Name of the W&B run; null: the name of run_dir."""
    plot: bool = True
    """Draw the metrics to run_dir/metrics.png at the end."""
    completions: int = 3
    """Completions of each kind (training, held-out greedy and sampled) shown with all their rewards
    in the log at every evaluation: one right, one wrong, the others at random (online algorithms);
    0: none."""
    save_completions: Literal["none", "jsonl", "parquet"] = "parquet"
    """Format of run_dir/completions/ (online algorithms): everything that is generated, at training
    and evaluation, as one table that ``pandas.read_parquet("RUN/completions")`` reads; none: not
    written."""

    def __post_init__(self) -> None:
        if self.completions < 0:
            raise ValueError(f"logging.completions={self.completions} must not be negative")


def trained_vocab_size(tokenizer: str | None) -> int | None:
    """Vocabulary size in `bpe:SIZE`, or None when the tokenizer is not one to be trained."""
    match = TRAINED_TOKENIZER.fullmatch(tokenizer or "")
    return int(match[1]) if match else None
