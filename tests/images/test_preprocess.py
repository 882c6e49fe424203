import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from latentdebias.images.preprocess import centre_crop, decode_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def only_colour(image):
    colours = image.getcolors()
    assert len(colours) == 1
    return colours[0][1]


@pytest.mark.parametrize("shape", [(32, 32), (33, 40), (63, 64), (64, 130), (500, 91), (7, 9)])
def test_crop_has_the_asked_size(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    crop = centre_crop(Image.fromarray(pixels), 32)
    assert crop.shape == (32, 32, 3)
    assert crop.dtype == np.uint8


def test_crop_of_a_square_of_the_asked_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 16), pixels)


def test_crop_keeps_the_centre_columns_and_rounds_the_margin_down():
    pixels = np.zeros((8, 13, 3), np.uint8)
    pixels[:, :, 0] = np.arange(13)
    assert centre_crop(Image.fromarray(pixels), 8)[0, :, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]


def test_twice_the_size_is_halved_by_averaging_boxes():
    pixels = np.random.default_rng(0).integers(0, 64, (8, 8, 3)).astype(np.uint8) * 4
    boxes = pixels.reshape(4, 2, 4, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(centre_crop(Image.fromarray(pixels), 4) - boxes).max() <= 0.5


def test_below_twice_the_size_the_resize_is_bicubic_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (15, 15, 3), np.uint8))
    assert np.array_equal(centre_crop(image, 8), np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))


def test_large_images_are_halved_while_they_can_be_then_resized():
    """45x38 -> 22x19 -> 11x9 by boxes -> 9.78x8, rounded to 10x8, by bicubic -> columns 1 to 8 of 10."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (38, 45, 3), np.uint8))
    halved = image.resize((22, 19), Image.Resampling.BOX).resize((11, 9), Image.Resampling.BOX)
    resized = np.asarray(halved.resize((10, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(centre_crop(image, 8), resized[:, 1:9])


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(image, "JPEG", exif=exif)).size == (2, 4)


def test_exif_orientation_6_turns_the_left_side_up():
    image = Image.new("RGB", (4, 2), "blue")
    image.paste("red", (0, 0, 2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode_image(encoded(image, exif=exif))
    assert (upright.getpixel((0, 0)), upright.getpixel((0, 3))) == ((255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (3, 2), 90), (90, 90, 90)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.fromarray(np.full((2, 3), 257 * 90, np.uint16)), (90, 90, 90)),
        (Image.new("RGBA", (3, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (3, 2), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("LA", (3, 2), (40, 255)), (40, 40, 40)),
        (Image.new("RGB", (3, 2), (200, 10, 60)).quantize(), (200, 10, 60)),
    ],
    ids=["grey", "bilevel", "16 bit", "opaque", "transparent", "grey and alpha", "palette"],
)
def test_other_modes_become_rgb(image, colour):
    assert only_colour(decode_image(encoded(image))) == colour


def test_16_bit_colour_keeps_the_high_byte():
    rows = b"".join(b"\0" + bytes([200, 255, 10, 0, 60, 128]) * 3 for _ in range(2))
    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"".join(
        struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks
    )
    assert only_colour(decode_image(b"\x89PNG\r\n\x1a\n" + png)) == (200, 10, 60)


def test_16_bit_tiff_is_scaled():
    pixels = Image.fromarray(np.full((2, 3), 257 * 90 + 100, np.uint16))
    assert only_colour(decode_image(encoded(pixels, "TIFF"))) == (90, 90, 90)


def test_cmyk_jpeg_is_converted():
    red, green, blue = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 50


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind):
    first, second = Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)
    data = encoded(first, kind, save_all=True, append_images=[second])
    assert only_colour(decode_image(data)) == (10, 10, 10)


def test_floating_point_pixels_are_an_error():
    with pytest.raises(ValueError, match="floating-point"):
        decode_image(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_a_transparent_palette_entry_is_white():
    image = Image.new("RGB", (3, 2), (200, 10, 60)).quantize()
    index = image.getpixel((0, 0))
    assert only_colour(decode_image(encoded(image, transparency=index))) == (255, 255, 255)


def test_cmyk_is_converted():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = decode_image(encoded(image, "TIFF")).getpixel((0, 0))
    assert red > 200
    assert max(green, blue) < 50


def test_a_small_file_that_declares_billions_of_pixels_is_an_error():
    bomb = bytearray(encoded(Image.new("RGB", (4, 4))))
    bomb[16:24] = (60_000).to_bytes(4) * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4)
    with pytest.raises(Image.DecompressionBombError):
        decode_image(bytes(bomb))


def test_decompression_bomb_is_an_error(monkeypatch):
    data = encoded(Image.new("RGB", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombWarning):
        decode_image(data)


def test_a_sliver_that_would_grow_over_the_limit_is_an_error(monkeypatch):
    sliver = Image.new("RGB", (500, 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        centre_crop(sliver, 32)


def test_formats_that_run_programs_are_not_opened():
    with pytest.raises(UnidentifiedImageError):
        decode_image(encoded(Image.new("RGB", (4, 4)), "EPS"))


def test_the_reason_for_no_image_is_the_same_every_time():
    reasons = []
    for _ in range(2):
        with pytest.raises(UnidentifiedImageError) as caught:
            decode_image(b"no image")
        reasons.append(str(caught.value))
    assert reasons == ["no readable image of the formats JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM"] * 2


def test_truncated_file_is_an_error():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        decode_image(data[: len(data) // 2])
