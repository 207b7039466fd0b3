"""How TRL, verl and Tunix call an option: to the key here, or to the reason that there is none."""

_KEYS = {
    "run_dir": "output_dir default_local_dir checkpoint_root_directory checkpoint_dir",
    "algorithm.aggregation": "loss_agg_mode",
    "algorithm.beta": "dpo_beta tau",
    "algorithm.clip_high": "epsilon_high clip_ratio_high",
    "algorithm.clip_low": "epsilon clip_ratio clip_ratio_low cliprange",
    "algorithm.desirable_weight": "desirable_coef",
    "algorithm.dual_clip": "delta clip_ratio_c epsilon_c",
    "algorithm.dynamic_sampling": "filter_groups",
    "algorithm.entropy_coef": "entropy_coeff",
    "algorithm.gae_lambda": "lam",
    "algorithm.group_size": "num_generations rollout_n n n_samples",
    "algorithm.importance_cap": "importance_sampling_cap tis_imp_ratio_cap rollout_is_threshold "
    "vllm_importance_sampling_cap",
    "algorithm.kl_coef": "beta kl_loss_coef init_kl_coef use_kl_loss kl_ctrl",
    "algorithm.kl_horizon": "horizon",
    "algorithm.kl_kind": "kl_loss_type kl_loss_mode kl_estimator",
    "algorithm.kl_target": "target_kl",
    "algorithm.kl_unbiased": "use_bias_correction_kl",
    "algorithm.level": "importance_sampling_level loss_algo",
    "algorithm.loss_weights": "rpo_alpha",
    "algorithm.mask_truncated": "mask_truncated_completions overlong_filtering",
    "algorithm.max_generation_batches": "max_num_gen_batches",
    "algorithm.missing_eos_penalty": "stop_properly_penalty_coef",
    "algorithm.normalize_std": "scale_rewards norm_adv_by_std_in_grpo",
    "algorithm.num_epochs": "num_iterations ppo_epochs num_ppo_epochs",
    "algorithm.num_minibatches": "steps_per_generation num_mini_batches ppo_mini_batch_size "
    "mini_batch_size",
    "algorithm.overlong_buffer_len": "overlong_buffer soft_punish_cache",
    "algorithm.overlong_filtering": "mask_truncated mask_truncated_completions",
    "algorithm.preset": "loss_type adv_estimator",
    "algorithm.reference": "precompute_ref_log_probs reference_free",
    "algorithm.temperature": "temperature",
    "algorithm.value_clip": "cliprange_value",
    "checkpoint.best_metric": "metric_for_best_model",
    "checkpoint.keep_best": "load_best_model_at_end",
    "checkpoint.keep_last": "save_total_limit max_to_keep",
    "checkpoint.start_from": "resume_from_checkpoint resume_from_path",
    "data.chat_template": "chat_template_path",
    "data.eval_path": "val_files",
    "data.max_length": "max_length max_seq_length",
    "data.num_proc": "dataset_num_proc",
    "data.path": "train_files dataset_name",
    "data.shuffle": "shuffle_dataset",
    "data.subset": "dataset_config",
    "data.train_on": "assistant_only_loss completion_only_loss",
    "data.truncation": "truncation_mode",
    "evaluation.samples": "num_generations_eval val_kwargs",
    "logging.completions": "num_completions_to_print",
    "logging.save_completions": "log_completions",
    "logging.wandb": "report_to logger",
    "logging.wandb_name": "run_name experiment_name",
    "logging.wandb_project": "project_name",
    "mesh.fsdp": "fsdp_config fsdp_size deepspeed ds_config num_processes_per_node n_gpus_per_node",
    "mesh.tensor": "tensor_model_parallel_size",
    "model.attention": "attn_implementation",
    "model.compute_dtype": "bf16 fp16 mixed_precision",
    "model.critic": "value_model_path",
    "model.dtype": "torch_dtype",
    "model.path": "model_name_or_path model_id",
    "model.reference": "ref_model sft_model_path",
    "model.remat": "gradient_checkpointing enable_gradient_checkpointing",
    "optimizer.b1": "adam_beta1 beta1",
    "optimizer.b2": "adam_beta2 beta2",
    "optimizer.eps": "adam_epsilon",
    "optimizer.learning_rate": "lr learning_rate actor_learning_rate",
    "optimizer.max_grad_norm": "max_grad_norm grad_clip clip_grad",
    "optimizer.name": "optim",
    "optimizer.schedule": "lr_scheduler_type",
    "optimizer.warmup_ratio": "warmup_ratio lr_warmup_steps_ratio",
    "optimizer.warmup_steps": "warmup_steps lr_warmup_steps",
    "optimizer.weight_decay": "weight_decay",
    "rewards": "reward_funcs custom_reward_function",
    "rewards[].weight": "reward_weights",
    "rollout.max_new_tokens": "max_completion_length max_response_length response_length "
    "max_new_tokens max_tokens_to_generate total_generation_steps",
    "rollout.max_prompt_len": "max_prompt_length",
    "rollout.prompts_per_batch": "generation_batch_size gen_batch_size",
    "rollout.stop": "stop_strings stop_token stop_token_id",
    "training.batch_size": "per_device_train_batch_size train_batch_size",
    "training.early_stopping": "early_stopping_patience early_stopping_threshold",
    "training.eval_batch_size": "per_device_eval_batch_size val_batch_size",
    "training.eval_every": "eval_steps test_freq eval_every_n_steps eval_strategy",
    "training.log_every": "logging_steps",
    "training.max_steps": "total_training_steps",
    "training.num_epochs": "num_train_epochs total_epochs",
    "training.num_microbatches": "gradient_accumulation_steps ppo_micro_batch_size "
    "ppo_micro_batch_size_per_gpu micro_batch_size train_micro_batch_size",
    "training.pack": "padding_free use_remove_padding",
    "training.save_every": "save_steps save_freq save_interval_steps save_strategy",
}
KEYS: dict[str, tuple[str, ...]] = {}
"""Name there -> keys here, of which a run has those of its algorithm."""
for _key, _names in _KEYS.items():
    for _name in _names.split():
        KEYS[_name] = (*KEYS.get(_name, ()), _key)

SECTIONS = ("trainer", "actor_rollout_ref", "rl_training_config", "training_args")
"""Sections there: what is meant is the key inside, and not what looks like the section."""

_REASONS = {
    "there are no adapters (LoRA): all weights are trained; model.dtype=bfloat16, "
    "optimizer.name=adafactor and mesh.fsdp save memory": "use_peft peft peft_config lora "
    "lora_config lora_r lora_alpha lora_dropout lora_rank lora_target_modules target_modules "
    "lora_module_path",
    "weights are not quantised: model.dtype=bfloat16 halves them": "load_in_4bit load_in_8bit "
    "quantization_config bnb_4bit_quant_type use_bnb_nested_quant",
    "there is no vLLM or SGLang: completions are sampled by the built-in sampler, with the "
    "trainer's own weights (section rollout)": "use_vllm vllm vllm_mode vllm_server_host "
    "vllm_server_port vllm_server_base_url vllm_gpu_memory_utilization vllm_tensor_parallel_size "
    "vllm_max_model_length vllm_enable_sleep_mode vllm_importance_sampling_correction "
    "gpu_memory_utilization sglang rollout_engine",
    "nothing is uploaded: RUN/export is a Hugging Face folder, which `hf upload` takes": (
        "push_to_hub hub_model_id hub_token hub_strategy"
    ),
    "completions are drawn as the model says: there is no repetition penalty": (
        "repetition_penalty frequency_penalty presence_penalty no_repeat_ngram_size"
    ),
    "the reference stays as it is: it is not moved towards the policy": "sync_ref_model "
    "ref_model_mixup_alpha ref_model_sync_steps",
    "the loss never holds all logits, with nothing to switch on": "use_liger_kernel "
    "use_liger_loss use_fused_kernels fused_lm_head",
    "activations are not moved to the host: model.remat computes them again": (
        "activation_offloading param_offload optimizer_offload"
    ),
    "dropout is not used in training": "disable_dropout",
    "a run is always evaluated before its first step, where there is held-out data": (
        "val_before_train eval_on_start"
    ),
    "the model's code is the library's own: nothing is downloaded and run": "trust_remote_code",
}
REASONS = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Name there -> why there is no key for it."""
