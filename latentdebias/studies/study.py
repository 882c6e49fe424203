"""A study that is opened: its settings, and its cells, each an ordinary run with an ordinary config."""

import functools
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latentdebias.config import RunConfig, load_config
from latentdebias.drawing.sample_record import settings_of
from latentdebias.errors import UserError, command, legal_choices
from latentdebias.files import parse_yaml
from latentdebias.registry import in_words, validate
from latentdebias.run import kept_model
from latentdebias.sampling import DrawOptions
from latentdebias.studies.options import ScoreOptions, StudyOptions

FOLDER = Path("studies")
OWN_KEYS = {
    "run_dir": "out",
    "training.seed": "seeds",
    "training.steps": "evaluate.at",
    "training.export_at": "evaluate.at",
}


@dataclass(frozen=True)
class Setting:
    """A point of the grid: its name in tables, and the keys of the config that it sets."""

    label: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Scored:
    """One score of a cell: the iteration of the model, and how its images are drawn."""

    iteration: int
    draw: DrawOptions

    @property
    def sampler(self) -> str:
        """The sampler's name, with those of its fields that are not at their defaults."""
        return in_words(settings_of(self.draw)["sampler"])


@dataclass(frozen=True)
class Cell:
    """One run of a study: a setting from a seed, in a run directory of its own."""

    name: str
    setting: Setting
    seed: int
    base: str
    changes: Mapping[str, Any]
    run_dir: Path
    scores: tuple[Scored, ...]

    @property
    def iterations(self) -> int:
        """How many steps the cell trains: as many as its last score needs."""
        return self.scores[-1].iteration

    @property
    def arguments(self) -> list[str]:
        """The words that follow `latentdebias train` to train this cell."""
        exported = sorted({score.iteration for score in self.scores})
        own = {
            "run_dir": str(self.run_dir),
            "training.seed": self.seed,
            "training.steps": self.iterations,
            "training.export_at": exported,
        }
        changes = [f"{key}={_flow(value)}" for key, value in {**self.changes, **own}.items()]
        return ["--config", self.base, *(word for change in changes for word in ("--set", change))]

    @property
    def command(self) -> str:
        """The command line that trains this cell."""
        return f"{command('train')} {shlex.join(self.arguments)}"

    @functools.cached_property
    def config(self) -> RunConfig:
        """The checked config of the run; `UserError` names the cell and what is wrong."""
        try:
            return load_config(self.base, self.arguments[3::2])
        except UserError as error:
            raise UserError(f"Cell {self.name}: {error}") from None

    def model(self, score: Scored) -> Path:
        """The model directory that a score is of."""
        return kept_model(self.run_dir, score.iteration)

    def file(self, score: Scored, suffix: str) -> Path:
        """The path of a score's file: `.json` for its record, `.png` for its first images."""
        name = slug(f"step-{score.iteration:08d}-{score.sampler}-{score.draw.steps}")
        return self.run_dir / "scores" / f"{name}{suffix}"


@dataclass(frozen=True)
class Study:
    """A study file that was read and checked."""

    path: Path
    options: StudyOptions
    settings: tuple[Setting, ...]

    @classmethod
    def read(cls, path: Path) -> "Study":
        """The study in a YAML file; `UserError` for a missing file, an empty grid, or a key or value that is wrong.

        Every cell's config is built, so a mistake in one is found here, before anything is trained.
        """
        options = validate(StudyOptions, _read(path), str(path))
        try:
            options.check()
            study = cls(path, options, tuple(_settings(options)))
            study.check()
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return study

    def check(self) -> None:
        """Raise `UserError` for settings that are not distinct, an unknown baseline, or a config that is wrong."""
        labels = [setting.label for setting in self.settings]
        folders = [slug(label) for label in labels]
        for label, folder in zip(labels, folders, strict=True):
            if folders.count(folder) > 1:
                raise UserError(f"Two settings are named {label!r}, or nearly; give each a name under variants:.")
        for label in (self.baseline, *self.options.published):
            if label not in labels:
                raise UserError(f"No setting is named {label!r}. {legal_choices(label, labels)}")
        tune = self.options.tune
        for setting in self.settings:
            for key in (*self.options.set, *setting.changes, *([tune.key] if tune else [])):
                if key in OWN_KEYS:
                    raise UserError(f"{key} is the study's own to set; give {OWN_KEYS[key]} in its place.")
        for cell in (*self.tuning_cells(), *self.cells({})):
            assert cell.config is not None

    @property
    def out(self) -> Path:
        """The folder of the study: its runs, its report and its scores."""
        return Path(self.options.out or Path("runs", "studies", self.path.stem))

    @property
    def evaluate(self) -> ScoreOptions:
        """How cells are scored."""
        return self.options.evaluate

    @property
    def baseline(self) -> str:
        """The label of the setting that the others are compared with."""
        return self.options.baseline or self.settings[0].label

    @functools.cached_property
    def scores(self) -> tuple[Scored, ...]:
        """The scores of every cell, by iteration."""
        last = self.evaluate.at[-1]
        early = self.evaluate.steps if self.evaluate.early_steps is None else self.evaluate.early_steps
        return tuple(
            Scored(iteration, draw)
            for iteration in self.evaluate.at
            for draw in self.evaluate.draws(self.evaluate.steps if iteration == last else early)
        )

    def cells(self, tuned: Mapping[str, Any]) -> list[Cell]:
        """Every setting from every seed, seed by seed; `tuned` holds the value of the tuned option by setting's label.

        A setting that `tuned` lacks keeps the base config's value.
        """
        return [
            self._cell(f"{slug(setting.label)}/seed-{seed}", setting, seed, self.scores, self._tuned(tuned, setting))
            for seed in self.options.seeds
            for setting in self.settings
        ]

    def tuning_cells(self) -> list[Cell]:
        """The short runs that decide the tuned option: every setting with every value; none without `tune`."""
        tune = self.options.tune
        if tune is None:
            return []
        steps = tune.steps or max(self.evaluate.steps)
        score = Scored(tune.iterations, next(self.evaluate.draws((steps,))))
        return [
            self._cell(
                f"{slug(setting.label)}/{slug(f'{tune.key}-{_flow(value)}')}",
                setting,
                tune.seed,
                (score,),
                {tune.key: value},
            )
            for value in tune.values
            for setting in self.settings
        ]

    def _tuned(self, tuned: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
        tune = self.options.tune
        return {tune.key: tuned[setting.label]} if tune is not None and setting.label in tuned else {}

    def _cell(
        self, name: str, setting: Setting, seed: int, scores: tuple[Scored, ...], tuned: Mapping[str, Any]
    ) -> Cell:
        changes = {**self.options.set, **setting.changes, **tuned}
        return Cell(name, setting, seed, self.options.base, changes, self.out / "cells" / name, scores)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        names = [str(each) for each in FOLDER.glob("*.yaml")]
        raise UserError(f"There is no study file {path}. {legal_choices(str(path), names) if names else ''}".rstrip())
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Study {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"Study {path} must be a mapping with keys such as `grid:`, and is {type(values).__name__}.")
    return values


def _settings(options: StudyOptions) -> Iterator[Setting]:
    """Every variant with every combination of the grid's values."""
    for name, changes in options.variants.items() or [("", {})]:
        for values in itertools.product(*options.grid.values()):
            chosen = dict(zip(options.grid, values, strict=True))
            words = [name, *(_named(key, value) for key, value in chosen.items())]
            yield Setting(" ".join(filter(None, words)), {**changes, **chosen})


def _named(key: str, value: Any) -> str:
    """A grid's value as part of a label: a part by its own name, any other value beside the last word of its key."""
    part = isinstance(value, str) or (isinstance(value, Mapping) and "name" in value)
    return in_words(value) if part else f"{key.rpartition('.')[2]} {_flow(value)}"


def slug(text: str) -> str:
    """`text` as the name of a file or folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _flow(value: Any) -> str:
    """`value` as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
