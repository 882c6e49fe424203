"""An autoencoder, a metric and a training hook that latentdebias does not have.

The autoencoder and the metric are named on the command line after `--imports my_autoencoder_metric_hook`, in a run
config after `imports: [my_autoencoder_metric_hook]`; the hook is named there under `hooks:`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from latentdebias.autoencoders import AUTOENCODERS, Autoencoder, AutoencoderIdentity, Posterior, StoredDtype
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics import METRICS
from latentdebias.training.hooks import HOOKS, Hook, HookContext, TrainState


class HalfSize:
    """Latents (B, 3, H/2, W/2): the means of 2 x 2 pixels. The decoder repeats each of them."""

    posterior: Posterior = "deterministic"
    stored_dtype: StoredDtype = "float16"

    def __init__(self, device: torch.device | str, dtype: torch.dtype) -> None:
        self.device, self.dtype = torch.device(device), dtype
        # What was made with other weights or scales must not mix with this: a change of the maths needs another id.
        self.identity = AutoencoderIdentity("my_half_size", "", "", 1.0, 0.0, channels=3, factor=2)

    def encode(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images.to(self.device, self.dtype), 2).float()

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents.to(self.device, self.dtype), scale_factor=2.0).float().clamp(-1, 1)


@AUTOENCODERS.register("my_half_size")
@dataclass(frozen=True)
class HalfSizeSpec:
    def load(self, device: torch.device | str, dtype: torch.dtype) -> Autoencoder:
        return HalfSize(device, dtype)


@METRICS.register("my_red_cast")
@dataclass(frozen=True)
class RedCast:
    """How much redder the samples are than the reference, in levels of 255; 0 is best."""

    def measure(self, samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        if samples.colour is None or reference.colour is None:
            return {}
        return {"my_red_cast": float(samples.colour[:, 0].mean() - reference.colour[:, 0].mean())}


@HOOKS.register("my_progress_file")
@dataclass(frozen=True)
class ProgressFile:
    """Writes the step into RUN_DIR/progress.txt after every `every` updates."""

    every: PositiveInt = 100

    def build(self, run: HookContext) -> Hook:
        def write(state: TrainState) -> None:
            if run.rank == 0 and state.step % self.every == 0:
                (run.run_dir / "progress.txt").write_text(f"step {state.step}\n")

        return write
