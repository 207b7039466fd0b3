"""Claims about memory: bytes of a set-up by what they are for, and of a compiled update.

Nothing is loaded and nothing is trained. The arithmetic counts shapes; the measured bytes are what
the compiler says that an update of full rows holds, with whatever else the run holds meanwhile.
"""

import json
import logging
import math
import pathlib
import tempfile
from typing import NamedTuple

import jax

from rlhf_jax.config import Config, MemoryConfig, ModelSection, SetupsConfig
from rlhf_jax.config.build import build
from rlhf_jax.io.disk import describe_bytes
from rlhf_jax.models import ModelConfig
from rlhf_jax.runs.claims.finding import Finding, Form, found
from rlhf_jax.runs.claims.verdict import CONFIRMED
from rlhf_jax.runs.compilation import keep_programs
from rlhf_jax.runs.footprint import gradients, run_shapes, tree_bytes
from rlhf_jax.runs.intervals import Estimate
from rlhf_jax.runs.plan.microbatches import settled, update_peak
from rlhf_jax.sharding import make_mesh
from rlhf_jax.types import Params

_log = logging.getLogger(__name__)


class SetupMemory(NamedTuple):
    """What a set-up holds, in bytes over all devices."""

    name: str
    parameters: int
    """Of the policy, in number."""
    policy: int
    critic: int
    reference: int
    reward_models: int
    gradients: int
    moments: int
    measured: int
    """Of one device, at most, while a compiled update runs: activations too."""

    @property
    def arithmetic(self) -> int:
        """Parameters, gradients and moments: all that depends on the number of parameters."""
        models = self.policy + self.critic + self.reference + self.reward_models
        return models + self.gradients + self.moments

    @property
    def bytes_a_parameter(self) -> float:
        """The same by parameter of the policy."""
        return self.arithmetic / self.parameters


def measure_setups(setups: SetupsConfig) -> list[SetupMemory]:
    """Compiles an update of every set-up, and counts its bytes. Compiled programs are kept as those
    of runs are, so that the second time takes less.

    Args:
      setups: with the model that all have.

    Raises:
      ValueError: a set-up cannot be planned, in one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = _model_folder(setups, pathlib.Path(folder))
        configs = {setup.name: setups.run_config(setup, model) for setup in setups.runs}
        kept = next(iter(configs.values())).training.compilation_cache
        with keep_programs(kept):
            return [measure(name, config) for name, config in configs.items()]


def measure(name: str, config: Config) -> SetupMemory:
    """One set-up.

    Args:
      name: of its row.
      config: a whole run.
    """
    mesh = make_mesh(config.mesh)
    config = settled(config, mesh)
    shapes = run_shapes(config)
    critics = {role: tree for role, tree in shapes.trained.items() if role != "policy"}
    policy = shapes.trained["policy"]
    found = SetupMemory(
        name=name,
        parameters=_count(policy),
        policy=tree_bytes(policy),
        critic=tree_bytes(critics),
        reference=tree_bytes(shapes.frozen),
        reward_models=tree_bytes(shapes.rewards),
        gradients=tree_bytes(gradients(shapes.trained, is_summed=False)),
        moments=tree_bytes(shapes.moments),
        measured=round(update_peak(config, mesh)),
    )
    _log.info(
        "%s: %.1f bytes a parameter, %s while an update runs",
        name,
        found.bytes_a_parameter,
        describe_bytes(found.measured),
    )
    return found


def memory_findings(
    claimed: float, asked: MemoryConfig, measured: list[SetupMemory]
) -> list[Finding]:
    """One set-up against each of the others: a row for each. There is no chance in it.

    Args:
      claimed: the figure, a share.
      asked: which set-ups, and which bytes.
      measured: all set-ups.
    """
    by_name = {setup.name: setup for setup in measured}
    own = by_name[asked.setup]
    word = "less than" if asked.quantity == "saving" else "exceeded by"
    rows = []
    for name in asked.against:
        measure_of = _quantity(asked.quantity, own.measured, by_name[name].measured)
        counted = _quantity(asked.quantity, own.arithmetic, by_name[name].arithmetic)
        value = measure_of
        note = f"by arithmetic {_percent(counted)}"
        if asked.bytes == "arithmetic":
            value = counted
            note = f"as compiled {_percent(measure_of)}"
        rows.append(
            found(
                f"{asked.setup} {word} {name}",
                claimed,
                Estimate(value, value, value, 0),
                form=Form(is_share=True, is_signed=True),
                behind="bytes of a compiled update" if asked.bytes == "measured" else "arithmetic",
                note=note,
            )._replace(is_exact=True)
        )
    return rows


def by_setup(asked: MemoryConfig, rows: list[Finding]) -> str:
    """The verdict in words: with which set-ups the claim holds."""
    verdicts = dict(zip(asked.against, (row.verdict for row in rows), strict=True))
    holds = [name for name, verdict in verdicts.items() if verdict == CONFIRMED]
    fails = [f"{name} ({verdict})" for name, verdict in verdicts.items() if verdict != CONFIRMED]
    # Names may have commas in them.
    parts = [f"holds against {'; '.join(holds) or 'none'}"]
    parts += [f"Not against {'; '.join(fails)}"] if fails else []
    return ". ".join(parts)


def _quantity(quantity: str, own: int, other: int) -> float:
    return 1 - own / other if quantity == "saving" else other / own - 1


def _model_folder(setups: SetupsConfig, folder: pathlib.Path) -> str:
    """Where `{model}` is: the common model's own path, or a folder with its config.json."""
    section: ModelSection = build(ModelSection, dict(setups.common.get("model", {})))
    if section.path is not None:
        return section.path
    contents = ModelConfig.from_hf(section.config or {}).to_hf()
    (folder / "config.json").write_text(json.dumps(contents), encoding="utf-8")
    return str(folder)


def _count(tree: Params) -> int:
    """Number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _percent(share: float) -> str:
    return Form(is_share=True, is_signed=True).text(share)
