"""`latentdebias encode inspect`: decoded latents beside their inputs, and how far apart the two are."""

import argparse
from pathlib import Path

import numpy as np
import torch

from latentdebias.autoencoders import AutoencoderIdentity, load_this_autoencoder
from latentdebias.devices import open_device
from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.inspection import (
    contact_sheet,
    find_sources,
    reconstruct,
    reconstruction_fid,
    reconstruction_scores,
)
from latentdebias.files import check_output_file
from latentdebias.registry import load_plugins
from latentdebias.shards.jobs.inspect import ClassHistogram, class_histogram, summary
from latentdebias.shards.reader import LatentShards


def inspect(arguments: argparse.Namespace) -> None:
    """Print what the set holds and how well it decodes, and write the contact sheet."""
    load_plugins(arguments.imports or ())
    shards = LatentShards(arguments.directory)
    out = arguments.out or _beside(shards.directory.resolve())
    if out.suffix != ".png":
        raise UserError(f"--out {str(out)!r}: the contact sheet is a PNG; name a file that ends in .png.")
    check_output_file(out)
    if arguments.rfid and not arguments.images:
        raise UserError("--rfid compares with the inputs: say where they are with --images DIR.")
    made_with = AutoencoderIdentity(**shards.manifest.autoencoder)
    device = open_device(arguments.device)
    # Before the work: missing weights of the extractor are an error of seconds.
    extractor = EXTRACTORS.build(arguments.extractor).load().to(device) if arguments.rfid else None
    autoencoder = load_this_autoencoder(made_with, arguments.vae or made_with.id, device)
    indices = np.unique(np.linspace(0, len(shards) - 1, arguments.num).round().astype(np.int64))
    images = reconstruct(shards, autoencoder, indices)
    sources: list[torch.Tensor | None] = [None] * len(indices)
    if arguments.images:
        sources = find_sources(shards, indices, arguments.images)
    contact_sheet(sources, images, out)

    print(summary(shards.manifest, shards.directory))
    print(_histogram_line(class_histogram(shards)))
    print(_scores_line(sources, images))
    if extractor:
        fid = reconstruction_fid(shards, autoencoder, arguments.images, extractor)
        print(f"rFID {fid:.3f} over {len(shards)} images ({extractor.identity})")
    print(f"contact sheet: {out}")


def _beside(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.contact-sheet.png")


def _histogram_line(histogram: ClassHistogram | None) -> str:
    if histogram is None:
        return "no classes"
    counts = histogram.counts
    rarest = ", ".join(f"{name} ({count})" for name, count in histogram.rarest())
    return (
        f"{len(counts)} classes, samples in each: min {counts.min()}, median {np.median(counts):g}, "
        f"max {counts.max()}; rarest: {rarest}"
    )


def _scores_line(sources: list[torch.Tensor | None], images: torch.Tensor) -> str:
    shown = [number for number, source in enumerate(sources) if source is not None]
    if not shown:
        return "reconstruction not measured: no inputs were found; say where they are with --images DIR"
    originals = torch.stack([source for source in sources if source is not None])
    scores = reconstruction_scores(originals, images[shown])
    lpips = "not measured (torch's hub cache holds no AlexNet)" if scores["lpips"] is None else f"{scores['lpips']:.4f}"
    return (
        f"reconstruction of {len(shown)} of {len(images)} shown: PSNR {scores['psnr']:.2f} dB, "
        f"SSIM {scores['ssim']:.4f}, LPIPS {lpips}"
    )
