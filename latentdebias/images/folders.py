"""Lists the images in a directory: one folder per class, or all of them directly in it, without classes."""

from pathlib import Path

from latentdebias.errors import UserError
from latentdebias.images.image_set import ImageSet, SourceImage, image_files, is_image


def list_folder(root: Path) -> ImageSet:
    """The images of the class folders in `root`, sorted by class and name, or else those directly in `root`.

    Raises `UserError` for a directory with images in both places, and for a class folder without images.
    """
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
