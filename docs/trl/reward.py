"""A reward model in TRL 1.16."""

from datasets import load_dataset
from trl import RewardConfig, RewardTrainer

dataset = load_dataset("json", data_files="pairs.jsonl", split="train")
arguments = RewardConfig(
    output_dir="reward",
    center_rewards_coefficient=0.01,
    max_length=128,
    per_device_train_batch_size=4,
    max_steps=2,
)
trainer = RewardTrainer(
    model="HuggingFaceTB/SmolLM2-135M-Instruct", args=arguments, train_dataset=dataset
)
trainer.train()
trainer.save_model("reward/final")
