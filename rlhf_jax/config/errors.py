"""The one-line error of the configuration, and the nearest-match search behind its hints."""

import difflib
from collections.abc import Iterable

ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "actor_learning_rate": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule",
    "warmup_steps": "optimizer.warmup_steps",
    "lr_warmup_steps": "optimizer.warmup_steps",
    "warmup_ratio": "optimizer.warmup_ratio",
    "lr_warmup_steps_ratio": "optimizer.warmup_ratio",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
    "grad_clip": "optimizer.max_grad_norm",
    "clip_grad": "optimizer.max_grad_norm",
    "optim": "optimizer.name",
    "temperature": "algorithm.temperature",
    "num_generations": "algorithm.group_size",
    "rollout_n": "algorithm.group_size",
    "n": "algorithm.group_size",
    "beta": "algorithm.kl_coef",
    "kl_loss_coef": "algorithm.kl_coef",
    "epsilon": "algorithm.clip_low",
    "epsilon_high": "algorithm.clip_high",
    "clip_ratio": "algorithm.clip_low",
    "clip_ratio_low": "algorithm.clip_low",
    "clip_ratio_high": "algorithm.clip_high",
    "cliprange": "algorithm.clip_low",
    "lam": "algorithm.gae_lambda",
    "num_iterations": "algorithm.num_epochs",
    "ppo_epochs": "algorithm.num_epochs",
    "num_ppo_epochs": "algorithm.num_epochs",
    "max_completion_length": "rollout.max_new_tokens",
    "max_response_length": "rollout.max_new_tokens",
    "response_length": "rollout.max_new_tokens",
    "max_new_tokens": "rollout.max_new_tokens",
    "max_prompt_length": "rollout.max_prompt_len",
    "per_device_train_batch_size": "training.batch_size",
    "train_batch_size": "training.batch_size",
    "per_device_eval_batch_size": "training.eval_batch_size",
    "gradient_accumulation_steps": "training.num_microbatches",
    "num_train_epochs": "training.num_epochs",
    "total_epochs": "training.num_epochs",
    "eval_steps": "training.eval_every",
    "test_freq": "training.eval_every",
    "save_steps": "training.save_every",
    "save_freq": "training.save_every",
    "logging_steps": "training.log_every",
    "save_total_limit": "checkpoint.keep_last",
    "resume_from_checkpoint": "checkpoint.start_from",
    "metric_for_best_model": "checkpoint.best_metric",
    "max_length": "data.max_length",
    "max_seq_length": "data.max_length",
    "assistant_only_loss": "data.train_on",
    "completion_only_loss": "data.train_on",
    "train_files": "data.path",
    "val_files": "data.eval_path",
    "dataset_name": "data.path",
    "model_name_or_path": "model.path",
    "output_dir": "run_dir",
    "gradient_checkpointing": "model.remat",
    "torch_dtype": "model.dtype",
    "attn_implementation": "model.attention",
    "reward_funcs": "rewards",
}
"""How TRL and verl call an option, and options that are looked for in another section -> its key
here. In front of what merely looks alike; a key that a run does not have is not offered."""


class ConfigError(ValueError):
    """A mistake in the configuration, in one line: key, value, what is allowed, nearest match,
    where it stands."""


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like `word`, or None when none does.

    A dotted candidate is also compared by its last part, so that `beta` finds `algorithm.beta`.

    Args:
        word: what the user wrote.
        candidates: what would have been accepted.

    Returns:
        One of the candidates, or None below a similarity of 0.6.
    """
    last = word.rpartition(".")[2]

    def similarity(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, word.lower(), candidate.lower()).ratio()
        part = difflib.SequenceMatcher(
            None, last.lower(), candidate.rpartition(".")[2].lower()
        ).ratio()
        return max(whole, 0.9 * part)

    best = max(candidates, key=similarity, default=None)
    return best if best is not None and similarity(best) >= 0.6 else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or an empty string when nothing is near."""
    candidates = list(candidates)
    alias = ELSEWHERE.get(word.rpartition(".")[2].lower())
    match = alias if alias in candidates else nearest(word, candidates)
    return f"; did you mean {match!r}?" if match is not None else ""


def one_line(error: BaseException | str) -> str:
    """An error's text with line breaks and runs of blanks folded into single spaces."""
    return " ".join(str(error).split())
