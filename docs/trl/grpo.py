"""GRPO in TRL 1.16, with two rewards that compare completions."""

from datasets import load_dataset
from rewards import right, shortest
from trl import GRPOConfig, GRPOTrainer

dataset = load_dataset("json", data_files="questions.jsonl", split="train")
dataset = dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
arguments = GRPOConfig(
    output_dir="grpo",
    num_generations=4,
    per_device_train_batch_size=16,  # completions: 4 prompts x 4
    max_completion_length=16,
    loss_type="grpo",
    reward_weights=[1.0, 0.2],
    max_steps=2,
)
trainer = GRPOTrainer(
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    reward_funcs=[right, shortest],
    args=arguments,
    train_dataset=dataset,
)
trainer.train()
trainer.save_model("grpo/final")
