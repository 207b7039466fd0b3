"""The one-line error of the configuration, and the nearest-match search behind its hints."""

import difflib
from collections.abc import Iterable

from rlhf_jax.errors import RlhfError

_OTHER_NAMES = {
    "optimizer.name": "optim",
    "optimizer.learning_rate": "lr learning_rate actor_learning_rate",
    "optimizer.schedule": "lr_scheduler_type",
    "optimizer.warmup_steps": "warmup_steps lr_warmup_steps",
    "optimizer.warmup_ratio": "warmup_ratio lr_warmup_steps_ratio",
    "optimizer.weight_decay": "weight_decay",
    "optimizer.max_grad_norm": "max_grad_norm grad_clip clip_grad",
    "algorithm.temperature": "temperature",
    "algorithm.group_size": "num_generations rollout_n n",
    "algorithm.kl_coef": "beta kl_loss_coef",
    "algorithm.clip_low": "epsilon clip_ratio clip_ratio_low cliprange",
    "algorithm.clip_high": "epsilon_high clip_ratio_high",
    "algorithm.gae_lambda": "lam",
    "algorithm.num_epochs": "num_iterations ppo_epochs num_ppo_epochs",
    "rollout.max_new_tokens": "max_completion_length max_response_length response_length "
    "max_new_tokens",
    "rollout.max_prompt_len": "max_prompt_length",
    "training.batch_size": "per_device_train_batch_size train_batch_size",
    "training.eval_batch_size": "per_device_eval_batch_size",
    "training.num_microbatches": "gradient_accumulation_steps",
    "training.num_epochs": "num_train_epochs total_epochs",
    "training.eval_every": "eval_steps test_freq",
    "training.save_every": "save_steps save_freq",
    "training.log_every": "logging_steps",
    "checkpoint.keep_last": "save_total_limit",
    "checkpoint.start_from": "resume_from_checkpoint",
    "checkpoint.best_metric": "metric_for_best_model",
    "data.max_length": "max_length max_seq_length",
    "data.train_on": "assistant_only_loss completion_only_loss",
    "data.path": "train_files dataset_name",
    "data.eval_path": "val_files",
    "model.path": "model_name_or_path",
    "model.remat": "gradient_checkpointing",
    "model.dtype": "torch_dtype",
    "model.attention": "attn_implementation",
    "rewards": "reward_funcs",
    "run_dir": "output_dir",
}
ELSEWHERE = {name: key for key, names in _OTHER_NAMES.items() for name in names.split()}
"""How TRL and verl call an option, and options that are looked for in another section -> its key
here. In front of what merely looks alike; a key that a run does not have is not offered."""


class ConfigError(RlhfError, ValueError):
    """A mistake in the configuration, in one line: key, value, what is allowed, nearest match,
    where it stands."""

    exit_code = 2


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like what the user wrote, or None when none does (below a
    similarity of 0.6).

    A dotted candidate is also compared by its last part, so that `beta` finds `algorithm.beta`.
    """

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()

    def similarity(candidate: str) -> float:
        last = ratio(word.rpartition(".")[2], candidate.rpartition(".")[2])
        return max(ratio(word, candidate), 0.9 * last)

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
