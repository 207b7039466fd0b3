"""Hyper-parameters as traced values, so that one program trains several settings of them at
once."""

import copy
import dataclasses
import typing
from typing import Any, TypeVar

from rlhf_jax.ops.checks import check_choice

T = TypeVar("T")


def with_traced(config: T, **values: Any) -> T:
    """A configuration in which some numbers are traced values.

    Inside a function that is vmapped over learning rates or clip ranges, build the configuration
    with ordinary numbers (they are checked), put the traced ones in with this function, and make
    the algorithm, the optimizer and the loop from the result.

    Only fields that are floats can be traced, as they are factors and bounds inside a loss; sizes
    and choices decide what is compiled. Traced values are not checked. A traced coefficient counts
    as used: `kl_coef` then needs the reference even where its value is 0.

    Args:
      config: a frozen dataclass such as `GRPOConfig` or `OptimizerConfig`.
      **values: field -> traced scalar.

    Returns:
      A copy.

    Raises:
      ValueError: no such field, or one that is not a float.
    """
    kinds = typing.get_type_hints(type(config))
    names = [field.name for field in dataclasses.fields(typing.cast(Any, config))]
    copied = copy.copy(config)
    for name, value in values.items():
        check_choice(f"field of {type(config).__name__}", name, names)
        if float not in (kinds[name], *typing.get_args(kinds[name])):
            raise ValueError(
                f"{type(config).__name__}.{name} decides what is compiled: only fields that are "
                "floats can be traced"
            )
        object.__setattr__(copied, name, value)
    return copied
