"""verl's ``compute_score(data_source, solution_str, ground_truth, extra_info)`` as TRL signs it."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_jax.rewards.answers import Completion, content_of

_MARKS = frozenset({"solution_str", "ground_truth"})


def is_verl(function: Callable[..., Any]) -> bool:
    """Whether the parameters' names are those of verl."""
    return _MARKS <= set(inspect.signature(function).parameters)


def from_verl(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with TRL's signature that calls verl's once per completion.

    It reads the columns `ground_truth` (which verl's own rows give), `data_source` and `extra_info`
    (None where the data has none). Of a result that is a dict, `score` is the grade and everything
    else goes to the completions table.
    """
    parameters = inspect.signature(function).parameters.values()
    optional = {p.name for p in parameters} & {"data_source", "extra_info"}

    def graded(
        completions: Sequence[Completion],
        ground_truth: Sequence[Any],
        data_source: Sequence[Any] | None = None,
        extra_info: Sequence[Any] | None = None,
        log_extra: Callable[[str, Sequence[Any]], None] | None = None,
        **options: Any,
    ) -> list[float | None]:
        columns = {"data_source": data_source, "extra_info": extra_info}
        results = []
        for row, completion in enumerate(completions):
            given = {
                name: None if (values := columns[name]) is None else values[row]
                for name in optional
            }
            results.append(
                function(
                    solution_str=content_of(completion),
                    ground_truth=ground_truth[row],
                    **given,
                    **options,
                )
            )
        if (
            log_extra is not None
            and results
            and all(isinstance(result, dict) for result in results)
        ):
            for name in sorted(set.intersection(*(set(result) for result in results)) - {"score"}):
                log_extra(name, [result[name] for result in results])
        return [result["score"] if isinstance(result, dict) else result for result in results]

    given = {"ground_truth", "data_source", "extra_info", "solution_str"}
    others = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in parameters
        if p.name not in given and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    own = [p for p in inspect.signature(graded).parameters.values() if p.kind is not p.VAR_KEYWORD]
    functools.update_wrapper(graded, function)
    graded.__signature__ = inspect.Signature([*own, *others])  # type: ignore[attr-defined]
    return graded
