"""SFT on messages in TRL 1.16."""

from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

dataset = load_dataset("json", data_files="chats.jsonl", split="train")
arguments = SFTConfig(
    output_dir="sft",
    max_length=128,
    per_device_train_batch_size=4,
    num_train_epochs=2,
)
trainer = SFTTrainer(
    model="HuggingFaceTB/SmolLM2-135M-Instruct", args=arguments, train_dataset=dataset
)
trainer.train()
trainer.save_model("sft/final")
