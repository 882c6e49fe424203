"""A diffusers pipeline for any model of this package; models that fit diffusers' `DiTPipeline` do not need it."""

import dataclasses
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput

from latentdebias.autoencoders import Autoencoder, AutoencoderIdentity, DiffusersAutoencoder, PixelAutoencoder
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.models.model_directory import LoadedModel, ModelConfig, build_model
from latentdebias.registry import plain, validate
from latentdebias.sampling import DrawOptions, LatentModel, Network

# The file that diffusers asks for in the folder of a custom pipeline.
PIPELINE_FILE = "pipeline.py"
PIPELINE_SOURCE = '''"""Draw images: pip install latentdebias, then

pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
pipe(class_labels=[3, 7], guidance_scale=1.5, seed=0).images
"""

from latentdebias.export.custom_pipeline import LatentDebiasPipeline

__all__ = ["LatentDebiasPipeline"]
'''


class Denoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A backbone of this package as a diffusers model; `model` is its `ModelConfig` as plain data."""

    @register_to_config
    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        self.model_config = validate(ModelConfig, model, "the config of the denoiser")
        self.backbone, self.diffusion = build_model(self.model_config)

    @classmethod
    def of(cls, model: LoadedModel) -> "Denoiser":
        """The diffusers model of a loaded model directory."""
        denoiser = cls(plain(dataclasses.asdict(model.config)))
        denoiser.backbone.load_state_dict(model.backbone.state_dict())
        return denoiser.eval()


class LatentDebiasPipeline(DiffusionPipeline):
    """A pipeline that draws the same images as the command `sample`; `vae` is None for models of pixels."""

    model_cpu_offload_seq: Any = "denoiser->vae"
    _optional_components: Any = ("vae",)
    denoiser: Denoiser
    vae: Any

    def __init__(self, denoiser: Denoiser, vae: Any = None) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int],
        guidance_scale: float | None = None,
        num_inference_steps: int = 50,
        sampler: str = "ddim",
        seed: int = 0,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw one image for each of `class_labels`, which are all 0 for an unconditional model.

        The noise of image i depends on `seed` and i alone. `guidance_scale` is 1.5 by default, and 1, which is no
        guidance, for a model without classes. The images are PIL images for `output_type` "pil", and fp32 in [0, 1]
        for "np" (B, H, W, 3) and "pt" (B, 3, H, W). Raises `UserError` for bad options.
        """
        config = self.denoiser.model_config
        if guidance_scale is None:
            guidance_scale = 1.5 if config.num_classes else 1.0
        given = {"sampler": sampler, "steps": num_inference_steps, "guidance": guidance_scale, "seed": seed}
        options = validate(DrawOptions, given, "the pipeline's call")
        autoencoder = self._autoencoder(config.autoencoder)
        network = Network(self.denoiser.backbone, self.denoiser.diffusion)
        model = LatentModel(network, config.latent_shape, config.num_classes)
        drawer = ImageSampler(model, config.normalization, autoencoder)
        images: Any = torch.cat(list(drawer.draw(torch.tensor(class_labels), options))).float() / 255
        if output_type == "pt":
            return ImagePipelineOutput(images=images)
        arrays = images.permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=arrays if output_type == "np" else self.numpy_to_pil(arrays))

    def _autoencoder(self, identity: AutoencoderIdentity) -> Autoencoder:
        if self.vae is None:
            return PixelAutoencoder(self.device)
        return DiffusersAutoencoder(self.vae, identity, self.device)
