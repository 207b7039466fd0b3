"""DPO with an SFT term (RPO) in TRL 1.16."""

from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

dataset = load_dataset("json", data_files="pairs.jsonl", split="train")
arguments = DPOConfig(
    output_dir="dpo",
    beta=0.1,
    loss_type=["sigmoid", "sft"],
    loss_weights=[1.0, 0.1],
    max_length=128,
    per_device_train_batch_size=4,
    max_steps=2,
)
trainer = DPOTrainer(
    model="HuggingFaceTB/SmolLM2-135M-Instruct", args=arguments, train_dataset=dataset
)
trainer.train()
trainer.save_model("dpo/final")
