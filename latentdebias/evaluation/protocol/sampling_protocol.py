"""The part of an evaluation's record that says how the samples were drawn."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdebias.drawing.sample_record import nest_guidance, options_of, settings_of, vae_of
from latentdebias.errors import UserError
from latentdebias.files import parse_yaml
from latentdebias.models.model_directory import CONFIG, fingerprint, read_model_config
from latentdebias.registry import Spec
from latentdebias.sampling import DrawOptions, Guidance

NOT_OF_THE_PROTOCOL = {"batch_size"}


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """The weights that drew the samples: `model` is their directory, `ema` the name of their average.

    `vae` is the autoencoder that decoded the samples. `weights_sha256` is the sha256 of the weights file, empty for a
    model still in training. `autoguidance` is the directory of the weaker model that guided, or None.
    """

    model: str
    vae: str
    ema: str
    weights_sha256: str = ""
    autoguidance: str | None = None

    @classmethod
    def of_directory(cls, directory: Path, autoguidance: Path | None = None) -> "ModelIdentity":
        """The identity of the model in `directory`, guided by the model in `autoguidance` if that is given."""
        config = read_model_config(directory / CONFIG)
        return cls(
            model=str(directory),
            vae=vae_of(config.autoencoder),
            ema=config.ema,
            weights_sha256=fingerprint(directory)["weights_sha256"],
            autoguidance=None if autoguidance is None else str(autoguidance),
        )


@dataclass(frozen=True, kw_only=True)
class SamplingProtocol(ModelIdentity):
    """The model that drew the samples, and the settings of `DrawOptions` except the batch size, from `settings_of`.

    `nfe` is the number of network evaluations per sample. A guided evaluation counts once, and evaluations that
    `zero_init` skips are counted. `labels` says how the labels were spread over the classes.
    """

    sampler: Spec
    steps: int
    guidance: dict[str, Any]
    seed: int
    precision: str = "fp32"
    zero_init: int = 0
    nfe: int | None = None
    labels: str = ""

    @classmethod
    def of(cls, model: ModelIdentity, options: DrawOptions, labels: str = "") -> "SamplingProtocol":
        """The protocol of images that `model` drew under `options`."""
        settings = {name: value for name, value in settings_of(options).items() if name not in NOT_OF_THE_PROTOCOL}
        nfe = options.sampler.nfe(options.steps)
        return cls(**dataclasses.asdict(model), **settings, nfe=nfe, labels=labels)

    def line(self) -> str:
        """The protocol on one printable line."""
        return " | ".join([", ".join(self._drawing()), *self._others()])

    def settings(self) -> list[str]:
        """The protocol as printable lines, a setting each."""
        return [*self._drawing(), *self._others()]

    def _drawing(self) -> list[str]:
        weights = "no EMA" if self.ema == "none" else f"EMA {self.ema}"
        return [f"{self.sampler} {self.steps} steps", self._guidance(), f"seed {self.seed}", self.precision, weights]

    def _others(self) -> list[str]:
        parts = [f"VAE {self.vae}"]
        parts += [f"weights sha256 {self.weights_sha256[:12]}"] * bool(self.weights_sha256)
        parts += [f"labels {self.labels}"] * bool(self.labels)
        parts += [f"NFE {self.nfe}"] * (self.nfe is not None)
        parts += [f"autoguidance {self.autoguidance}"] * (self.autoguidance is not None)
        parts += [f"zero_init {self.zero_init}"] * bool(self.zero_init)
        return parts

    def _guidance(self) -> str:
        usual = settings_of(DrawOptions(guidance=Guidance(1.0)))["guidance"]
        others = {name: value for name, value in self.guidance.items() if name != "scale" and value != usual.get(name)}
        return " ".join(
            [f"guidance {self.guidance['scale']:g}", *(f"{name} {value}" for name, value in others.items())]
        )


def upgraded_sampling(sampling: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `sampling` part of a record, which version 0.1.0 may have written, in this version's form.

    Version 0.1.0 wrote the settings of guidance under `other`, and a sampler with fields as the text of a Python dict.
    Settings that are not legal here, such as a sampler that no imported module registers, stay as they were written.
    """
    values = {name: value for name, value in sampling.items() if name != "other"}
    flat = nest_guidance({**values, **sampling.get("other", {})})
    if str(flat.get("sampler")).startswith("{"):
        flat["sampler"] = parse_yaml(str(flat["sampler"]))
    try:
        settings = settings_of(options_of(flat, where))
    except UserError:
        return flat
    return {**flat, **{name: value for name, value in settings.items() if name not in NOT_OF_THE_PROTOCOL}}
