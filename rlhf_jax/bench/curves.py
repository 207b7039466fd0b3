"""Curves of SFT, reward model, DPO and GRPO beside TRL's: same folder, same rows in the same order.

    rlhf-jax bench --curves --python PYTHON_WITH_TRL --output FOLDER
    rlhf-jax bench --curves sft dpo --model MODEL_FOLDER --rows PAIRS_JSONL --steps 50

Float32, AdamW at a constant rate, clipping at norm 1.0, no dropout; DPO's reference computed
beforehand, beta 0.1. The rows are pairs (`prompt`, `chosen`, `rejected`), of which SFT learns the
chosen answer; those that are left after the training rows are held out. A reward model's head is
drawn once and both sides load it. Without `--model` and `--rows`: a model of 0.9M parameters and
pairs of random words. Of a given model both sides load a copy whose rows end alike on both
(`ending_alike`), and pairs of more than 256 tokens are left out: TRL's reward model skips them.

GRPO and its relatives are compared on the completions that ours sampled (`online_runs`), by the
norm of the gradient: their loss is about 0 whatever is learnt. They sample from random letters;
`--rows` is not read.

The difference of a step is |ours - TRL's| by |TRL's|, or by a hundredth of the mean of TRL's curve
where a loss is smaller than that (hinge may be 0).
"""

import argparse
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhf_jax.bench import online_runs
from rlhf_jax.bench.dpo_equivalence import export_start, write_pairs
from rlhf_jax.bench.offline_runs import Run, run_ours, run_trl
from rlhf_jax.bench.online_runs import FAMILY
from rlhf_jax.data import load_tokenizer
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.models import load_pretrained, save_pretrained

TOLERANCE = 1e-3
HELD_OUT = 64
"""Most held-out rows."""
BATCH_SIZE = 4
MAX_LENGTH = 256
COMPARED: dict[str, dict[str, object]] = {
    "sft": {},
    "reward_model": {},
    "dpo": {},
    "dpo-ipo": {"loss_type": "ipo"},
    "dpo-hinge": {"loss_type": "hinge"},
    "dpo-robust": {"loss_type": "robust", "label_smoothing": 0.1},
    "dpo-apo_zero": {"loss_type": "apo_zero"},
    "dpo-sppo_hard": {"loss_type": "sppo_hard"},
    **dict.fromkeys(FAMILY, {}),
}
"""Name -> options of DPO; the name begins with the algorithm."""


class Curves(NamedTuple):
    """Both sides of one comparison."""

    name: str
    ours: Run
    theirs: Run

    @property
    def quantity(self) -> str:
        """What is compared."""
        return "gradient norm" if self.name in FAMILY else "loss"

    @property
    def differences(self) -> np.ndarray:
        """Relative difference of every step."""
        ours = np.array(self.ours.losses)
        theirs = np.array(self.theirs.losses)
        scale = np.maximum(np.abs(theirs), 0.01 * np.mean(np.abs(theirs)))
        return np.abs(ours - theirs) / scale

    @property
    def passed(self) -> bool:
        """Whether every step agrees; NaN does not."""
        return bool(np.max(self.differences) <= TOLERANCE)

    def plain(self) -> dict[str, Any]:
        """What JSON holds."""
        return {
            "quantity": self.quantity,
            "largest_difference": float(np.max(self.differences)),
            "passed": self.passed,
            "rlhf_jax": self.ours._asdict(),
            "TRL": self.theirs._asdict(),
        }


def measure(
    names: Sequence[str],
    *,
    python: str,
    model: pathlib.Path | None = None,
    rows: pathlib.Path | None = None,
    steps: int = 100,
    learning_rate: float = 1e-4,
    threads: int = 2,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Curves]:
    """Trains both sides, one after the other.

    Args:
      names: of `COMPARED`; none: all.
      python: interpreter that has torch and trl.
      model: Hugging Face folder; None: a small random model.
      rows: JSONL of pairs; None: random words.
      steps: of training, 4 rows each.
      learning_rate: constant.
      threads: of every side.
      tell: gets a line before each comparison.

    Yields:
      Each comparison as it ends.

    Raises:
      ValueError: a name that is not compared, or too few rows.
    """
    for name in names:
        if name not in COMPARED:
            raise ValueError(f"--curves has no {name!r}; it has {', '.join(COMPARED)}")
    if steps < 1:
        raise ValueError(f"--steps={steps} must be at least 1")
    count = steps * BATCH_SIZE
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if rows is None:
            rows = write_pairs(folder / "pairs.jsonl", count + HELD_OUT)
        start = folder / "start"
        if model is None:
            export_start(start)
        else:
            ending_alike(model, start)
        pairs = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
        tokenizer = load_tokenizer(start)
        pairs = [pair for pair in pairs if longest(tokenizer, pair) <= MAX_LENGTH]
        if len(pairs) <= count:
            raise ValueError(
                f"--rows={rows} has {len(pairs)} pairs of at most {MAX_LENGTH} tokens; {steps} "
                f"steps of {BATCH_SIZE} need {count}, and at least one more that is held out"
            )
        for name in names or COMPARED:
            tell(f"{name}: {steps} steps of {BATCH_SIZE}, rlhf_jax, then TRL")
            own = folder / name
            own.mkdir()
            algorithm = name.partition("-")[0]
            _write_rows(own / "rows.jsonl", pairs[:count], algorithm)
            _write_rows(own / "held_out.jsonl", pairs[count : count + HELD_OUT], algorithm)
            args = argparse.Namespace(
                algorithm=algorithm,
                model=with_head(start, own / "start") if algorithm == "reward_model" else start,
                steps=steps,
                batch_size=BATCH_SIZE,
                max_length=MAX_LENGTH,
                learning_rate=learning_rate,
                threads=threads,
                python=python,
            )
            yield _compare(name, own, args)


def _compare(name: str, folder: pathlib.Path, args: argparse.Namespace) -> Curves:
    if name in FAMILY:
        ours = online_runs.run_ours(folder, args, FAMILY[name].ours)
        theirs = online_runs.run_trl(folder, args, FAMILY[name].theirs)
        shutil.rmtree(folder)
        return Curves(name, ours, theirs)
    options = COMPARED[name]
    held_out = folder / "held_out.jsonl"
    overrides: dict[str, object] = {f"algorithm.{key}": value for key, value in options.items()}
    overrides["optimizer.schedule"] = "constant"
    ours = run_ours(folder, args, 0, held_out=held_out, overrides=overrides)
    theirs = run_trl(folder, args, 0, held_out=held_out, schedule="constant", **options)
    shutil.rmtree(folder)  # a checkpoint of every comparison would fill the disk
    return Curves(name, ours, theirs)


def ending_alike(model: pathlib.Path, folder: pathlib.Path) -> None:
    """A copy of a model's folder with which TRL's rows end where ours do.

    Of a conversation TRL trains what the template writes behind the last stop token (for many a
    newline), which no sampled answer has; here nothing is trained there, so the copy's template
    writes nothing there. And transformers' reward models read the last token that is not the
    padding, which is not the stop token where that is the padding too, as many folders have it: the
    copy pads with the unknown token.

    Args:
      model: Hugging Face folder.
      folder: to be made; the weights are linked.

    Raises:
      ValueError: there is no token to pad with.
    """
    given = load_tokenizer(model)
    template = "{% set whole %}" + given.chat_template + "{% endset %}"
    template += "{{ whole if add_generation_prompt else whole.rstrip('\\n') }}"
    options = {**given.config, "chat_template": template}
    if given.pad_id == given.eos_id:
        other = given.special_tokens.get("unk_token")
        if other in (None, given.special_tokens["eos_token"]):
            raise ValueError(
                f"{model}: padding and stop are one token, and there is no unknown token"
            )
        options["pad_token"] = other
    tokenizer = FastTokenizer(given.backend, options, given.generation)
    tokenizer.save(folder)
    for file in model.glob("model*"):
        (folder / file.name).symlink_to(file.resolve())
    shape = json.loads((model / "config.json").read_text(encoding="utf-8"))
    shape["pad_token_id"] = tokenizer.pad_id
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")


def longest(tokenizer: FastTokenizer, pair: Mapping[str, Any]) -> int:
    """Tokens of the longer answer of a pair with its prompt and one stop token."""

    def count(whole: Any) -> int:
        if isinstance(whole, str):
            return len(tokenizer.encode(whole)) + 1
        # The template has written the stop token.
        return len(tokenizer.encode(tokenizer.apply_chat_template(whole)))

    return max(count(pair["prompt"] + pair[answer]) for answer in ("chosen", "rejected"))


def with_head(model: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The same model as a reward model, whose head is drawn once, so that both sides start alike.

    Args:
      model: Hugging Face folder.
      folder: to be made.
    """
    made, params = load_pretrained(model, head="reward")
    shape = params["score"]["kernel"].shape
    head = {"kernel": 0.02 * jax.random.normal(jax.random.key(0), shape)}
    save_pretrained(folder, made, {**params, "score": head})
    for file in (*model.glob("tokenizer*"), *model.glob("*.jinja"), *model.glob("special_tokens*")):
        shutil.copy(file, folder)
    return folder


def _write_rows(path: pathlib.Path, pairs: list[dict[str, Any]], algorithm: str) -> None:
    if algorithm == "sft":
        pairs = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")


HEADINGS = (
    "comparison",
    "side",
    "compared",
    "first and last",
    "last margin",
    "held out",
    "s a step",
    "peak GB",
    "largest difference",
)


def rows_of(found: Sequence[Curves]) -> Iterator[list[str]]:
    """The table: two rows for each comparison."""
    for each in found:
        for side, run in (("rlhf_jax", each.ours), ("TRL", each.theirs)):
            held_out = ", ".join(f"{name} {value:.4f}" for name, value in run.held_out.items())
            yield [
                each.name,
                side,
                each.quantity,
                f"{run.losses[0]:.4f}, {run.losses[-1]:.4f}",
                f"{run.margins[-1]:.4f}" if run.margins else "-",
                held_out,
                f"{np.median(run.seconds):.3f}" if run.seconds else "-",
                f"{run.peak / 1e9:.2f}",
                f"{np.max(each.differences):.1e}" if side == "TRL" else "-",
            ]


def write(found: Sequence[Curves], folder: pathlib.Path) -> None:
    """Writes `curves.json` and `curves.png`.

    Args:
      found: comparisons.
      folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = {each.name: each.plain() for each in found}
    (folder / "curves.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    draw(found, folder / "curves.png")


def draw(found: Sequence[Curves], path: pathlib.Path) -> None:
    """Both losses over each other, and below them their difference."""
    size = (3.2 * len(found) + 1, 5)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = {"height_ratios": [2, 1]}
    panels = figure.subplots(2, len(found), squeeze=False, sharex="col", gridspec_kw=ratios)
    for each, (losses, differences) in zip(found, panels.T, strict=True):
        steps = range(1, len(each.ours.losses) + 1)
        losses.plot(steps, each.theirs.losses, color="#999999", linewidth=3, label="TRL")
        losses.plot(steps, each.ours.losses, color="#0072b2", linewidth=1, label="rlhf_jax")
        losses.set_title(each.name)
        losses.set_ylabel(each.quantity)
        losses.legend(fontsize=7)
        differences.semilogy(steps, np.maximum(each.differences, 1e-9), color="#d55e00")
        differences.axhline(TOLERANCE, color="black", linewidth=0.5)
        differences.set_xlabel("step")
    panels[1, 0].set_ylabel("relative difference")
    figure.savefig(path, dpi=120)
