"""`latentdebias bench gpu-suite`: every measurement that wants a GPU, part by part, in one call of a few minutes."""

import argparse
import shlex
import time
from pathlib import Path

from latentdebias.commands.bench.measuring.own_process import fresh_processes
from latentdebias.errors import UserError, legal_choices

# Each part is the words of a benchmark; the most wanted figures come first.
FULL = {
    "curve": "train --model dit_s_patch2 --batch-size 64 --curve 50 --loops --segments 1 --steps 1",
    "xl": "train --model dit_xl_patch2 --batch-size 256 --loops bare plain --segments 5 --steps 4",
    "xl_peers": "train --model dit_xl_patch2 --batch-size 256 --segments 3 --steps 3 "
    "--loops plain_checkpointing accelerate_diffusers",
    "xl_levers": "train --model dit_xl_patch2 --batch-size 256 --loops --segments 3 --steps 4 --levers "
    "compile_blocks cudnn_attention flash_attention unfused_adamw zero_1 zero_1_buckets_of_500m",
    "models": "train --model dit_s_patch2 dit_b_patch2 dit_l_patch2 min_snr_vit_b_patch2 min_snr_vit_xl_patch2 "
    "uvit_h_patch2 --batch-size 256 --loops bare --segments 3 --steps 5",
    "sample": "sample --backbone dit_xl_patch2 --sampler heun --steps 50 --num 32 --batch-size 32 --precision bf16 "
    "--interval 0.2 0.8 --compile --rounds 3",
    "memory": "memory --model dit_l_patch2 --batch-size 64",
    "encode": "encode --num 512 --rounds 2",
    "start": "start --model dit_xl_patch2 --batch-size 64 --rounds 2",
    "growth": "growth --models dit_b_patch2 dit_l_patch2 --sides 32 64 --batches 64 256 --ranks 1 --batch-size 64",
    "data": "data --rounds 2",
}
_TINY = "'{name: dit, width: 32, depth: 1, heads: 2, patch_size: 8}'"
_SHORT = "--segments 1 --steps 1"
TINY = {
    "curve": f"train --model {_TINY} --batch-size 4 --curve 2 --loops {_SHORT}",
    "xl": f"train --model {_TINY} --batch-size 4 --loops bare plain {_SHORT}",
    "xl_peers": f"train --model {_TINY} --batch-size 4 --loops plain_checkpointing accelerate_diffusers {_SHORT}",
    "xl_levers": f"train --model {_TINY} --batch-size 4 --loops {_SHORT} --levers checkpoint_blocks unfused_adamw",
    "models": f"train --model {_TINY} {_TINY[:-2]}, registers: 1}}' --batch-size 4 --loops bare {_SHORT}",
    "sample": f"sample --backbone {_TINY} --vae digits --latent-size 8 --sampler heun --steps 2 --num 2 --batch-size 2 "
    "--interval 0.2 0.8 --rounds 1",
    "memory": f"memory --model {_TINY} --batch-size 4 --stages 0 1",
    "encode": "encode --vae digits --resolution 32 --num 4 --workers 0 --rounds 1",
    "start": f"start --model {_TINY} --batch-size 4 --rounds 1",
    "growth": f"growth --models {_TINY} --sides 16 --batches 2 --ranks 1 2 --batch-size 2 {_SHORT}",
    "data": "data --num 512 --rounds 1",
}
SIZES = {"full": FULL, "tiny": TINY}


def bench_gpu_suite(options: argparse.Namespace) -> None:
    """Run each part that has no JSON in the folder `options.out` yet, in a process of its own, while time is left.

    `options.run` runs the words of a benchmark. A part that takes too long is ended; a second call goes on with what is
    missing. Raises `UserError` for an unknown part.
    """
    parts, out, began = SIZES[options.size], Path(options.out), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    chosen = options.parts or list(parts)
    for name in chosen:
        if name not in parts:
            raise UserError(f"--parts {name!r} is no part of the suite. {legal_choices(name, parts)}")
        file, left = out / f"{name}.json", began + options.seconds - time.monotonic()
        if file.exists() or left <= 0:
            continue
        words = [*shlex.split(parts[name]), "--json", str(file)]
        if name == "encode" and options.images:
            words += ["--images", options.images]
        print(f"\n{name}: latentdebias bench {shlex.join(words)}", flush=True)
        process = fresh_processes().Process(target=options.run, args=(words,))
        process.start()
        process.join(left)
        process.kill()
        process.join()
    missing = [name for name in chosen if not (out / f"{name}.json").exists()]
    seconds = time.monotonic() - began
    print(f"\n{len(chosen) - len(missing)} of {len(chosen)} parts are in {out}, after {seconds:.0f} s")
    if missing:
        raise UserError(f"not measured yet: {', '.join(missing)}. The same command goes on with them.")
