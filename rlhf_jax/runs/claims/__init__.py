"""`judge(config)`: what is claimed, what was measured, and what that says.

The rule is in `verdict`, and knows nothing of what is measured; each kind of measurement is a
module of functions of cells (`differences`, `savings`, `bounds`) or of set-ups (`memory`).
"""

from collections.abc import Callable
from typing import NamedTuple

from rlhf_jax.config import ClaimConfig, ClaimsConfig
from rlhf_jax.runs.claims.bounds import bounds
from rlhf_jax.runs.claims.differences import at_matched_kl, differences
from rlhf_jax.runs.claims.finding import Finding
from rlhf_jax.runs.claims.memory import SetupMemory, by_setup, measure_setups, memory_findings
from rlhf_jax.runs.claims.results import Missing, Results, command, read_results
from rlhf_jax.runs.claims.savings import savings
from rlhf_jax.runs.claims.verdict import NOT_MEASURED

__all__ = ["Finding", "Judged", "Judgement", "judge"]

MEASURES: dict[str, Callable[..., list[Finding]]] = {
    "difference": differences,
    "saving": savings,
    "bound": bounds,
    "matched_kl": at_matched_kl,
}
"""Kind of a claim -> (claimed, what is asked, results, claims) -> rows."""


class Judged(NamedTuple):
    """One claim with what was found."""

    claim: ClaimConfig
    findings: list[Finding]
    verdict: str
    """Of all findings together; where they differ, each of them."""
    missing: str
    """Why it is not measured; empty: it is."""
    command: str
    """What would measure it."""


class Judgement(NamedTuple):
    """All claims."""

    config: ClaimsConfig
    judged: list[Judged]
    memory: list[SetupMemory]
    """Of all set-ups; none where no claim asks for memory."""
    results: dict[str, Results]
    """Comparisons that are there."""


def judge(config: ClaimsConfig) -> Judgement:
    """Measures every claim and says what that means.

    A claim whose comparison is not there is not left out: it is listed as not measured, with the
    command that would measure it.

    Args:
      config: from `load_claims` or `make_claims`.

    Returns:
      A `Judgement`, claims in the order of the configuration.

    Raises:
      ValueError: a comparison has no such run or metric, its file cannot be read, or a set-up
        cannot be planned.
    """
    results: dict[str, Results] = {}
    reasons: dict[str, str] = {}
    for name, source in config.comparisons.items():
        try:
            results[name] = read_results(source)
        except Missing as error:
            reasons[name] = str(error)
    judged = [
        _judge(config, claim, results, reasons) for claim in config.claims if claim.memory is None
    ]
    asks = any(claim.memory is not None for claim in config.claims)
    measured = measure_setups(config.setups) if asks and config.setups is not None else []
    for place, claim in enumerate(config.claims):
        if claim.memory is not None:
            rows = memory_findings(claim.claimed, claim.memory, measured)
            words = by_setup(claim.memory, rows)
            judged.insert(place, Judged(claim, rows, words, "", ""))
    return Judgement(config, judged, measured, results)


def _judge(
    config: ClaimsConfig,
    claim: ClaimConfig,
    results: dict[str, Results],
    reasons: dict[str, str],
) -> Judged:
    """One claim on a comparison."""
    asked = claim.measure
    source = config.comparisons[asked.comparison]
    try:
        if asked.comparison in reasons:
            raise Missing(reasons[asked.comparison])
        rows = MEASURES[claim.kind](claim.claimed, asked, results[asked.comparison], config)
    except Missing as error:
        return Judged(claim, [], NOT_MEASURED, str(error), command(source))
    except ValueError as error:
        raise ValueError(f"{claim.name}: {error}") from None
    return Judged(claim, rows, together(rows), "", command(source))


def together(rows: list[Finding]) -> str:
    """One verdict for all rows, or each with what it is of."""
    if len({row.said for row in rows}) == 1:
        return rows[0].said
    return "; ".join(f"{row.said}: {row.what}" for row in rows)
