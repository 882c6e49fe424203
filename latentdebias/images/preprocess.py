"""From an image file's bytes to square RGB pixels, with the centre crop of ADM (Dhariwal and Nichol, 2021)."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PREPROCESSING = "adm_centre_crop"
"""Name of this preprocessing in a manifest; a change of the pixels must come with another name."""

# Closed on purpose: Pillow's other readers include some that run outside programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def decode_image(data: bytes) -> Image.Image:
    """The RGB image in `data`: upright by its EXIF tag, transparency over white, 16 bits scaled to 8.

    Whatever Pillow raises on bad bytes passes through; an image over `Image.MAX_IMAGE_PIXELS` is an error.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = _open(data)
        image.load()
    return _to_rgb(ImageOps.exif_transpose(image))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        # Pillow's own message holds an address in memory, and reasons are among the bytes of a set.
        raise UnidentifiedImageError(f"no readable image of the formats {', '.join(FORMATS)}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I"):
        eight_bits = np.clip(np.asarray(image).astype(np.int64), 0, 65535) / 257
        return Image.fromarray(eight_bits.round().astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """ADM's centre crop: uint8 `(size, size, 3)` of an RGB image.

    Halves by box filter while the shorter side is at least `2 * size`, goes to `size` bicubically, then crops.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > (Image.MAX_IMAGE_PIXELS or np.inf):
        # A sliver of a few rows passes Pillow's limit as a file and would exceed it once enlarged.
        raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels would grow to {width}x{height}")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
