"""Run under `deepspeed --num_gpus 2` by test_train.py: the same few steps at every ZeRO stage, in one launch."""

import sys

from latentdebias.config import load_config
from latentdebias.prepare import prepare
from latentdebias.run import Run
from latentdebias.training.engine import start_distributed, stop_distributed

folder, *overrides = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
runs = {f"stage{stage}": [f"deepspeed.zero_optimization.stage={stage}"] for stage in range(4)}
runs["checkpointed"] = [*runs["stage3"], "training.activation_checkpointing=blocks"]
# Accumulation in bf16 at stage 3, whole and in two parts.
accumulated = [*runs["stage3"], "training.precision=bf16", "training.micro_batch_size=2"]
runs["accumulated"] = accumulated
runs["parts"] = [*accumulated, "training.steps=2"]
start_distributed()
for name, changes in runs.items():
    config = load_config("digits_debias.yaml", [*overrides, f"run_dir={folder}/{name}", *changes])
    Run(prepare(config)).train()
config = load_config("digits_debias.yaml", [*overrides, f"run_dir={folder}/parts", *accumulated])
Run(prepare(config)).train()
stop_distributed()
