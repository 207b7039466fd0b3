"""Single answers that were judged (KTO): the label of a row, pairs taken apart, and the unrelated
answer that each is compared with."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.kinds import Example, JudgedExample, PairExample

logger = logging.getLogger(__name__)
LABELS: dict[Any, bool] = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), True),
    **dict.fromkeys(("false", "0", "0.0", "no"), False),
}
"""What files without types write (CSV), in lower case."""
_BALANCE = (1.0, 4 / 3)
"""Of the weight of all desirable rows to that of all undesirable ones: KTO eq. 8."""


def read_label(columns: Mapping[str, Any]) -> bool:
    """Whether the answer of a row is desirable.

    Raises:
        BadRow: the column says neither yes nor no.
    """
    value = columns["label"]
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int | float) and str(value).strip().lower() in LABELS:
        return LABELS[str(value).strip().lower()]
    raise BadRow(
        "wrong type",
        f"column 'label' is {str(value)[:40]!r}: true (a desirable answer) or false is needed",
    )


def taken_apart(examples: Sequence[Example]) -> list[Example]:
    """Each pair as a desirable and an undesirable answer; others as they are."""
    rows: list[Example] = []
    for example in examples:
        if not isinstance(example, PairExample):
            rows.append(example)
            continue
        for completion, label in ((example.chosen, True), (example.rejected, False)):
            rows.append(
                JudgedExample(example.prompt, completion, label, example.where, example.chat)
            )
    return rows


def with_unrelated(examples: Sequence[Example], name: str) -> list[Example]:
    """Deals each row an answer to another prompt.

    Rows that follow each other with the same prompt are a run; a row gets the answer at its own
    place in the run before (the last one's for the first), counted from the start again where that
    is shorter. Runs of one length, as pairs that were taken apart are, thus pass on every answer
    once.

    Args:
        examples: of a split, in storage order.
        name: of the data, for errors.

    Raises:
        DataError: all rows have the same prompt.
    """
    rows = [example for example in examples if isinstance(example, JudgedExample)]
    runs: list[list[JudgedExample]] = []
    for row in rows:
        if runs and runs[-1][0].prompt == row.prompt:
            runs[-1].append(row)
        else:
            runs.append([row])
    if len(runs) == 1:
        raise DataError(
            f"{name}: all {len(rows)} rows have the same prompt, and the KL of KTO is measured on "
            "answers to other prompts: give rows with several prompts"
        )
    dealt: list[Example] = []
    for number, run in enumerate(runs):
        before = runs[number - 1]
        # The first and the last run may have one prompt: then it is the one before the last.
        if before[0].prompt == run[0].prompt:
            before = runs[number - 2]
        dealt += [
            row._replace(unrelated=before[place % len(before)].completion)
            for place, row in enumerate(run)
        ]
    return dealt


def balance(labels: np.ndarray) -> str:
    """How many rows are desirable, and the weights that make up for it, in words."""
    desirable = int(labels.sum())
    undesirable = len(labels) - desirable
    counted = f"{desirable:,} desirable, {undesirable:,} undesirable answers"
    if not desirable or not undesirable:
        return f"{counted}: with one kind alone the policy learns no difference"
    low, high = (bound * undesirable / desirable for bound in _BALANCE)
    if low <= 1 <= high:
        return counted
    return (
        f"{counted}; KTO eq. 8 asks for desirable_weight from {low:.2f} to {high:.2f} times "
        "undesirable_weight"
    )
