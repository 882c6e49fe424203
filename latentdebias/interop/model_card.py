"""The README.md of a model on the hub, written from its config and, where there are any, its scores."""

from pathlib import Path
from typing import Any

import yaml

from latentdebias.errors import UserError
from latentdebias.files import read_json
from latentdebias.interop.diffusers.pipeline import Exported
from latentdebias.models.model_directory import ModelConfig

DIT_USAGE = """\
from diffusers import DiTPipeline

pipe = DiTPipeline.from_pretrained("{repo}"{remote_code})
pipe(class_labels={labels}, guidance_scale=1.5, num_inference_steps=50).images"""
CUSTOM_USAGE = """\
from diffusers import DiffusionPipeline  # pip install latentdebias

pipe = DiffusionPipeline.from_pretrained("{repo}", custom_pipeline="{repo}", trust_remote_code=True)
pipe(class_labels={labels}, guidance_scale={guidance}, num_inference_steps=50, seed=0).images"""
CARD = """\
---
library_name: diffusers
pipeline_tag: {tag}
tags:
- latentdebias
- diffusion
---

# {name}

A latent diffusion model of {resolution}x{resolution} images, {classes}, trained with latentdebias.

```python
{usage}
```

## Model

```yaml
{config}
```

Weights: {weights}, after {step} steps. Autoencoder: {vae}.

## Data

{data}

## Scores

{scores}
"""

MANIFEST_KEYS = {"shards", "count", "rejected", "preprocessing", "flips"}
EVALUATION_KEYS = {"scores", "num_samples", "num_reference", "reference", "reference_sha256", "extractor", "sampling"}


def model_card(
    repo: str,
    config: ModelConfig,
    exported: Exported,
    manifest: dict[str, Any] | None,
    evaluation: dict[str, Any] | None,
) -> str:
    """The text of the card; `manifest` and `evaluation` are the parsed manifest.json and evaluation.json, or None."""
    return CARD.format(
        tag="unconditional-image-generation" if config.num_classes == 0 else "image-generation",
        name=repo.split("/")[-1],
        resolution=config.resolution,
        classes=f"{config.num_classes} classes" if config.num_classes else "unconditional",
        usage=_usage(repo, config, exported),
        config=yaml.safe_dump({"model": config.model, "diffusion": config.diffusion}, sort_keys=False).strip(),
        weights="the weights themselves" if config.ema == "none" else f"the average {config.ema}",
        step=config.step,
        vae=config.autoencoder.id,
        data=_data(manifest),
        scores=_scores(evaluation),
    )


def read_facts(path: Path | None, keys: set[str]) -> dict[str, Any] | None:
    """The object in a JSON file, None without a path; `UserError` where the file is missing or lacks one of `keys`."""
    if path is None:
        return None
    facts = read_json(path, "Name a file that latentdebias wrote.")
    if missing := keys - facts.keys():
        raise UserError(f"{path} has no {', '.join(sorted(missing))}; name a file that latentdebias wrote.")
    return facts


def _usage(repo: str, config: ModelConfig, exported: Exported) -> str:
    labels, guidance = ([0, 1], 1.5) if config.num_classes > 1 else ([0], 1.0)
    if exported.reason:
        return CUSTOM_USAGE.format(repo=repo, labels=labels, guidance=guidance)
    remote_code = ", trust_remote_code=True" if exported.own_transformer else ""
    return DIT_USAGE.format(repo=repo, labels=labels, remote_code=remote_code)


def _data(manifest: dict[str, Any] | None) -> str:
    if manifest is None:
        return "No manifest of the training data was given."
    shards = manifest["shards"]
    count, rejected = manifest["count"], len(manifest["rejected"])
    mirrored = "with" if manifest["flips"] else "without"
    return (
        f"{count} images in {len(shards)} shards, {rejected} inputs rejected; preprocessing "
        f"{manifest['preprocessing']}, {mirrored} mirrored views; the first shard's sha256 is {shards[0]['sha256']}."
    )


def _scores(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "None were given."
    rows = [f"| {name} | {score:.4g} |" for name, score in evaluation["scores"].items()]
    protocol = [
        f"{evaluation['num_samples']} samples against {evaluation['num_reference']} of {evaluation['reference']} "
        f"(sha256 {evaluation['reference_sha256'][:12]}), extractor {evaluation['extractor']}"
    ]
    if evaluation["sampling"]:
        protocol.append(", ".join(f"{name} {value}" for name, value in evaluation["sampling"].items()))
    return "\n".join(["| metric | value |", "|---|---|", *rows, "", f"Protocol: {'; '.join(protocol)}."])
