#!/bin/bash
# A run on all hosts of a TPU slice, a process each:
#
#     configs/launch/tpu_vm.sh my-slice us-east5-b configs/grpo_gsm8k.yaml \
#         data.path=gs://BUCKET/gsm8k run_dir=gs://BUCKET/runs/grpo
#
# Before, once: the repository and `pip install -c constraints.txt '.[tpu,gcs]'` on every host (the same
# line with another --command), and a bucket in the slice's region that the slice's service account may use (README.md),
# or a folder that all hosts see, such as Filestore.
set -eu
name=$1
zone=$2
shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd rlhf_jax && exec .venv/bin/rlhf-jax train $(printf '%q ' "$@")"
