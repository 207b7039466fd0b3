"""Which trees of parameters a run has, where each comes from, and their functions.

`tree_specs` answers from the configuration alone, before anything is loaded; loading and counting
bytes both go by it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlhf_jax.config import Config, MeasureConfig, ModelSection
from rlhf_jax.models import ModelConfig, init_model, load_pretrained, make_model
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.runs.parts import context_of
from rlhf_jax.sharding import infer_shardings, place_tree
from rlhf_jax.types import Model, Models, Params

NOT_ARCHITECTURE = (
    "max_position",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Fields of `ModelConfig` in which a reference may differ from the policy."""

Given = tuple[Model, Params]
"""A model of one's own: functions and parameters."""


class TreeSpec(NamedTuple):
    """One tree of a run."""

    role: str
    start: Literal["section", "folder", "policy"]
    """Where it comes from: the section `model`; a folder; the policy's start."""
    path: str | None
    """The folder."""
    head: Literal["reward", "value"] | None
    is_trained: bool
    """False: it is read in every step."""


class Loaded(NamedTuple):
    """The trees of a run, in their shards, and their functions."""

    model: Model
    """The policy's; `role` has those of trees of another architecture."""
    trained: dict[str, Params]
    frozen: dict[str, Params]
    """Read in every step."""


def tree_specs(config: Config) -> tuple[TreeSpec, ...]:
    """All trees that are held while a run trains.

    A reference that is read once, before the first step, is none of them: until then it is the
    start itself, or loaded and left.
    """
    models: Models = config.algorithm.models
    section = config.model
    specs = [TreeSpec("policy", "section", None, models.trained["policy"].head, True)]
    rewards = [model_path(reward) for reward in config.rewards if reward.function == MODEL]
    for role, tree in models.trained.items():
        if role != "policy":
            # A critic starts best from what it is to predict: the reward model, where there is one.
            path = section.critic or next(iter(rewards), None)
            start: Literal["folder", "policy"] = "policy" if path is None else "folder"
            specs.append(TreeSpec(role, start, path, tree.head, True))
    if models.reference == "always":
        start = "policy" if section.reference is None else "folder"
        specs.append(TreeSpec("ref", start, section.reference, reference_head(models), False))
    return tuple(specs)


def reference_head(models: Models) -> Literal["reward", "value"] | None:
    """The head of the reference: the policy's, whose functions read it, unless it has its own."""
    return None if models.own_reference else models.trained["policy"].head


def load_trees(config: Config, mesh: Mesh, *, given: Given | None = None) -> Loaded:
    """Loads or makes every tree of a run.

    Args:
      config: a whole run.
      mesh: where they lie.
      given: a model of one's own in place of the section `model`.

    Raises:
      ValueError: anything that cannot be loaded, in one line.
    """
    models: Models = config.algorithm.models
    policy, *others = tree_specs(config)
    model, params = load_policy(config, mesh, policy.head, given=given)
    trained = {"policy": params}
    frozen = {}
    roles = []
    for spec in others:
        if spec.is_trained:
            own, tree = load_further(config, mesh, spec, model, params, given=given)
            roles.append((spec.role, own))
            trained[spec.role] = tree
        elif spec.start == "policy":
            frozen[spec.role] = jax.tree.map(jnp.copy, params)
        else:
            reference, tree = load_reference(config, mesh, model)
            frozen[spec.role] = tree
            if models.own_reference:
                roles.append((spec.role, reference))
    return Loaded(model._replace(roles=tuple(roles)), trained, frozen)


def load_policy(
    config: Config | MeasureConfig, mesh: Mesh, head: str | None, *, given: Given | None = None
) -> Given:
    """The model that starts the run: given, loaded, or with random weights from `model.config`.

    Raises:
      ValueError: `model.given` and the argument do not go together.
    """
    section = config.model
    if section.given != (given is not None):
        raise ValueError(
            f"model.given={str(section.given).lower()}: a model of one's own is handed over by "
            "train(config, model=(model, params)), with model.given=true in the configuration"
        )
    if given is not None:
        model, params = given
        if head is not None and model.scores is None:
            raise ValueError(f"the given model has no scalar head, and head={head!r} is trained")
        shardings = infer_shardings(params, mesh, replicate=config.mesh.replicate)
        # A copy: the trained tree is donated, and the caller's stays his.
        return model, place_tree(jax.tree.map(jnp.copy, dict(params)), shardings)
    options: dict[str, Any] = {
        "dtype": section.dtype,
        "mesh": mesh,
        "remat": section.remat,
        "head": head,
        "replicate": config.mesh.replicate,
        **execution(config),
    }
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    if section.path is not None:
        return load_pretrained(section.path, key=key, **options)
    return init_model(ModelConfig.from_hf(section.config or {}), key, **options)


def execution(config: Config | MeasureConfig) -> dict[str, Any]:
    """How every model of a run computes."""
    section: ModelSection = config.model
    return {
        "compute_dtype": section.compute_dtype,
        "layers": section.layers,
        "attention": section.attention,
        "context": context_of(config),
    }


def load_further(
    config: Config,
    mesh: Mesh,
    spec: TreeSpec,
    policy: Model,
    params: Params,
    *,
    given: Given | None,
) -> Given:
    """A trained tree beside the policy, such as PPO's critic: from a folder, or the policy's trunk
    with a new head."""
    section = config.model
    options = {"remat": section.remat, **execution(config)}
    head = spec.head or "reward"
    if spec.path is not None:
        replicate = config.mesh.replicate
        return load_pretrained(
            spec.path, dtype=section.dtype, mesh=mesh, replicate=replicate, head=head, **options
        )
    if given is not None:
        raise ValueError(
            f"a given model is the policy alone, and this run trains a {spec.role} beside it: "
            "name its folder in model.critic, or choose algorithm.critic=shared"
        )
    own = make_model(policy.config, mesh=mesh, head=head, **options)
    tree = {
        name: jax.tree.map(jnp.copy, leaves) for name, leaves in params.items() if name != "unembed"
    }
    kernel = jnp.zeros((policy.config.hidden_size,), section.dtype)
    sharding = infer_shardings({"score": {"kernel": kernel}}, mesh)["score"]["kernel"]
    return own, {**tree, "score": {"kernel": place_tree(kernel, sharding)}}


def load_reference(config: Config, mesh: Mesh, policy: Model) -> Given:
    """The model of `model.reference`.

    Raises:
      ValueError: its architecture is not the policy's, whose functions read it, and the algorithm
        does not say that it may differ; or it embeds fewer tokens.
    """
    section = config.model
    reference, params = load_pretrained(
        str(section.reference),
        dtype=section.dtype,
        mesh=mesh,
        replicate=config.mesh.replicate,
        head=reference_head(config.algorithm.models),
        **execution(config),
    )
    if config.algorithm.models.own_reference:
        if reference.config.vocab_size < policy.config.vocab_size:
            raise ValueError(
                f"model.reference={section.reference} embeds {reference.config.vocab_size} tokens "
                f"and the policy {policy.config.vocab_size}: they must share a tokenizer"
            )
        return reference, params
    ours = dataclasses.asdict(policy.config)
    theirs = dataclasses.asdict(reference.config)
    for name in ours:
        if ours[name] != theirs[name] and name not in NOT_ARCHITECTURE:
            raise ValueError(
                f"model.reference={section.reference} has {name}={theirs[name]!r} where the policy "
                f"has {ours[name]!r}; the reference must have the policy's architecture"
            )
    return reference, params


def tree_meta(config: Config, model: Model) -> dict[str, Any]:
    """What a checkpoint says of its trees: how to make their functions and shapes again."""
    trained: Mapping[str, Any] = config.algorithm.models.trained
    return {
        role: {
            "config": to_hf(model.role(role)),
            "head": tree.head,
            "dtype": config.model.dtype,
        }
        for role, tree in trained.items()
    }


def to_hf(model: Model) -> dict[str, Any] | None:
    """The architecture as keys of a Hugging Face config.json; None for a model of one's own."""
    return model.config.to_hf() if isinstance(model.config, ModelConfig) else None
