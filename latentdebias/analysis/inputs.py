"""What figures are computed from: trained models, the latents they were trained on, and the records of their runs."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from latentdebias.autoencoders import AutoencoderIdentity
from latentdebias.batches.draws import SampleDraws
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.config import DiffusionOptions
from latentdebias.diffusion import TARGETS, Diffusion
from latentdebias.diffusion.pareto.bins import Latents
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.errors import UserError
from latentdebias.files import parse_yaml
from latentdebias.images.find import NO_LABEL
from latentdebias.models.model_directory import WEIGHTS, LoadedModel, ModelConfig, load_model
from latentdebias.registry import in_words, load_plugins, validate
from latentdebias.sampling import DrawOptions, Guidance, Sampler, check_draw
from latentdebias.shards.posterior import draw_latents
from latentdebias.shards.reader import LatentShards
from latentdebias.training.monitor.log_writers import LOG

MOST_LATENTS = 10_000
CPU = torch.device("cpu")
RUN_CONFIG = "config.yaml"


@dataclass(frozen=True)
class LabelledModel:
    """A trained model with the label under which figures show it."""

    label: str
    directory: Path
    model: LoadedModel


@dataclass(frozen=True)
class LabelledRun:
    """A run directory, or a folder of models that a run kept, with the label under which figures show it."""

    label: str
    directory: Path

    @property
    def kept(self) -> list[Path]:
        """The model directories in the folder, in the order of their names, which is that of training."""
        return sorted(weights.parent for weights in self.directory.glob(f"step-*/{WEIGHTS}"))


@dataclass(frozen=True)
class Inputs:
    """The models and data of a figure, each opened when it is first asked for.

    `directories` are model directories. `shards` holds latents of the models' autoencoder; without it they are those
    that the first model's run was trained on. `num` limits the latents, `seed` is that of their noise, and
    `batch_size` is how many go through a network at once. `vae` is where the models' autoencoder is now, None: its id.
    """

    directories: tuple[Path, ...] = ()
    shards: Path | None = None
    num: int | None = None
    seed: int = 0
    batch_size: int = 256
    device: torch.device = CPU
    vae: str | None = None

    @functools.cached_property
    def models(self) -> list[LabelledModel]:
        """The models on `device`; `UserError` where there is none, or where their latents differ."""
        if not self.directories:
            raise UserError("Trained models are needed: name at least one, --model DIR.")
        if len(set(self.directories)) < len(self.directories):
            raise UserError("A model directory is given twice; name each with one --model DIR.")
        models = [load_model(directory, self.device) for directory in self.directories]
        for model, directory in zip(models[1:], self.directories[1:], strict=True):
            check_same_latents(models[0].config, model.config, directory)
        labels = labels_of([model.diffusion for model in models], self.directories)
        return [LabelledModel(*each) for each in zip(labels, self.directories, models, strict=True)]

    @functools.cached_property
    def runs(self) -> list[LabelledRun]:
        """The run directories of `directories`: each RUN/model, RUN, or folder of several of them, such as a study.

        A folder RUN/models of kept models stands for itself. Raises `UserError` where there is none.
        """
        found = [run for directory in self.directories for run in _runs_at(directory)]
        diffusions = [diffusion_of(run) for run in found]
        return [LabelledRun(*each) for each in zip(labels_of(diffusions, found), found, strict=True)]

    @functools.cached_property
    def latents(self) -> Latents:
        """`num` latents at equal distances in `shards`, or all up to 10,000, normalised as the models have them.

        Each is drawn from its posterior, with noise that is a function of (seed, its number in the set).
        """
        config, shards = self.models[0].model.config, LatentShards(self.shards_directory)
        made_with = AutoencoderIdentity(**{**shards.manifest.autoencoder, "id": config.autoencoder.id})
        if made_with != config.autoencoder or tuple(shards.latent_shape) != tuple(config.latent_shape):
            raise UserError(
                f"{shards.directory} holds latents of another autoencoder or shape than the model's "
                f"({config.autoencoder.id}, {config.latent_shape}): name a set of its own with --shards DIR."
            )
        if shards.num_classes and shards.num_classes != config.num_classes and config.num_classes:
            raise UserError(
                f"{shards.directory} has {shards.num_classes} classes, and the model has {config.num_classes}: name a "
                f"set of its own classes with --shards DIR."
            )
        count = min(len(shards), self.num or MOST_LATENTS)
        indices = np.arange(count) * len(shards) // count
        latents = _drawn(shards, indices, self.seed, config.normalization, config.num_classes)
        labels = None if latents.labels is None else latents.labels.to(self.device)
        return Latents(latents.x0.to(self.device), latents.eps.to(self.device), labels)

    @functools.cached_property
    def image_sampler(self) -> ImageSampler:
        """The first model with the autoencoder, which is that of all models."""
        return self.models[0].model.image_sampler(self.vae)

    def image_sampler_of(self, each: LabelledModel) -> ImageSampler:
        """One of the models with the autoencoder, which is loaded once for all of them."""
        return replace(self.image_sampler, model=each.model.latent_model)

    def draw_options(self, sampler: Sampler, steps: int, guidance: float | None) -> DrawOptions:
        """The options to draw with; a guidance of None is the package's default, and 1 for models without classes.

        Raises `UserError` where a model cannot be drawn with them.
        """
        if guidance is None:
            guidance = DrawOptions().guidance.scale if self.models[0].model.config.num_classes else 1.0
        options = DrawOptions(
            sampler=sampler, steps=steps, guidance=Guidance(guidance), seed=self.seed, batch_size=self.batch_size
        )
        for each in self.models:
            check_draw(options, each.model.latent_model.facts)
        return options

    @property
    def shards_directory(self) -> Path:
        """The folder of the latents; `UserError` where it is neither given nor known from the first model's run."""
        if self.shards is not None:
            return self.shards
        where = shards_of_run(run_of(self.directories[0]))
        if where is None:
            raise UserError(
                f"It is not known which latents {self.directories[0]} was trained on, for no run's {RUN_CONFIG} is "
                f"beside it; name the shard set: --shards DIR."
            )
        return where


def check_same_latents(first: ModelConfig, other: ModelConfig, directory: Path) -> None:
    """Raise `UserError` where the model in `directory`, whose config is `other`, has other latents than the first."""
    other = replace(other, autoencoder=replace(other.autoencoder, id=first.autoencoder.id))
    for name in ("latent_shape", "normalization", "num_classes", "autoencoder"):
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise UserError(
                f"{directory} is a model of other latents than the first one: its {name} is {theirs}, and that of the "
                f"first is {ours}. Name models of the same latents and classes, or one by one."
            )


def run_of(directory: Path) -> Path:
    """The run directory of a model directory: RUN of RUN/model and of RUN/models/step-N, where a log is in it.

    A directory that holds a log is a run itself; where there is no log, it is the directory above.
    """
    places = [directory, *directory.absolute().parents[:2]]
    return next((place for place in places if (place / LOG).is_file()), places[1])


def _runs_at(directory: Path) -> list[Path]:
    if LabelledRun("", directory).kept:
        return [directory]
    run = run_of(directory)
    if (run / LOG).is_file():
        return [run]
    if runs := sorted(log.parent for log in directory.glob(f"*/{LOG}")):
        return runs
    raise UserError(f"{directory} belongs to no training run: there is no {LOG} in it, nor beside or below it.")


def diffusion_of(run_dir: Path) -> Diffusion:
    """The process that a run trains, from its config; `UserError` where that is missing or damaged."""
    config = run_of(run_dir) / RUN_CONFIG
    try:
        settings = parse_yaml(config.read_text())
        load_plugins(settings.get("imports") or ())
        shape = settings.get("data", {}).get("latent_shape")
        return validate(DiffusionOptions, settings["diffusion"], str(config)).build(shape and tuple(shape))
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{config} is missing or damaged ({error}); a training run writes it.") from None


def shards_of_run(run_dir: Path) -> Path | None:
    """The shard set in the config of a run; None where there is no such config, or the set is not on a disk."""
    try:
        where = Path(parse_yaml((run_dir / RUN_CONFIG).read_text())["data"]["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return where if where.is_dir() else None


def labels_of(diffusions: Sequence[Diffusion], directories: Sequence[Path]) -> list[str]:
    """A label for each model: its weighting, with the target where targets differ, and its place where both agree."""
    labels = [in_words(each.weighting) for each in diffusions]
    if len({each.target for each in diffusions}) > 1:
        labels = [f"{label} on {TARGETS.name_of(each.target)}" for label, each in zip(labels, diffusions, strict=True)]
    count = Counter(labels)
    places = [_place(directory) for directory in directories]
    if len(set(zip(labels, places, strict=True))) < len(labels):
        places = [str(directory) for directory in directories]
    return [f"{label} ({place})" if count[label] > 1 else label for label, place in zip(labels, places, strict=True)]


def _place(directory: Path) -> str:
    """The name of a directory, or where that would say nothing, of its run: RUN/model is "RUN"."""
    names = {"model": run_of(directory).name, "models": f"{run_of(directory).name}, kept models"}
    return names.get(directory.name, directory.name)


def _drawn(
    shards: LatentShards, indices: np.ndarray, seed: int, normalization: LatentNormalization, num_classes: int
) -> Latents:
    draws = [SampleDraws.of(seed, index, shards.latent_shape) for index in indices.tolist()]
    stored, labels = shards.read(indices, flipped=np.zeros(len(indices), dtype=bool))
    noise = torch.from_numpy(np.stack([draw.posterior for draw in draws]))
    x0 = normalization.normalize(draw_latents(torch.from_numpy(stored), noise, shards.manifest))
    eps = torch.from_numpy(np.stack([draw.eps for draw in draws]))
    if not num_classes:
        return Latents(x0, eps, None)
    return Latents(x0, eps, torch.from_numpy(np.where(labels == NO_LABEL, num_classes, labels)))
