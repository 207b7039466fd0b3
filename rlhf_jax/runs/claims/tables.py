"""The table of claims as Markdown and as JSON."""

import json
import pathlib
from typing import Any

from rlhf_jax.fields import plain
from rlhf_jax.io.disk import write_whole
from rlhf_jax.io.markdown import markdown_table
from rlhf_jax.runs.claims import Judged, Judgement
from rlhf_jax.runs.claims.finding import Finding, Form
from rlhf_jax.runs.claims.memory import SetupMemory
from rlhf_jax.runs.claims.verdict import RULE
from rlhf_jax.runs.kept import finite
from rlhf_jax.runs.provenance import describe_environment

COLUMNS = ("claim", "measured by", "claimed", "measured", "interval", "verdict", "behind it")
MEMORY = (
    "Bytes a parameter of the policy by what they are for, and their sum; and the MB that a device "
    "holds at most while a compiled update runs."
)
MARKDOWN = "claims.md"
JSON = "claims.json"


def claim_rows(judged: Judged) -> list[list[str]]:
    """The rows of one claim, under `COLUMNS`; one of them where nothing is measured."""
    claim = judged.claim
    if not judged.findings:
        claimed = claimed_text(judged)
        return [[claim.name, claim.kind, claimed, "-", "-", judged.verdict, judged.missing]]
    return [
        [
            claim.name,
            row.what,
            claimed_text(judged),
            row.form.text(row.value),
            row.interval,
            row.said,
            f"{row.behind}; {row.note}" if row.note else row.behind,
        ]
        for row in judged.findings
    ]


def claimed_text(judged: Judged) -> str:
    """The claimed figure as its measurements are written."""
    claim = judged.claim
    if claim.bound is not None:
        sign = "<=" if claim.bound.side == "below" else ">="
        return f"{sign} {Form(is_share=claim.bound.share).text(claim.claimed)}"
    is_share = claim.kind in ("saving", "memory")
    is_share = is_share or (claim.difference is not None and claim.difference.relative)
    return Form(is_share=is_share, is_signed=True).text(claim.claimed)


def memory_rows(measured: list[SetupMemory]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of the table of memory: bytes a parameter by what they are for, and what a
    device holds at most while a compiled update runs."""
    columns = [
        "set-up",
        "policy",
        "critic",
        "gradients",
        "moments",
        "reference",
        "reward model",
        "sum",
        "MB",
    ]

    def row(one: SetupMemory) -> list[str]:
        parts = (
            one.policy,
            one.critic,
            one.gradients,
            one.moments,
            one.reference,
            one.reward_models,
        )
        return [
            one.name,
            *(f"{part / one.parameters:.1f}" if part else "" for part in parts),
            f"{one.bytes_a_parameter:.1f}",
            f"{one.measured / 1e6:,.0f}",
        ]

    return columns, [row(one) for one in measured]


def write(found: Judgement, folder: pathlib.Path) -> None:
    """claims.md and claims.json.

    Args:
      found: by `judge`.
      folder: made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / MARKDOWN, as_markdown(found))
    write_whole(folder / JSON, json.dumps(finite(as_plain(found)), indent=1) + "\n")


def how(found: Judgement) -> str:
    """How figures over seeds are made, in a sentence."""
    config = found.config
    statistic = config.statistic.replace("_", " ")
    paired = (
        "of one figure a seed (runs of a seed share start and prompts)"
        if config.pairing == "seed"
        else "of each run, seeds drawn for each on its own"
    )
    return (
        f"Measured: {statistic} {paired}, with a {config.confidence:.0%} bootstrap interval over "
        "seeds."
    )


def as_markdown(found: Judgement) -> str:
    """The tables, the rule, and who claims what."""
    rows = [row for judged in found.judged for row in claim_rows(judged)]
    parts = ["# Claims", markdown_table(list(COLUMNS), rows), how(found), f"Rule. {RULE}"]
    if found.memory:
        parts += ["## Memory by set-up", MEMORY, markdown_table(*memory_rows(found.memory))]
        parts += [
            f"- {judged.claim.name}: {judged.verdict}"
            for judged in found.judged
            if judged.claim.memory is not None
        ]
    missing = {judged.command: None for judged in found.judged if judged.missing}
    if missing:
        lines = "\n".join(f"    {command}" for command in missing)
        parts += ["## Not measured yet", f"These commands measure what is missing:\n\n{lines}"]
    parts += [
        "## Who claims what",
        "\n".join(
            f"- {judged.claim.name}: {judged.claim.says}. {judged.claim.source}"
            for judged in found.judged
        ),
    ]
    return "\n\n".join(parts) + "\n"


def as_plain(found: Judgement) -> dict[str, Any]:
    """Everything, for other programs."""
    return {
        "rule": RULE,
        "statistic": found.config.statistic,
        "pairing": found.config.pairing,
        "confidence": found.config.confidence,
        "claims": [_plain(judged) for judged in found.judged],
        "memory": [
            one._asdict()
            | {"arithmetic": one.arithmetic, "bytes_a_parameter": one.bytes_a_parameter}
            for one in found.memory
        ],
        "comparisons": {
            name: {
                "results": one.path,
                "commit": list(one.commits),
                "made": {run: sorted(seeds) for run, seeds in one.runs.items()},
            }
            for name, one in found.results.items()
        },
        "environment": describe_environment(),
        "config": plain(found.config),
    }


def _plain(judged: Judged) -> dict[str, Any]:
    claim = judged.claim
    return {
        "name": claim.name,
        "says": claim.says,
        "source": claim.source,
        "kind": claim.kind,
        "claimed": claim.claimed,
        "verdict": judged.verdict,
        "missing": judged.missing or None,
        "command": judged.command or None,
        "findings": [_finding(row) for row in judged.findings],
    }


def _finding(row: Finding) -> dict[str, Any]:
    return {
        "what": row.what,
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "verdict": row.verdict,
        "figure_excluded": row.is_excluded,
        "behind": row.behind,
        "note": row.note or None,
    }
