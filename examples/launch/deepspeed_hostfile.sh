#!/usr/bin/env bash
# DeepSpeed's launcher over the hosts of a hostfile. Run it on the first of them, once:
#
#   examples/launch/deepspeed_hostfile.sh --config imagenet256_debias.yaml --set run_dir=/shared/runs/1
#
# Every host needs this repository, its Python environment and the shards at the same paths, a run_dir on a disk that all
# of them share, and ssh between them without a password; this host needs pdsh, all of them pkill.
set -euo pipefail
cd "$(dirname "$0")/../.."

# ssh carries no environment: DeepSpeed sets on every host what stands in this file (KEY=VALUE lines, no blank ones) and,
# of its own, PYTHONPATH. Keep secrets out of it: the lines appear in the hosts' process lists.
DS_ENV_FILE=$(mktemp)
export DS_ENV_FILE
trap 'rm -f "$DS_ENV_FILE"' EXIT
env | grep -E '^(GLOO|NCCL|OMP|DS_ACCELERATOR|HF_HUB|TORCH)' >"$DS_ENV_FILE" || true

# Ctrl-C or SIGTERM to this command ends every DeepSpeed run of this user on these hosts: the launcher looks for them by
# the name of its program alone.
deepspeed --hostfile "${HOSTFILE:-examples/launch/hostfile}" tools/train.py "$@"
