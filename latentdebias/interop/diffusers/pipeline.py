"""Export to a diffusers folder: as a `DiTPipeline` where it can hold the model exactly, else as our own pipeline."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTPipeline
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from torch import Tensor

from latentdebias.autoencoders import PIXELS, DiffusersAutoencoder, PixelAutoencoder, load_this_autoencoder
from latentdebias.backbones import BACKBONES, DiTSpec
from latentdebias.backbones.dit import sincos_positions
from latentdebias.diffusion.schedules import DiscreteSchedule
from latentdebias.diffusion.targets import TARGETS
from latentdebias.errors import UserError, command
from latentdebias.files import publish, published_folder
from latentdebias.interop.diffusers.custom_pipeline import (
    PIPELINE_FILE,
    PIPELINE_SOURCE,
    Denoiser,
    LatentDebiasPipeline,
)
from latentdebias.interop.diffusers.dit_transformer import PublishedDiTTransformer2DModel
from latentdebias.interop.diffusers.folded_vae import fold_normalization, is_one_scale, with_scaling_factor
from latentdebias.interop.diffusers.names import POSITIONS, to_diffusers
from latentdebias.interop.diffusers.scheduler import PREDICTION_TYPES, scheduler_of
from latentdebias.interop.diffusers.transformer import MODEL_INDEX
from latentdebias.models.model_directory import LoadedModel

# The null class of every `DiTPipeline`, so every exported class table has 1001 rows.
NULL_CLASS = 1000
CLASS_TABLE = "y_embedder.embedding_table.weight"
TRANSFORMERS: dict[int, type[DiTTransformer2DModel]] = {0: PublishedDiTTransformer2DModel, 1: DiTTransformer2DModel}


@dataclass(frozen=True)
class Exported:
    """What `export_diffusers` wrote; `pipeline` is the name of the pipeline's class.

    `reason` says why diffusers' `DiTPipeline` could not be used, and is "" where it was. `own_transformer` says whether
    the transformer of that `DiTPipeline` is this package's `PublishedDiTTransformer2DModel`.
    """

    pipeline: str
    reason: str
    own_transformer: bool


def export_diffusers(model: LoadedModel, out: Path, vae: str | None = None) -> Exported:
    """Write a folder that diffusers' `from_pretrained` loads; an older one is replaced once the new one is complete.

    `vae` is the id or folder of the model's autoencoder, where it has moved; a copy goes into the folder. Raises
    `UserError` where the model was trained with another autoencoder, or diffusers cannot load this one.
    """
    identity = model.config.autoencoder
    autoencoder = load_this_autoencoder(identity, vae or identity.id, "cpu")
    if not isinstance(autoencoder, DiffusersAutoencoder | PixelAutoencoder):
        raise UserError(
            f"The autoencoder {identity.id!r} is {type(autoencoder).__name__}, which diffusers cannot load, so this "
            f"model has no pipeline. Draw its images with {command('sample')} instead."
        )
    own_vae = autoencoder.vae if isinstance(autoencoder, DiffusersAutoencoder) else None
    reason = why_not_dit_pipeline(model, own_vae)
    with published_folder(out) as fresh:
        if reason:
            _write_custom(model, own_vae, fresh)
            return Exported(LatentDebiasPipeline.__name__, reason, own_transformer=False)
        transformer = dit_transformer(model)
        _write_dit(model, transformer, own_vae, fresh)
        own = isinstance(transformer, PublishedDiTTransformer2DModel)
        return Exported(DiTPipeline.__name__, reason, own)


def why_not_dit_pipeline(model: LoadedModel, vae: Any) -> str:
    """The first property of the model that diffusers' `DiTPipeline` cannot express, in words; "" if there is none."""
    spec, diffusion = BACKBONES.build(model.config.model), model.diffusion
    target = TARGETS.name_of(diffusion.target)
    if not isinstance(spec, DiTSpec):
        return f"the backbone is {BACKBONES.name_of(spec)}, not dit"
    plain = DiTSpec(width=spec.width, depth=spec.depth, heads=spec.heads)
    for option in ("norm", "mlp", "positions", "qk_norm", "registers", "mlp_ratio"):
        if getattr(spec, option) != getattr(plain, option):
            return f"the DiT has {option} {getattr(spec, option)!r}"
    if not isinstance(diffusion.schedule, DiscreteSchedule):
        return "the schedule is continuous"
    if diffusion.schedule.first_time:
        return "its time is counted from 1"
    if target not in PREDICTION_TYPES:
        return f"the target is {target}"
    if model.config.num_classes > NULL_CLASS:
        return f"it has more than {NULL_CLASS} classes"
    if not isinstance(vae, AutoencoderKL):
        return f"the autoencoder is {PIXELS if vae is None else type(vae).__name__}, not AutoencoderKL"
    positions = sincos_positions(model.config.latent_shape[1] // spec.patch_size, spec.width)
    if not torch.allclose(model.backbone.state_dict()[POSITIONS].cpu(), positions, atol=1e-4):
        return "its pos_embed is not the one that diffusers computes"
    return ""


def _write_dit(model: LoadedModel, transformer: DiTTransformer2DModel, vae: Any, folder: Path) -> None:
    """Write a `DiTPipeline` whose autoencoder includes the normalisation of the latents."""
    normalization = model.config.normalization
    if is_one_scale(normalization):
        vae = with_scaling_factor(vae, 1 / normalization.std[0])
    else:
        vae = fold_normalization(vae, normalization)
    pipeline: Any = DiTPipeline(transformer, vae, scheduler_of(model.diffusion))
    pipeline.save_pretrained(folder)
    index = json.loads((folder / MODEL_INDEX).read_text())
    index["id2label"] = dict(enumerate(model.config.class_names))
    publish(folder / MODEL_INDEX, (json.dumps(index, indent=2) + "\n").encode())


def dit_transformer(model: LoadedModel) -> DiTTransformer2DModel:
    """The diffusers transformer with the weights of `model`, which must be a DiT that `DiTPipeline` can hold."""
    spec, config = BACKBONES.build(model.config.model), model.config
    assert isinstance(spec, DiTSpec)
    channels, side, _ = config.latent_shape
    transformer = TRANSFORMERS[spec.freq_shift](
        num_attention_heads=spec.heads,
        attention_head_dim=spec.width // spec.heads,
        in_channels=channels,
        out_channels=model.diffusion.variance.outputs * channels,
        num_layers=spec.depth,
        sample_size=side,
        patch_size=spec.patch_size,
        num_embeds_ada_norm=NULL_CLASS,
        norm_eps=spec.mlp_norm_eps,
    )
    weights = {name: weight.cpu() for name, weight in model.backbone.state_dict().items()}
    weights[CLASS_TABLE] = _padded(weights.get(CLASS_TABLE), config.num_classes, spec.width)
    transformer.load_state_dict(to_diffusers(weights))
    return transformer.eval()


def _padded(table: Tensor | None, num_classes: int, width: int) -> Tensor:
    """The class table (1001, width) with the null class in row 1000, where `DiTPipeline` expects it; rows of 0 between.

    `table` is (num_classes + 1, width); None, of an unconditional model, gives zeros.
    """
    padded = torch.zeros(NULL_CLASS + 1, width)
    if table is not None:
        padded[:num_classes], padded[NULL_CLASS] = table[:num_classes], table[num_classes]
    return padded


def _write_custom(model: LoadedModel, vae: Any, folder: Path) -> None:
    """Write a `LatentDebiasPipeline` with the autoencoder as it is, and the Python file that imports its class."""
    LatentDebiasPipeline(Denoiser.of(model), vae).save_pretrained(folder)
    publish(folder / PIPELINE_FILE, PIPELINE_SOURCE.encode())
    index = json.loads((folder / MODEL_INDEX).read_text())
    index["_class_name"] = [Path(PIPELINE_FILE).stem, LatentDebiasPipeline.__name__]
    publish(folder / MODEL_INDEX, (json.dumps(index, indent=2) + "\n").encode())
