"""Names for options that belong together: `preset` of a configuration.

A preset gives defaults that differ; a key that is given wins. A configuration class with presets
has a field `preset`, a class variable `presets` and the decorator `with_presets`, so that Python
and YAML read them alike.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Preset(NamedTuple):
    """Options that differ from the defaults, and where they are from."""

    options: Mapping[str, Any]
    paper: str


GRPO_PRESETS: dict[str, Preset] = {
    "dr_grpo": Preset(
        {"normalize_std": False, "aggregation": "constant"},
        "Dr. GRPO (arXiv:2503.20783): no division by the spread, and by the generation limit in "
        "place of each length",
    ),
    "gspo": Preset(
        {"level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
        "GSPO (arXiv:2507.18071), eq. 5 and section 5.1; the paper has num_minibatches=4, and with "
        "one update a batch it is GRPO",
    ),
    "rloo": Preset(
        {"baseline": "leave_one_out", "normalize_std": False, "aggregation": "constant"},
        "RLOO (arXiv:2402.14740): the others of the group as baseline, a completion as one action "
        "(its tokens are summed, over the generation limit); a KL is a loss (kl_coef), not in the "
        "reward",
    ),
    "cispo": Preset(
        {"surrogate": "cispo", "aggregation": "token"},
        "CISPO (arXiv:2506.13585), eq. 4: REINFORCE with a capped weight, every token alike",
    ),
    "dapo_loss": Preset(
        {"aggregation": "token"},
        "the token mean of DAPO alone (arXiv:2503.14476, eq. 12): loss_type dapo of TRL, its "
        "default, and bnpo; the whole of DAPO is algorithm.name=dapo",
    ),
    "lite_ppo": Preset(
        {"normalize_std": "batch", "aggregation": "token"},
        "Lite PPO (arXiv:2508.08221): the spread of the whole batch, every token alike",
    ),
}
"""What differs from the defaults of GRPO."""


def preset_options(cls: type, name: object) -> dict[str, Any]:
    """What a preset gives.

    Args:
      cls: configuration class of an algorithm.
      name: of a preset; one that the class does not know gives nothing, and the class refuses it.
    """
    presets: Mapping[str, Preset] = vars(cls).get("presets", {})
    return dict(presets[name].options) if isinstance(name, str) and name in presets else {}


def with_presets(cls: type[T]) -> type[T]:
    """Makes `cls(preset=..., **given)` begin with the preset's options.

    Args:
      cls: a dataclass whose fields all have defaults.
    """
    plain: Any = cls.__init__
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(plain)
    def start(self: T, *args: Any, **given: Any) -> None:
        named = dict(zip(names, args, strict=False)) | given
        plain(self, **{**preset_options(cls, named.get("preset")), **named})

    replaced: Any = cls  # mypy takes __init__ for what nobody replaces
    replaced.__init__ = start
    return cls


def departures(config: Any) -> dict[str, Any]:
    """Options of a configuration that contradict its preset: name -> value; empty without one."""
    options = preset_options(type(config), vars(config).get("preset"))
    return {
        name: vars(config)[name] for name, value in options.items() if vars(config)[name] != value
    }
