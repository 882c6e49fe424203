#!/usr/bin/env bash
# torchrun over several hosts. Run the same command on every host, in this repository at the same path:
#
#   NNODES=2 RDZV=host1:29500 examples/launch/torchrun.sh --config imagenet256_debias.yaml --set run_dir=/shared/runs/1
#
# RDZV names any one of the hosts and a free port there; every host must reach it under that name.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Else torchrun sets it to 1 where a host has several ranks and leaves it where it has one: other sums on a CPU.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# exec: a signal to this script reaches torchrun.
exec torchrun --nnodes "${NNODES:-2}" --nproc_per_node "${NPROC:-gpu}" \
    --rdzv_backend c10d --rdzv_endpoint "${RDZV:?host1:29500, the same on every host}" --rdzv_id "${RUN_ID:-latentdebias}" \
    tools/train.py "$@"
