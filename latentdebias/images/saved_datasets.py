"""Images of a folder that Hugging Face `datasets` saved to disk; needs the extra `datasets`."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from latentdebias.errors import UserError, legal_choices, pip_install
from latentdebias.images.image_set import (
    MAX_LABEL,
    NO_LABEL,
    ImageSet,
    SourceImage,
    with_class_indices,
    with_class_names,
)

IMAGE, LABEL = "image", "label"
UNLABELLED = "no label, while other rows have one"
DATASET_FILE, SPLITS_FILE = "state.json", "dataset_dict.json"


@dataclass(frozen=True)
class DatasetImage(SourceImage):
    """Row number `row` of the saved dataset `path`."""

    row: int = 0

    def read(self) -> bytes:
        """The bytes of the image file as the dataset stores them, or those of the file it names."""
        stored = _open(self.path)[self.row][IMAGE]
        if stored is None:
            raise ValueError("no image in this row")
        return stored["bytes"] or Path(stored["path"]).read_bytes()


def is_saved_dataset(root: Path) -> bool:
    """Whether `save_to_disk` wrote the folder `root`, which holds one dataset or several splits."""
    return any((root / name).is_file() for name in (DATASET_FILE, SPLITS_FILE))


def list_dataset(root: Path) -> ImageSet:
    """The rows of a dataset with a column `image` and, optionally, `label`: class indices or class names.

    Raises `UserError` where the folder holds splits, cannot be read, or has no image column.
    """
    if (root / SPLITS_FILE).is_file():
        splits = [path.name for path in sorted(root.iterdir()) if (path / DATASET_FILE).is_file()]
        raise UserError(
            f"Images {str(root)!r} is a dataset with splits. Pass one of them: {root}/{{{','.join(splits)}}}."
        )
    dataset = _open(str(root))
    images: list[SourceImage] = [DatasetImage(f"{root.name}[{row}]", str(root), row=row) for row in range(len(dataset))]
    if LABEL not in dataset.features:
        return ImageSet(images, [], 0)
    labels = list(dataset[LABEL])
    if any(isinstance(label, str) for label in labels):
        return with_class_names(images, [label or "" for label in labels], UNLABELLED)
    found = with_class_indices(map(_labelled, images, labels), UNLABELLED)
    names = getattr(dataset.features[LABEL], "names", None)
    return replace(found, class_names=names, num_classes=len(names)) if names and found.num_classes else found


def _labelled(image: SourceImage, label: object) -> SourceImage:
    """The image with its label (None or -1: no label), or with a fault where that is no class index."""
    if label is None or label == NO_LABEL:
        return image
    if not isinstance(label, int) or not 0 <= label <= MAX_LABEL:
        return replace(image, fault=f"class index {label!r} is no integer in 0..{MAX_LABEL}")
    return replace(image, label=label)


@lru_cache(maxsize=4)
def _open(path: str) -> Any:
    """The saved dataset at `path`, with its images as undecoded bytes; `UserError` where it cannot be read."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"Images {path!r} is a folder of Hugging Face datasets, which are an extra. Install it with: "
            f"{pip_install('datasets')}"
        ) from None
    try:
        dataset = datasets.load_from_disk(path)
    # Which exception a damaged folder raises is the library's affair.
    except Exception as error:
        raise UserError(
            f"Images {path!r} cannot be read as a saved dataset ({type(error).__name__}: {error}). Save it again with: "
            f"dataset.save_to_disk({path!r})"
        ) from None
    if not isinstance(dataset.features.get(IMAGE), datasets.Image):
        raise UserError(
            f"Images {path!r}: the dataset has no image column {IMAGE!r}. {legal_choices(IMAGE, dataset.features)} "
            f"Rename it with: dataset.rename_column('...', {IMAGE!r})"
        )
    return dataset.cast_column(IMAGE, datasets.Image(decode=False))
