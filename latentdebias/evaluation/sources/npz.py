"""ADM's `.npz` files as a source: a batch of images, the moments of Inception features, or both."""

import math
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from latentdebias.errors import UserError
from latentdebias.evaluation.moments import Moments
from latentdebias.evaluation.sources.source import ImageBatch, Indexed, channels_first
from latentdebias.files import sha256_of

MOST_DEFLATED = 1032
"""How many bytes a byte of a deflated member can stand for, at most."""
KEYS = ("arr_0", "arr_1", "mu", "sigma", "mu_s", "sigma_s")
LEGAL = (
    "It must hold `arr_0`, uint8 (N, H, W, 3), as `sample --format npz` writes it, or the moments `mu` (D,) "
    "and `sigma` (D, D), as ADM publishes them"
)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an `.npz`; `ValueError` where its header asks for another size than the file has, or for a pickle."""
    info = archive.getinfo(name)
    with archive.open(info) as file:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.hasobject:
            raise ValueError(f"{name} is a pickle, and nothing is unpickled: allow_pickle=False")
        stated = file.tell() + math.prod(shape) * dtype.itemsize
    if stated != info.file_size or info.file_size > MOST_DEFLATED * info.compress_size:
        raise ValueError(f"{name} has {info.compress_size} bytes there, and its header asks for {stated}")
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


@dataclass(frozen=True)
class NpzImages(Indexed):
    """The images in an ADM `.npz`: `arr_0` uint8 (N, H, W, 3), and optionally integer labels `arr_1` (N,).

    ADM's reference files also hold moments of a whole data set: `mu` and `sigma` of features, `mu_s` and `sigma_s` of
    spatial features. A file without `arr_0` has 0 images. All arrays are held in memory: 9.8 GB for 50,000 images of
    256x256. The file is read at first use, which raises `UserError` for any other file; nothing is unpickled.
    """

    path: str
    batch_size: int = 64

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with zipfile.ZipFile(self.path) as file:
                arrays = {key: _array(file, f"{key}.npy") for key in KEYS if f"{key}.npy" in file.namelist()}
        except Exception as error:  # zipfile and numpy raise errors of many kinds for files that are none of theirs
            raise UserError(f"{self.path} is not readable as an .npz ({error}). {LEGAL}.") from error
        self._check(arrays)
        return arrays

    def _check(self, arrays: dict[str, np.ndarray]) -> None:
        if "arr_0" not in arrays and "mu" not in arrays:
            raise UserError(f"{self.path} holds neither `arr_0` nor `mu`. {LEGAL}.")
        images = arrays.get("arr_0")
        if images is None:
            return
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"{self.path}: `arr_0` is {images.dtype} {images.shape}. {LEGAL}.")
        labels = arrays.get("arr_1")
        if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
            raise UserError(
                f"{self.path}: `arr_1` is {labels.dtype} {labels.shape}, and must be integers "
                f"({len(images)},), one label for each image of `arr_0`."
            )

    @property
    def count(self) -> int:
        return len(self._arrays.get("arr_0", ()))

    @property
    def resolution(self) -> int:
        """The shorter side of the images; `UserError` where there are none."""
        if not self.count:
            raise UserError(f"{self.path} holds moments and no images `arr_0`, so it can be a reference only.")
        return min(self._arrays["arr_0"].shape[1:3])

    @property
    def num_classes(self) -> int | None:
        return None

    def read(self, indices: np.ndarray) -> ImageBatch:
        """Images number `indices` (B,) int64, with their labels where the file has labels."""
        labels = self._arrays.get("arr_1")
        return ImageBatch(
            channels_first(self._arrays["arr_0"][indices]),
            None if labels is None else torch.from_numpy(labels[indices].astype(np.int64)),
        )

    def published_moments(self, num_features: int) -> tuple[Moments | None, Moments | None]:
        """The moments in the file, of the features and of the spatial features, each None where the file has none.

        Raises `UserError` where they are not finite floats, or not of `num_features` features.
        """
        return self._moments("mu", "sigma", num_features), self._moments("mu_s", "sigma_s", None)

    def _moments(self, mean_key: str, cov_key: str, dim: int | None) -> Moments | None:
        mean, cov = self._arrays.get(mean_key), self._arrays.get(cov_key)
        if mean is None and cov is None:
            return None
        if mean is None or cov is None:
            raise UserError(f"{self.path} holds only one of `{mean_key}` and `{cov_key}`. {LEGAL}.")
        for key, array, shape in ((mean_key, mean, mean.shape[:1]), (cov_key, cov, mean.shape[:1] * 2)):
            if array.dtype.kind != "f" or array.shape != shape or not shape or not np.isfinite(array).all():
                raise UserError(
                    f"{self.path}: `{key}` is {array.dtype} {array.shape}, and must be finite floats, (D,) for the "
                    f"mean and (D, D) for the covariance."
                )
        if dim is not None and len(mean) != dim:
            raise UserError(
                f"{self.path}: `{mean_key}` is of {len(mean)} features, and the extractor has {dim}; score with the "
                f"extractor that these moments are of (ADM's: --extractor inception)."
            )
        return Moments(torch.from_numpy(mean).double(), torch.from_numpy(cov).double(), None)

    def fingerprint(self) -> str:
        """The sha256 of the file."""
        return sha256_of(Path(self.path))
