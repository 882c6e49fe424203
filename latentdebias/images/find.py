"""The images to encode, in a fixed order: folders, lists, archives, or a saved `datasets` folder."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import braceexpand

from latentdebias.errors import UserError
from latentdebias.images.archives import list_archives, remote_tar_members, tar_members, zip_members
from latentdebias.images.image_set import (
    EXTENSIONS,
    NO_LABEL,
    ImageSet,
    SourceImage,
    image_files,
    is_image,
)
from latentdebias.images.lists import list_csv, list_jsonl
from latentdebias.images.saved_datasets import is_saved_dataset, list_dataset
from latentdebias.remote import check_url

__all__ = ["NO_LABEL", "ImageSet", "SourceImage", "find_images"]

LEGAL = (
    "a directory with a folder per class, a directory of images, a .csv or .jsonl list, .tar or .zip archives (a file, "
    "a directory of them, or a pattern such as 'images/{000..009}.tar'; .tar also at https:// and s3:// addresses), or "
    "a folder that datasets' save_to_disk wrote"
)


def find_images(source: str) -> ImageSet:
    """List `source`: class folders, a flat directory, a `.csv` or `.jsonl` list, archives, or a saved dataset.

    Archives are `.tar` or `.zip`: one, a brace pattern, or a directory of them; `.tar` also at addresses. `UserError`
    where it is missing, empty, ambiguous, unreachable, or an address of another kind (`pipe:`, ...).
    """
    lister = LISTERS.get(Path(source).suffix)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source):
        found = _from_addresses(source)
    elif lister and not Path(source).is_dir():
        found = lister([Path(path) for path in _expanded(source)])
    elif Path(source).is_dir():
        found = _from_directory(Path(source))
    else:
        raise UserError(f"Images {source!r}: no such directory or list. Legal here: {LEGAL}.")
    if not found.images:
        raise UserError(f"Images {source!r}: no images there (looked for {', '.join(sorted(EXTENSIONS))}).")
    return found


LISTERS: dict[str, Callable[[list[Path]], ImageSet]] = {
    ".tar": lambda paths: list_archives(paths, tar_members),
    ".zip": lambda paths: list_archives(paths, zip_members),
    ".csv": list_csv,
    ".jsonl": list_jsonl,
}


def _expanded(pattern: str) -> list[str]:
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"Images {pattern!r}: the braces do not match ({error}); write x/{{000..009}}.tar") from None


def _from_addresses(source: str) -> ImageSet:
    check_url(source)
    urls = _expanded(source)
    for url in urls:
        check_url(url)
        if PurePosixPath(urlsplit(url).path).suffix != ".tar":
            raise UserError(
                f"Images {url!r}: at an address only .tar archives are read, not directories, lists or zips. Name the "
                f"tars, as in 'https://HOST/images/{{000..009}}.tar', or copy the data here and pass {LEGAL}."
            )
    return list_archives(urls, remote_tar_members)


def _from_directory(root: Path) -> ImageSet:
    if is_saved_dataset(root):
        return list_dataset(root)
    archives = {suffix: paths for suffix in (".tar", ".zip") if (paths := sorted(root.glob(f"*{suffix}")))}
    if len(archives) > 1:
        raise UserError(f"Images {str(root)!r} is ambiguous: it holds .tar and .zip archives. Pass '{root}/NAME.tar'.")
    for suffix, paths in archives.items():
        return LISTERS[suffix](paths)
    return _from_folders(root)


def _from_folders(root: Path) -> ImageSet:
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
    loose = [entry.name for entry in sorted(root.iterdir()) if entry.is_file() and is_image(entry.name)]
    by_class = {name: list(image_files(root / name)) for name in folders}
    if loose and any(by_class.values()):
        raise UserError(
            f"Images {str(root)!r} is ambiguous: it holds {loose[0]!r} directly and images in the folder "
            f"{folders[0]!r}. Either put every image into a class folder, or none."
        )
    if loose or not folders:
        return ImageSet([SourceImage(name, str(root / name)) for name in loose], [], 0)
    if empty := [name for name, files in by_class.items() if not files]:
        raise UserError(
            f"Images {str(root)!r}: the class folder {empty[0]!r} holds no images, yet it would take a class "
            f"index. Remove it, or point --images at the directory whose folders are the classes."
        )
    images = [
        SourceImage(path.relative_to(root).as_posix(), str(path), label)
        for label, name in enumerate(folders)
        for path in by_class[name]
    ]
    return ImageSet(images, folders, len(folders))
