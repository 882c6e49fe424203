"""Scores of one cell: images of every cell drawn from the same noise, with the protocol record beside each score."""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from latentdebias.autoencoders import load_autoencoder
from latentdebias.devices import open_device
from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import Extractor
from latentdebias.evaluation.features import FeatureSet
from latentdebias.evaluation.metrics import METRICS
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol
from latentdebias.evaluation.protocol.scoring import ModelScoring, Scoring
from latentdebias.evaluation.reference import reference_features
from latentdebias.evaluation.sources.find import FoundImages, open_images
from latentdebias.evaluation.statistics_cache import default_folder
from latentdebias.files import published
from latentdebias.models.model_directory import WEIGHTS, load_model
from latentdebias.prepare import open_shards
from latentdebias.registry import plain
from latentdebias.sampling import ModelFacts, check_draw
from latentdebias.studies.options import ScoreOptions
from latentdebias.studies.study import Cell, Scored, Study

SHOWN = 10
"""How many images of each score are kept as a picture."""
TILE = 64
"""The largest side of an image in such a picture, pixels."""


@dataclass(frozen=True)
class Scorer:
    """What all scores of a study have in common: the options, the extractor, and the reference."""

    options: ScoreOptions
    extractor: Extractor
    reference: FoundImages

    @classmethod
    def of(cls, study: Study) -> "Scorer":
        """The scorer of a study; `UserError` where the extractor's weights or the reference are missing."""
        device = open_device(None)
        options, resolution = study.evaluate, open_shards(study.cells({})[0].config).manifest.resolution
        load = functools.partial(load_autoencoder, device=device)
        reference = open_images(options.reference, resolution, load)
        if 0 < reference.count < 2:
            raise UserError(f"evaluate.reference {options.reference} holds {reference.count} image; add images.")
        return cls(options, options.extractor.load().to(device), reference)

    def features(self) -> FeatureSet:
        """The features of the reference, from the cache of statistics, where they are kept from the first call on."""
        found = reference_features(self.reference, self.extractor, default_folder())
        assert found is not None, "one process is rank 0"
        return found

    def missing(self, cell: Cell) -> list[Scored]:
        """The scores of `cell` that are still to be made: those without a record of the same model and protocol."""
        return [score for score in cell.scores if not self._is_scored(cell, score)]

    def score(self, cell: Cell) -> None:
        """Make the scores of `cell` that are missing; `UserError` where the cell was not trained that far."""
        missing = self.missing(cell)
        if not missing:
            return
        options = self.options
        scoring = Scoring(options.metrics, self.extractor, options.resamples)
        alike = ModelScoring(scoring, self.features(), options.reference, options.num)
        for score in tqdm(missing, desc=cell.name, unit="score"):
            directory = cell.model(score)
            if not (directory / WEIGHTS).is_file():
                raise UserError(
                    f"There is no model at {directory}: the run had passed iteration {score.iteration} before it was "
                    f"to be kept. Delete {cell.run_dir}, and the same command trains the cell anew."
                )
            sampler = load_model(directory, self.extractor.device).image_sampler()
            record, first = alike.score(ModelIdentity.of_directory(directory), sampler, score.draw, SHOWN)
            if not record.scores:
                raise UserError(
                    f"None of the study's metrics can be computed with extractor {self.extractor.identity}; choose "
                    f"others under evaluate.metrics, or another evaluate.extractor."
                )
            cell.file(score, ".png").parent.mkdir(parents=True, exist_ok=True)
            _write_strip(first, cell.file(score, ".png"))
            record.write(cell.file(score, ".json"))

    def _is_scored(self, cell: Cell, score: Scored) -> bool:
        path = cell.file(score, ".json")
        if not path.is_file() or not (cell.model(score) / WEIGHTS).is_file():
            return False
        record = ProtocolRecord.read(path)
        if record.sampling is None:
            return False
        found = [
            dataclasses.asdict(record.sampling),
            record.metrics,
            record.num_samples,
            record.resamples,
            record.extractor,
            record.reference,
        ]
        wanted = [
            dataclasses.asdict(self._protocol(cell, score)),
            [METRICS.spec_of(metric) for metric in self.options.metrics],
            self.options.num,
            self.options.resamples,
            self.extractor.identity,
            self.options.reference,
        ]
        return json.dumps(plain(found)) == json.dumps(plain(wanted))

    def _protocol(self, cell: Cell, score: Scored) -> SamplingProtocol:
        return SamplingProtocol.of(ModelIdentity.of_directory(cell.model(score)), score.draw, labels="even")


def check_draws(study: Study) -> None:
    """Raise `UserError` where the shards are missing, or a cell's model cannot be drawn from as the study says."""
    for cell in (*study.tuning_cells(), *study.cells({})):
        try:
            shards = open_shards(cell.config)
            facts = ModelFacts(
                cell.config.diffusion.build(cell.config.data.latent_shape), shards.latent_shape[0], shards.num_classes
            )
            for score in cell.scores:
                check_draw(score.draw, facts)
        except UserError as error:
            raise UserError(f"Cell {cell.name} of {study.path}: {error}") from None


def _write_strip(images: list[torch.Tensor], path: Path) -> None:
    tiles = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    for tile in tiles:
        tile.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    width, height = tiles[0].size
    strip = Image.new("RGB", (width * len(tiles), height))
    for number, tile in enumerate(tiles):
        strip.paste(tile, (width * number, 0))
    with published(path) as file:
        strip.save(file, "PNG")
