"""Writes verl.json: advantages, losses, KL estimates and rewards computed by verl's own functions.

    python tests/golden/make_verl.py --verl FOLDER

FOLDER is a checkout of verl at b178a3cd56f58b2d502255daba591e92833930a7. Needs torch and
transformers; no test needs them. The files are loaded one by one, with empty stand-ins for verl's
configuration classes and for packages the functions do not use.
"""

import argparse
import ast
import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
COMMIT = "b178a3cd56f58b2d502255daba591e92833930a7"
RNG = np.random.default_rng(20260102)


class ActorConfig:
    """The fields that verl's policy losses read."""

    clip_ratio_low = clip_ratio_high = None
    global_batch_info = {}

    def __init__(self, **fields):
        self.__dict__.update(fields)

    def get(self, name, default):
        return getattr(self, name, default)


def stand_in(name, **content):
    module = types.ModuleType(name)
    module.__dict__.update(content)
    module.__path__ = []
    sys.modules[name] = module


def load(folder, name):
    """One file of verl under its own module name."""
    spec = importlib.util.spec_from_file_location(name, folder / (name.replace(".", "/") + ".py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)
    spec.loader.exec_module(module)
    return module


def load_verl(folder):
    class Anything:
        pass

    stand_in("omegaconf", DictConfig=Anything)
    stand_in("tensordict", TensorDict=Anything)
    stand_in("verl", DataProto=Anything)
    stand_in("verl.trainer")
    stand_in("verl.trainer.ppo")
    stand_in("verl.trainer.config", AlgoConfig=Anything)
    stand_in("verl.utils", as_torch_index=None, group_mean_std=None)
    stand_in("verl.utils.device", get_device_name=None, get_torch_device=None)
    stand_in("verl.utils.import_utils", deprecated=lambda message: lambda f: f)
    stand_in("verl.utils.reward_score", default_compute_score=None)
    stand_in("verl.workers")
    stand_in("verl.workers.config", ActorConfig=ActorConfig)
    stand_in("verl.workers.reward_manager", register=lambda name: lambda cls: cls)
    stand_in("verl.workers.reward_manager.abstract", AbstractRewardManager=object)
    load(folder, "verl.utils.torch_functional")
    core = load(folder, "verl.trainer.ppo.core_algos")
    manager = load(folder, "verl.workers.reward_manager.dapo").DAPORewardManager
    source = folder / "verl/trainer/ppo/ray_trainer.py"
    penalty = [
        n
        for n in ast.parse(source.read_text()).body
        if getattr(n, "name", None) == "apply_kl_penalty"
    ]
    scope = {
        "torch": torch,
        "core_algos": core,
        "DataProto": None,
        "masked_mean": core.verl_F.masked_mean,
    }
    exec(compile(ast.Module(penalty, []), str(source), "exec"), scope)
    return core, manager, scope["apply_kl_penalty"]


def tensor(x, grad=False):
    return torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=grad)


def numbers(x):
    return x.detach().tolist() if isinstance(x, torch.Tensor) else np.asarray(x).tolist()


def ragged(rows, width):
    mask = RNG.random((rows, width)) < 0.75
    mask[:, 0] = True
    return mask.astype(np.float64)


def gae_cases(core):
    for gamma, lam in ((1.0, 0.95), (1.0, 1.0), (0.9, 0.8)):
        mask = ragged(4, 7)
        rewards, values = RNG.normal(size=(4, 7)), RNG.normal(size=(4, 7))
        advantages, returns = core.compute_gae_advantage_return(
            tensor(rewards), tensor(values), tensor(mask), gamma, lam
        )
        inputs = {"rewards": rewards, "values": values, "mask": mask}
        outputs = {"whitened": advantages, "returns": returns}
        yield {"gamma": gamma, "gae_lambda": lam} | {
            k: numbers(v) for k, v in (inputs | outputs).items()
        }


def group_cases(core):
    rewards = RNG.normal(size=(4, 5))
    rewards[2] = 0.3
    flat, one = tensor(rewards.reshape(-1, 1)), torch.ones(20, 1, dtype=torch.float64)
    index = np.repeat(np.arange(4), 5)

    def shaped(advantages):
        return numbers(advantages[0].reshape(4, 5))

    yield {
        "rewards": numbers(rewards),
        "grpo": shaped(core.compute_grpo_outcome_advantage(flat.clone(), one, index)),
        "dr_grpo": shaped(
            core.compute_grpo_outcome_advantage(
                flat.clone(), one, index, norm_adv_by_std_in_grpo=False
            )
        ),
        "rloo": shaped(core.compute_rloo_outcome_advantage(flat.clone(), one, index)),
    }


def policy_cases(core):
    rows, width = 5, 8
    mask = ragged(rows, width)
    mask[3] = 0.0
    old = RNG.normal(-1.5, 0.5, (rows, width))
    logps = old + RNG.normal(0.0, 0.8, old.shape)
    advantages = RNG.normal(size=(rows, width))
    by_row = np.repeat(RNG.normal(size=(rows, 1)), width, axis=1)
    settings = [
        ("vanilla", "token-mean", {"clip_ratio": 0.2, "clip_ratio_c": 3.0}),
        (
            "vanilla",
            "token-mean",
            {"clip_ratio": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 1.3},
        ),
        ("vanilla", "seq-mean-token-mean", {"clip_ratio": 0.2, "clip_ratio_c": 10.0}),
        ("gspo", "seq-mean-token-mean", {"clip_ratio": 0.1}),
        ("cispo", "token-mean", {"clip_ratio_low": 1.0, "clip_ratio_high": 0.5, "clip_ratio": 0.2}),
    ]
    for name, aggregation, options in settings:
        scored, used = tensor(logps, grad=True), by_row if name == "gspo" else advantages
        loss, metrics = core.get_policy_loss_fn(name)(
            tensor(old), scored, tensor(used), tensor(mask), aggregation, ActorConfig(**options)
        )
        loss.backward()
        inputs = {
            "logps": logps,
            "old": old,
            "advantages": used,
            "mask": mask,
            "gradient": scored.grad,
        }
        yield {
            "loss_name": name,
            "aggregation": aggregation,
            "options": options,
            "loss": loss.item(),
            "metrics": metrics,
        } | {k: numbers(v) for k, v in inputs.items()}


def value_cases(core):
    mask = ragged(4, 6)
    values, old, returns = RNG.normal(size=(3, 4, 6))
    for clip in (0.2, 0.5):
        moved = tensor(values, grad=True)
        loss, fraction = core.compute_value_loss(
            moved, tensor(returns), tensor(old), tensor(mask), clip
        )
        loss.backward()
        inputs = {
            "values": values,
            "old": old,
            "returns": returns,
            "mask": mask,
            "gradient": moved.grad,
        }
        yield {"clip": clip, "loss": loss.item(), "clip_fraction": fraction.item()} | {
            k: numbers(v) for k, v in inputs.items()
        }


def kl_cases(core):
    logps, ref = RNG.normal(-2.0, 0.7, (2, 3, 4))
    for kind in ("k1", "k2", "k3"):
        estimate = core.kl_penalty(tensor(logps), tensor(ref), kind)
        yield {
            "kind": kind,
            "logps": numbers(logps),
            "ref": numbers(ref),
            "estimate": numbers(estimate),
        }


def penalty_cases(core, apply_kl_penalty):
    """KL-shaped rewards and one step of the controller; full rows, so both means agree."""
    rows, width = 4, 5
    old, ref = RNG.normal(-2.0, 0.7, (2, rows, width))
    scores = RNG.normal(size=rows)
    placed = np.zeros((rows, width))
    placed[:, -1] = scores

    class Batch(dict):
        batch_size = (rows,)

    fields = {
        "old_log_probs": old,
        "ref_log_prob": ref,
        "response_mask": np.ones((rows, width)),
        "token_level_scores": placed,
    }
    for target in (0.01, 0.2, 5.0):
        controller = core.AdaptiveKLController(0.1, target, 1000)
        data = types.SimpleNamespace(batch=Batch({k: tensor(v) for k, v in fields.items()}))
        data, metrics = apply_kl_penalty(data, controller, "k1")
        yield {
            "target": target,
            "horizon": 1000,
            "kl_coef": 0.1,
            "old": numbers(old),
            "ref": numbers(ref),
            "scores": numbers(scores),
            "rewards": numbers(data.batch["token_level_rewards"]),
            "current_kl": metrics["actor/reward_kl_penalty"],
            "next_coef": float(controller.value),
        }


def overlong_cases(manager):
    """Lengths up to the limit: beyond it verl's penalty goes on growing and ours is clamped."""
    lengths, width = [1, 12, 13, 15, 18, 20], 20
    config = types.SimpleNamespace(enable=True, len=8, penalty_factor=0.5, log=False)
    tokenizer = types.SimpleNamespace(
        decode=lambda ids, skip_special_tokens: "answer", eos_token="</s>"
    )
    made = manager(
        tokenizer, 0, lambda **kwargs: 0.0, max_resp_len=width, overlong_buffer_cfg=config
    )
    made._extract_reward_from_rm_scores = lambda data, return_dict: None

    class Rows(list):
        batch = {"responses": torch.zeros(len(lengths), width)}

    def row(length):
        mask = torch.cat([torch.ones(1), (torch.arange(width) < length).float()]).long()
        tokens = torch.zeros(width, dtype=torch.int64)
        extra = {"reward_model": {"ground_truth": ""}, "data_source": "none"}
        return types.SimpleNamespace(
            batch={"prompts": tokens[:1], "responses": tokens, "attention_mask": mask},
            non_tensor_batch=extra,
        )

    rewards = made(Rows(row(n) for n in lengths)).sum(1)
    yield {
        "lengths": lengths,
        "max_len": width,
        "buffer_len": 8,
        "factor": 0.5,
        "penalties": numbers(rewards),
    }


def masked_cases(core):
    x, mask = RNG.normal(2.0, 3.0, (4, 6)), ragged(4, 6)
    logits = RNG.normal(0.0, 3.0, (2, 4, 9))
    yield {
        "x": numbers(x),
        "mask": numbers(mask),
        "mean": core.verl_F.masked_mean(tensor(x), tensor(mask)).item(),
        "whitened": {
            str(s): numbers(core.verl_F.masked_whiten(tensor(x), tensor(mask), s))
            for s in (True, False)
        },
        "logits": numbers(logits),
        "entropy": numbers(core.verl_F.entropy_from_logits(tensor(logits))),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--verl", type=pathlib.Path, required=True, help=f"checkout of verl {COMMIT[:8]}"
    )
    core, manager, apply_kl_penalty = load_verl(parser.parse_args().verl)
    made = {
        "made_by": "tests/golden/make_verl.py",
        "versions": {
            "verl": COMMIT,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        "gae": list(gae_cases(core)),
        "groups": list(group_cases(core)),
        "policy": list(policy_cases(core)),
        "value": list(value_cases(core)),
        "kl": list(kl_cases(core)),
        "kl_penalty": list(penalty_cases(core, apply_kl_penalty)),
        "overlong": list(overlong_cases(manager)),
        "masked": list(masked_cases(core)),
    }
    (HERE / "verl.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
