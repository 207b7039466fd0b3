"""Whole configurations: files, overrides, round trips, mistakes."""

import math
import pathlib
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.algorithms import ALGORITHMS, DPOConfig, algorithm_config, algorithm_name
from rlhf_jax.config import (
    Config,
    ConfigError,
    ModelSection,
    TrainingConfig,
    describe_section,
    dump_config,
    load_config,
    make_config,
    trained_vocab_size,
)
from rlhf_jax.config.other_names import KEYS, REASONS
from rlhf_jax.data import DataConfig
from rlhf_jax.fields import all_keys, choices, settable
from rlhf_jax.models import LAYERS, REMAT
from rlhf_jax.models.attention import IMPLEMENTATIONS
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rollout import RolloutConfig
from rlhf_jax.types import Models

DPO = """
algorithm: {name: dpo, beta: 0.05}
run_dir: runs/dpo
model: {path: runs/sft/export}
data: {path: pairs.jsonl, eval_fraction: 0.1}
optimizer:
  learning_rate: 5e-7
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "dpo.yaml"
    path.write_text(DPO)
    return path


def test_differences_from_the_defaults(file):
    config = load_config(file)
    assert config.algorithm == DPOConfig(beta=0.05)
    assert config.optimizer.learning_rate == 5e-7
    assert config.model == ModelSection(path="runs/sft/export")
    assert config.training == TrainingConfig()
    assert config.data == DataConfig(path="pairs.jsonl", eval_fraction=0.1)
    assert algorithm_name(config.algorithm) == "dpo"


def test_overrides_are_typed_and_the_last_one_wins(file):
    config = load_config(
        file,
        [
            "optimizer.learning_rate=1e-5",
            "training.max_steps=1e2",
            "data.path=a: b #c.jsonl",
            "data.columns={chosen: better}",
            "data.columns.rejected=worse",
            "optimizer.decay_exclude=[norm, bias]",
            "checkpoint={keep_last: 1}",
            "optimizer.max_grad_norm=null",
            "seed=1",
            "seed=2",
            "run_dir=2024",
            "tokenizer=",
            "algorithm.loss_type=ipo",
            "model.path=null",
            "model.config={model_type: qwen2, rope_theta: 1e6}",
            "tokenizer=bpe:512",
        ],
    )
    assert config.optimizer.learning_rate == 1e-5
    assert config.training.max_steps == 100 and isinstance(config.training.max_steps, int)
    assert config.data.path == "a: b #c.jsonl"
    assert config.data.columns == {"chosen": "better", "rejected": "worse"}
    assert config.optimizer.decay_exclude == ("norm", "bias")
    assert config.checkpoint.keep_last == 1
    assert config.optimizer.max_grad_norm is None
    assert (config.seed, config.run_dir) == (2, "2024")
    assert config.algorithm.loss_type == "ipo"
    assert config.model.config == {"model_type": "qwen2", "rope_theta": 1e6}
    assert trained_vocab_size(config.tokenizer) == 512


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.learning_rate=fast",
            "optimizer.learning_rate: 'fast' is not allowed; allowed: a number or null (override '",
        ),
        (
            "optimizer.lr=1",
            "optimizer.lr: unknown key; allowed in optimizer: name, learning_rate, ",
        ),
        (
            "training.batchsize=1",
            "training.batchsize: unknown key; allowed in training: batch_size, ",
        ),
        ("beta=1", "beta: unknown key; allowed at the top level: algorithm, "),
        (
            "algorithm.bta=1",
            "algorithm.bta: unknown key; allowed in algorithm: beta, loss_type, loss_weights, "
            "label_smoothing, discopop_tau, reference; did you",
        ),
        ("algorithm.loss_type=sigmiod", "algorithm.loss_type: loss_type="),
        (
            "algorithm.name=dop",
            "algorithm.name: 'dop' is not an algorithm; allowed: sft, reward_model, dpo, kto, "
            "ppo, grpo, dapo; did you",
        ),
        ("algorithm=dpo", "algorithm.name: 'dpo' has no name; allowed: sft, "),
        (
            "training.batch_size=0",
            "training.batch_size=0 must be at least 1 (override 'training.batch_size=0')",
        ),
        (
            "training.num_microbatches=3",
            "training.num_microbatches=3 must divide batch_size=8 (override",
        ),
        (
            "training.batch_size",
            "override 'training.batch_size': write section.key=value, for example "
            "training.batch_size=8",
        ),
        ("=3", "override '=3': write section.key=value"),
        ("training..x=3", "override 'training..x=3': write section.key=value"),
        ("data.columns={a", "override 'data.columns={a': not valid YAML: line 1: "),
        ("data.path=", "data.path: '' is not allowed; allowed: text"),
        (
            "data={split: x}",
            "data.path: required and not given; allowed: text (override 'data={split: x}')",
        ),
        ("data.eval_fraction=2", "data.eval_fraction 2.0 must be from 0"),
        ("seed=-1", "seed=-1 must be from 0 to 4294967295"),
        ("seed=4294967296", "seed=4294967296 must be from 0 to 4294967295"),
        (
            "mesh.replicate=['[']",
            "mesh.replicate: '[' is not a regular expression: unterminated character set",
        ),
        ("seed.x=1", "seed: {'x': 1} is not allowed; allowed: a whole number"),
        ("mesh.fsdp=0", "mesh.fsdp=0 must be at least 1, or -1"),
        (
            "checkpoint.resume=allways",
            "checkpoint.resume: 'allways' is not allowed; allowed: one of: auto, never, must",
        ),
        ("checkpoint.keep_best=1", "checkpoint.keep_best=1 needs best_metric"),
        ("checkpoint.keep_last=0", "checkpoint.keep_last=0 must be at least 1"),
        ("checkpoint.keep_every=0", "checkpoint.keep_every=0 must be at least 1, or null"),
        ("checkpoint.export_every=0", "checkpoint.export_every=0 must be at least 1, or null"),
        (
            "model.dtype=float16",
            "model.dtype: 'float16' is not allowed; allowed: one of: float32, bfloat16; did you "
            "mean 'bfloat16'?",
        ),
        (
            "model.config={model_type: qwen2}",
            "model.path='runs/sft/export' and model.config are both given",
        ),
        (
            "model.path=null",
            "model: give model.path (a Hugging Face folder or hub id) or model.config",
        ),
        ("run_dir=''", "run_dir is empty"),
        (
            "model.remat=ful",
            "model.remat: 'ful' is not allowed; allowed: one of: auto, none, products, ",
        ),
    ],
)
def test_a_mistake_is_one_line(file, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(file, [override])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


GRPO = ["algorithm={name: grpo}", "rewards=[{function: math}]"]
BEST = ["checkpoint.keep_best=1", "checkpoint.best_metric=rewards/accuracy"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [*BEST, "data.eval_fraction=0"],
            "^checkpoint.keep_best=1 needs held-out data: give data.eval_path",
        ),
        (
            [*BEST, "training.eval_every=0"],
            "^checkpoint.keep_best=1 needs evaluations: training.eval_every=0 must",
        ),
        (
            [*BEST, "training.eval_every=30"],
            "^checkpoint.keep_best=1 needs training.save_every=100 to be a multiple of "
            "training.eval_every=30",
        ),
        (
            ["model.reference=m", "algorithm.reference=none"],
            "^model.reference='m' has no use in this run; leave it null",
        ),
        (
            ["model.reference=m", "algorithm={name: sft}"],
            "^model.reference='m' has no use in this run; leave it null",
        ),
        (
            ["model.reference=m", "algorithm={name: reward_model}"],
            "^model.reference='m' has no use in this run",
        ),
        (
            ["model.reference=m", *GRPO],
            "^model.reference='m' has no use in this run; .* with algorithm.kl_coef above 0",
        ),
        (
            ["model.reference=m", *GRPO, "algorithm.name=dapo"],
            "^model.reference='m' has no use in this run",
        ),
        (
            ["model.critic=m", *GRPO],
            "^model.critic='m' has no use in this run; leave it null, or choose algorithm.name=ppo",
        ),
        (
            ["model.critic=m", *GRPO, "algorithm={name: ppo, critic: shared}"],
            "^model.critic='m' has no use in this run",
        ),
        (
            ["rollout.max_new_tokens=8"],
            "^rollout is given, but algorithm.name=dpo samples no completions; remove the section",
        ),
        (
            ["rewards=[{function: math}]"],
            "^rewards is given, but algorithm.name=dpo samples no completions",
        ),
        (
            ["reward_pool.workers=3"],
            "^reward_pool is given, but algorithm.name=dpo samples no completions",
        ),
        (
            ["evaluation.samples=8"],
            "^evaluation is given, but algorithm.name=dpo samples no completions",
        ),
        (
            ["algorithm={name: grpo}"],
            "^rewards is empty, but algorithm.name=grpo learns from rewards; give at least one, "
            "for",
        ),
        (
            [*GRPO, "rewards=[{function: math}, {function: math}]"],
            "^rewards: 'math' names two of them; give each its own name",
        ),
        (
            [*GRPO, "algorithm={name: dapo, accuracy_reward: maths}"],
            "^algorithm.accuracy_reward='maths' is not among the rewards, which are math",
        ),
        (
            [*GRPO, "data.max_prompt_len=9"],
            "^data.max_prompt_len=9 is for the offline algorithms; set rollout.max_prompt_len",
        ),
        (
            [*GRPO, "rewards[1].weight=2"],
            r"^override 'rewards\[1\].weight=2': there is no \[1\]: the list has 1 items, counted",
        ),
        (
            [*GRPO, "rewards[0].wieght=2"],
            r"^rewards\[0\].wieght: unknown key; allowed in rewards\[0\]: function, .*override",
        ),
        (
            [*GRPO, "rewards[0].weight=big"],
            r"^rewards\[0\].weight: 'big' is not allowed; allowed: a number \(override",
        ),
        (
            [*GRPO, "rewards[0].weight=.nan"],
            r"^rewards\[0\].weight: rewards.weight nan of 'math' is not a finite number "
            r"\(override 'rewards\[0\].weight=.nan'\)$",
        ),
        (
            [*GRPO, "rewards[x].weight=2"],
            r"^rewards\[x\]: unknown key; .*\(override 'rewards\[x\].weight=2'\)$",
        ),
        (
            [*GRPO, "rollout.mesh.data=0"],
            "^rollout.mesh.data: mesh.data=0 must be at least 1, .*override 'rollout.mesh.data=0'",
        ),
        (
            ["mesh.tensor=-1"],
            r"^mesh.tensor=-1 and fsdp=-1: only one axis may be -1 \(override 'mesh.tensor=-1'\)$",
        ),
        (
            ["optimizer.warmup_steps=1", "optimizer.warmup_ratio=0.1"],
            r"^optimizer.warmup_steps=1 and warmup_ratio=0.1: give one .*warmup_steps=1'\)$",
        ),
        ([*GRPO, "rewards=math"], "^rewards: 'math' is not allowed; allowed: a list"),
        ([*GRPO, "evaluation.samples=-1"], "^evaluation.samples=-1 must not be negative"),
        (
            [*GRPO, "evaluation.max_prompts=0"],
            "^evaluation.max_prompts=0 must be at least 1, or null for all",
        ),
        ([*GRPO, "evaluation.temperature=0"], "^evaluation.temperature=0.0 must be above 0"),
        ([*GRPO, "evaluation.top_p=0"], "^evaluation.top_p=0.0 must be above 0 and at most 1"),
        ([*GRPO, "logging.completions=-1"], "^logging.completions=-1 must not be negative"),
        (
            [*GRPO, "rollout.max_new_tokens=0"],
            "^rollout.max_new_tokens: max_new_tokens=0 must be at least 1",
        ),
    ],
)
def test_sections_that_do_not_fit_together(file, overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(file, overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [*BEST, "training.eval_every=50"],
        [*BEST, "training.eval_every=0", "training.save_every=0"],
        ["model.reference=m"],
        ["model.reference=m", "algorithm.reference=online"],
        ["model.reference=m", *GRPO, "algorithm.kl_coef=0.1"],
        ["model.reference=m", "model.critic=r", *GRPO, "algorithm.name=ppo"],
        [*GRPO, "training.batch_size=4", "training.num_microbatches=8"],
        [
            *GRPO,
            "rollout.mesh={tensor: 2}",
            "logging.save_completions=none",
            "evaluation.max_prompts=null",
        ],
        ["seed=4294967295"],
    ],
)
def test_sections_that_fit_together(file, overrides):
    assert load_config(file, overrides).data.has_eval


def test_unknown_keys_are_told_before_wrong_values_and_those_before_what_is_missing(file):
    overrides = ["rollout.top_p=0", "data={eval_size: many}", "training.bach_size=8"]
    messages = []
    for count in (3, 2, 1):
        with pytest.raises(ConfigError) as error:
            load_config(file, [*overrides[:count], *GRPO])
        messages.append(str(error.value).partition(":")[0])
    assert messages == ["training.bach_size", "data.eval_size", "rollout.top_p"]


@dataclass(frozen=True)
class OwnConfig:
    """Options of an algorithm that a user registers."""

    data: ClassVar[str] = "text"
    models: ClassVar[Models] = Models()
    sampling: ClassVar[None] = None

    temperature: float = 1.0
    mode: Literal["fast", "slow"] = "fast"
    schedule: pathlib.PurePath | None = None
    lengths: tuple[int, ...] = ()
    derived: int = field(default=0, init=False)

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        if self.mode == "slow" and not self.lengths:
            raise ValueError("nothing fits the slow mode")


def test_an_algorithm_of_a_user(file, tmp_path, monkeypatch):
    def make(config: OwnConfig, model):
        raise AssertionError("a configuration makes no algorithm")

    overrides = ["algorithm={name: own, mode: slow}", "algorithm.lengths=[8, 1e3]"]
    with pytest.raises(ConfigError, match="^algorithm.name: 'own' is not an algorithm; allowed: "):
        load_config(file, overrides)
    monkeypatch.setitem(ALGORITHMS, "own", make)
    config = load_config(file, overrides)
    assert config.algorithm == OwnConfig(mode="slow", lengths=(8, 1000))
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    for override, message in {
        "algorithm.mode=slwo": "algorithm.mode: 'slwo' is not allowed; allowed: one of: fast, "
        "slow; did you mean 'slow'?",
        "algorithm.temperature=0": "algorithm.temperature: temperature=0.0 must be above 0",
        "algorithm.lengths=[]": "algorithm: nothing fits the slow mode",
        "algorithm.derived=1": "algorithm.derived: unknown key; allowed in algorithm: temperature, "
        "mode, schedule, lengths (override",
        "rollout.temperature=1": "rollout.temperature: unknown key; ",
    }.items():
        with pytest.raises(ConfigError) as error:
            load_config(file, [*overrides, override])
        assert str(error.value).startswith(message)
        place = "algorithm={name: own, mode: slow}" if "nothing" in message else override
        assert str(error.value).endswith(f" (override '{place}')")


def test_rewards(file):
    file.write_text(
        DPO.replace("dpo, beta: 0.05", "grpo")
        + "rewards:\n- function: math\n- {function: length, weight: 0.5}\n"
    )
    options = [
        "rewards[1].options={max_len: 8}",
        "rewards[1].options.buffer_len=4",
        "rewards[0].name=right",
        "rollout.top_k=5",
    ]
    config = load_config(file, options)
    length = RewardConfig(function="length", weight=0.5, options={"max_len": 8, "buffer_len": 4})
    assert config.rewards == (RewardConfig(function="math", name="right"), length)
    assert config.rollout == RolloutConfig(top_k=5) and config.is_online
    assert make_config(config.to_tree()) == config
    with pytest.raises(
        ConfigError,
        match=r"^rewards\[1\].wieght: unknown key; .*did you mean .*weight.*dpo.yaml line 10\)$",
    ):
        file.write_text(file.read_text().replace("weight", "wieght"))
        load_config(file)


def test_a_mistake_in_a_file_names_the_line(file):
    file.write_text(DPO + "  warmup: 10\n")
    with pytest.raises(
        ConfigError,
        match=r"optimizer.warmup: unknown key; .*did you mean 'optimizer.warmup_\w+'\? "
        r"\(.*dpo.yaml line 8\)$",
    ):
        load_config(file)


def test_missing_parts(file, tmp_path):
    file.write_text(DPO.replace("run_dir: runs/dpo\n", ""))
    with pytest.raises(ConfigError, match="^run_dir: required and not given; allowed: text$"):
        load_config(file)
    file.write_text("run_dir: x\n")
    with pytest.raises(
        ConfigError,
        match=r"^algorithm.name: required and not given; allowed: sft, .* \{name: dpo\}$",
    ):
        load_config(file)
    with pytest.raises(
        ConfigError, match="dpp.yaml: no such configuration file; did you mean '.*dpo.yaml'"
    ):
        load_config(tmp_path / "dpp.yaml")
    with pytest.raises(ConfigError, match="no such configuration file$"):
        load_config(tmp_path / "nowhere" / "zzzzzzzz.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory$"):
        load_config(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read: not UTF-8 text$"):
        load_config(file)


def test_a_model_from_config_needs_a_tokenizer(file):
    with pytest.raises(ConfigError, match="tokenizer is null, but there is no model folder"):
        load_config(file, ["model.path=null", "model.config={model_type: qwen2}"])


def test_resolved_file_reads_back_equal(file, tmp_path):
    config = load_config(
        file,
        [
            "model.path=null",
            "model.config={a: [1e-5, x], b: {}}",
            "tokenizer=byte",
            "data.buckets=[8, 1024]",
        ],
    )
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert make_config(config.to_tree()) == config


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_reads_back_equal(name, tmp_path):
    algorithm = algorithm_config(name)()
    rewards = (
        (RewardConfig(function="math", options={"a": 1}),) if algorithm.data == "prompts" else ()
    )
    config = Config(
        algorithm=algorithm,
        run_dir="x",
        data=DataConfig(path="x"),
        model=ModelSection(path="m"),
        rewards=rewards,
    )
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert describe_section(algorithm_config(name)), "an algorithm has options"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    run_dir=TEXT,
    path=TEXT,
    rate=st.floats(0, allow_infinity=False),
    columns=st.dictionaries(TEXT, TEXT),
    seed=st.integers(0, 2**32 - 1),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_values_read_back_equal(tmp_path, run_dir, path, rate, columns, seed):
    tree = {
        "algorithm": {"name": "dpo"},
        "run_dir": run_dir,
        "seed": seed,
        "data": {"path": path, "columns": columns},
        "model": {"path": path},
        "optimizer": {"learning_rate": rate},
    }
    config = make_config(tree)
    assert (config.run_dir, config.data.path, config.optimizer.learning_rate) == (
        run_dir,
        path,
        rate,
    )
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_stops_may_be_named_for_offline_runs(file):
    assert load_config(file, ["rollout.stop=['<|im_end|>']"]).rollout.stop == ("<|im_end|>",)


def test_what_may_change_between_a_run_and_its_continuation(file, tmp_path):
    dump_config(load_config(file), tmp_path / "config.yaml")
    free = [
        "run_dir=elsewhere",
        "mesh.data=2",
        "training.save_every=7",
        "logging.wandb=true",
        "checkpoint.resume=must",
    ]
    assert load_config(file, free).changes_since(tmp_path / "config.yaml") == []
    changed = load_config(file, ["algorithm.beta=0.2", "training.max_steps=3"])
    assert changed.changes_since(tmp_path / "config.yaml") == [
        "algorithm.beta: 0.05 -> 0.2",
        "training.max_steps: None -> 3",
    ]


def test_what_may_change_in_an_online_run(file, tmp_path):
    dump_config(load_config(file, GRPO), tmp_path / "config.yaml")
    free = [
        "reward_pool.timeout=3",
        "evaluation.samples=8",
        "rollout.slots=4",
        "rollout.chunk=8",
        "rollout.mesh={tensor: 2}",
    ]
    assert load_config(file, [*GRPO, *free]).changes_since(tmp_path / "config.yaml") == []
    changed = load_config(
        file, [*GRPO, "rollout.top_p=0.5", "rewards[0].weight=2", "rewards[0].options={a: 1}"]
    )
    assert changed.changes_since(tmp_path / "config.yaml") == [
        "rewards[0].options: {} -> None",
        "rewards[0].options.a: None -> 1",
        "rewards[0].weight: 1.0 -> 2.0",
        "rollout.top_p: 1.0 -> 0.5",
    ]
    older = "\n".join(
        line for line in load_config(file, GRPO).to_yaml().splitlines() if "batched" not in line
    )
    (tmp_path / "config.yaml").write_text(older)
    assert load_config(file, GRPO).changes_since(tmp_path / "config.yaml") == []


def test_a_run_made_before_an_option_existed_can_go_on(file, tmp_path):
    config = load_config(file)
    older = [
        line
        for line in config.to_yaml().splitlines()
        if "label_smoothing" not in line and "pad_multiple" not in line
    ]
    (tmp_path / "config.yaml").write_text("\n".join(older))
    assert config.changes_since(tmp_path / "config.yaml") == []
    changed = load_config(file, ["data.pad_multiple=32", "data.columns={chosen: better}"])
    changes = changed.changes_since(tmp_path / "config.yaml")
    assert (
        "data.pad_multiple: 16 -> 32" in changes
        and "data.columns.chosen: None -> 'better'" in changes
    )


def test_unregistered_algorithm_is_refused():
    with pytest.raises(
        ValueError,
        match="TrainingConfig is not the configuration of an algorithm; known: SFTConfig, ",
    ):
        Config(algorithm=TrainingConfig(), run_dir="x", data=DataConfig(path="x"))


def test_infinite_number_survives(file, tmp_path):
    config = load_config(file, ["optimizer.max_grad_norm=.inf"])
    assert config.optimizer.max_grad_norm == math.inf
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_model_options_are_those_of_the_models():
    keys = settable(ModelSection)
    assert set(choices(keys["remat"].type)) == set(REMAT)
    assert set(choices(keys["layers"].type)) == set(LAYERS)
    assert set(choices(keys["attention"].type)) == set(IMPLEMENTATIONS)


def test_every_option_is_documented():
    classes = [Config, *map(algorithm_config, ("sft", "reward_model", "dpo"))]
    undocumented = [row.key for cls in classes for row in describe_section(cls) if not row.doc]
    assert undocumented == []


@pytest.mark.parametrize(
    ("algorithm", "key", "meant"),
    [
        ("grpo", "optimizer.lr", "optimizer.learning_rate"),
        ("grpo", "training.lr", "optimizer.learning_rate"),
        ("grpo", "rollout.temperature", "algorithm.temperature"),
        ("grpo", "rollout.num_generations", "algorithm.group_size"),
        ("grpo", "rollout.max_completion_length", "rollout.max_new_tokens"),
        ("sft", "training.per_device_train_batch_size", "training.batch_size"),
        ("dpo", "training.gradient_accumulation_steps", "training.num_microbatches"),
        ("grpo", "algorithm.beta", "algorithm.kl_coef"),
        ("dpo", "training.beta", "algorithm.beta"),
        ("sft", "training.max_length", "data.max_length"),
        ("sft", "training.warmup_steps", "optimizer.warmup_steps"),
        ("sft", "training.eval_steps", "training.eval_every"),
        ("sft", "output_dir", "run_dir"),
        # what users.md saw go astray
        ("grpo", "algorithm.epsilon", "algorithm.clip_low"),
        ("grpo", "algorithm.scale_rewards", "algorithm.normalize_std"),
        ("grpo", "algorithm.num_generations", "algorithm.group_size"),
        ("grpo", "algorithm.mask_truncated_completions", "algorithm.mask_truncated"),
        ("dapo", "algorithm.mask_truncated_completions", "algorithm.overlong_filtering"),
        ("grpo", "training.learning_rate", "optimizer.learning_rate"),
        # TRL
        ("grpo", "algorithm.loss_type", "algorithm.preset"),
        ("dpo", "training.loss_type", "algorithm.loss_type"),
        ("grpo", "algorithm.delta", "algorithm.dual_clip"),
        ("grpo", "algorithm.importance_sampling_level", "algorithm.level"),
        ("grpo", "algorithm.use_bias_correction_kl", "algorithm.kl_unbiased"),
        ("grpo", "algorithm.steps_per_generation", "algorithm.num_minibatches"),
        ("grpo", "reward_funcs", "rewards"),
        ("grpo", "evaluation.num_generations_eval", "evaluation.samples"),
        ("grpo", "rollout.stop_strings", "rollout.stop"),
        ("ppo", "algorithm.cliprange_value", "algorithm.value_clip"),
        ("ppo", "algorithm.lam", "algorithm.gae_lambda"),
        ("ppo", "algorithm.num_mini_batches", "algorithm.num_minibatches"),
        ("dpo", "algorithm.precompute_ref_log_probs", "algorithm.reference"),
        ("dpo", "algorithm.rpo_alpha", "algorithm.loss_weights"),
        ("sft", "data.dataset_num_proc", "data.num_proc"),
        ("sft", "training.packing", "data.packing"),
        ("sft", "model.gradient_checkpointing", "model.remat"),
        ("sft", "training.bf16", "model.compute_dtype"),
        ("sft", "optimizer.adam_beta2", "optimizer.b2"),
        ("sft", "logging.report_to", "logging.wandb"),
        ("sft", "training.load_best_model_at_end", "checkpoint.keep_best"),
        ("sft", "training.early_stopping_patience", "training.early_stopping"),
        # verl
        ("grpo", "algorithm.adv_estimator", "algorithm.preset"),
        ("grpo", "actor_rollout_ref.actor.ppo_mini_batch_size", "algorithm.num_minibatches"),
        ("grpo", "actor_rollout_ref.actor.entropy_coeff", "algorithm.entropy_coef"),
        ("grpo", "actor_rollout_ref.rollout.n", "algorithm.group_size"),
        ("grpo", "data.max_response_length", "rollout.max_new_tokens"),
        ("grpo", "trainer.total_training_steps", "training.max_steps"),
        ("grpo", "trainer.n_gpus_per_node", "mesh.fsdp"),
        ("grpo", "trainer.default_local_dir", "run_dir"),
        ("dapo", "algorithm.filter_groups", "algorithm.dynamic_sampling"),
        ("dapo", "algorithm.max_num_gen_batches", "algorithm.max_generation_batches"),
        # Tunix
        ("grpo", "rollout.max_tokens_to_generate", "rollout.max_new_tokens"),
        ("grpo", "training.eval_every_n_steps", "training.eval_every"),
        ("grpo", "training.train_micro_batch_size", "training.num_microbatches"),
        ("grpo", "checkpoint.max_to_keep", "checkpoint.keep_last"),
        ("grpo", "algorithm.kl_loss_mode", "algorithm.kl_kind"),
        # typing mistakes
        ("grpo", "trainig.batch_size", "training"),
        ("grpo", "algorithm.grup_size", "algorithm.group_size"),
        ("grpo", "rollout.batch_size", "training.batch_size"),
    ],
)
def test_names_of_other_libraries_lead_to_ours(tmp_path, algorithm, key, meant):
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: x\nalgorithm: {{name: {algorithm}}}\ndata: {{path: x}}\n")
    with pytest.raises(
        ConfigError, match=rf"^[\w.]+: unknown key; .*; did you mean '{meant}'\? \(override"
    ) as error:
        load_config(path, [f"{key}=1"])
    assert key.startswith(str(error.value).partition(":")[0])


def test_every_name_of_another_library_leads_to_a_key():
    keys = {key.key for key in all_keys(settable(Config))}
    for name in ALGORITHMS:
        keys |= {f"algorithm.{field}" for field in settable(algorithm_config(name))}
    assert {key for meant in KEYS.values() for key in meant} <= keys
    assert not set(KEYS) & set(REASONS)
    assert len(KEYS) + len(REASONS) > 150


@pytest.mark.parametrize(
    ("algorithm", "key", "reason"),
    [
        ("grpo", "use_peft", "there are no adapters .LoRA.: all weights are trained"),
        ("sft", "model.lora_r", "there are no adapters"),
        ("dpo", "model.load_in_4bit", "weights are not quantised"),
        ("grpo", "rollout.use_vllm", "there is no vLLM or SGLang"),
        ("grpo", "rollout.vllm_gpu_memory_utilization", "there is no vLLM or SGLang"),
        ("sft", "push_to_hub", "nothing is uploaded: RUN/export is a Hugging Face folder"),
        (
            "grpo",
            "rollout.repetition_penalty",
            "completions are drawn as the model says: there is no",
        ),
        ("dpo", "algorithm.sync_ref_model", "the reference stays as it is"),
        ("sft", "training.use_liger_kernel", "the loss never holds all logits"),
    ],
)
def test_what_is_not_there_is_said_with_the_reason(tmp_path, algorithm, key, reason):
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: x\nalgorithm: {{name: {algorithm}}}\ndata: {{path: x}}\n")
    with pytest.raises(ConfigError, match=rf"^{key}: unknown key; allowed .*; {reason}") as error:
        load_config(path, [f"{key}=1"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key", ["algorithm.zzz", "training.colour", "rollout.wobble", "model.unheard_of"]
)
def test_a_shared_section_is_no_likeness(tmp_path, key):
    path = tmp_path / "run.yaml"
    path.write_text("run_dir: x\nalgorithm: {name: grpo}\ndata: {path: x}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path, [f"{key}=1"])
    assert "did you mean" not in str(error.value)
