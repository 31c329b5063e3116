"""Every pixel format becomes sensible RGB; every broken file is told in words."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from drtune.data import images
from drtune.data.images import decode_rgb, examine


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def array(data: bytes) -> np.ndarray:
    image = decode_rgb(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def noise(width: int = 32, height: int = 24) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_rgb_is_untouched():
    assert examine(encoded(noise())) == (None, "RGB")
    assert (array(encoded(noise())) == np.asarray(noise())).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_is_scaled_not_clipped(kind):
    ramp = np.array([[0, 257, 1000, 32768, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(ramp), kind)
    assert examine(data).problem is None
    assert array(data)[0].tolist() == [[v] * 3 for v in (0, 1, 4, 128, 255)]


def test_sixteen_bit_big_endian_tiff():
    ramp = np.array([[0, 1000, 65535]], dtype=">u2")
    data = encoded(Image.frombytes("I;16B", (3, 1), ramp.tobytes()), "TIFF")
    assert array(data)[0, :, 0].tolist() == [0, 4, 255]


def test_cmyk_jpeg_keeps_its_colours():
    # cyan, magenta, yellow and black ink on white paper
    inks = {(255, 0, 0, 0): (0, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
        assert examine(data) == (None, "CMYK")
        assert np.abs(array(data).astype(int) - colour).max() <= 4


def test_palette_and_bilevel_and_grey():
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert array(encoded(palette))[0, 0].tolist() == [0, 255, 0]
    assert array(encoded(Image.new("1", (2, 2), 1)))[0, 0].tolist() == [255, 255, 255]
    assert array(encoded(Image.new("L", (2, 2), 77)))[0, 0].tolist() == [77, 77, 77]


def test_alpha_is_laid_on_white():
    clear, half = Image.new("RGBA", (1, 1), (0, 0, 0, 0)), Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert array(encoded(clear))[0, 0].tolist() == [255, 255, 255]
    assert array(encoded(half))[0, 0].tolist() == [127, 127, 127]
    assert array(encoded(Image.new("LA", (1, 1), (0, 0))))[0, 0].tolist() == [255, 255, 255]


def test_transparent_palette_is_laid_on_white_without_a_warning():
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    data = encoded(palette, transparency=b"\x00\xff")
    assert examine(data).problem is None
    assert array(data)[0, 0].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    upright = decode_rgb(encoded(image, "PNG", exif=exif))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 255, 255)


def test_broken_exif_turns_nothing():
    data = encoded(Image.new("RGB", (4, 2)), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert decode_rgb(data).size == (4, 2)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind):
    frames = [Image.new("L", (4, 4), value) for value in (0, 128, 255)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert (
        examine(data).problem == "several frames (animated or several pages); one file must hold one picture"
    )


def test_main_picture_of_an_mpo_is_taken():
    data = encoded(Image.new("RGB", (8, 8), (255, 0, 0)), "MPO", save_all=True, append_images=[noise()])
    assert examine(data).problem is None
    assert np.abs(array(data).astype(int) - (255, 0, 0)).max() <= 4


def test_broken_files_are_told_in_words():
    jpeg, png = encoded(noise(), "JPEG"), encoded(noise(), "PNG")
    assert examine(b"").problem == "empty file (0 bytes)"
    assert "not an image" in examine(b"class,label\ncat,1\n").problem
    assert "not an image" in examine(jpeg[:1]).problem
    for length in (len(jpeg) // 2, len(jpeg) - 40):
        assert "truncated" in examine(jpeg[:length]).problem.lower()
    assert examine(png[: len(png) // 2]).problem.startswith("cannot be decoded")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    assert examine(bytes(flipped)).problem.startswith("cannot be decoded")


def test_pixels_of_unknown_range_are_refused():
    floats = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    assert "floating-point pixels" in examine(floats).problem
    wide = encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF")
    assert "32-bit pixels" in examine(wide).problem


def test_decompression_bomb_is_refused(monkeypatch):
    data = encoded(noise())
    monkeypatch.setattr(images, "MOST_PIXELS", 500)  # the image has 768
    assert "32 x 24 pixels exceed 500" in examine(data).problem
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # more than twice: Pillow refuses
    assert "exceeds limit" in examine(data).problem


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_phone_of_108_megapixels_passes_and_a_jpeg_of_a_hundred_scans_does_not():
    assert examine(encoded(Image.new("L", (12_032, 9_024)), "JPEG")).problem is None
    many = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = many.rindex(b"\xff\xda")
    many = many[:-2] + many[last:-2] * 200 + b"\xff\xd9"
    assert examine(many).problem == "a JPEG of more than 100 scans (a decompression bomb?); save it again"


MODES = ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I"]


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_in_bands_is_the_whole_one(monkeypatch, mode):
    image = noise(33, 21)
    if mode in ("I;16", "I"):
        wide = np.random.default_rng(1).integers(0, 65536, (21, 33))
        image = Image.fromarray(wide.astype(np.uint16 if mode == "I;16" else np.int32))
    elif mode in ("P", "PA"):
        image = image.quantize(7).convert(mode)
    elif mode in ("LA", "RGBA"):
        image.putalpha(noise(33, 21).convert("L"))
        image = image.convert(mode)
    else:
        image = image.convert("RGB").convert(mode) if mode != "LAB" else as_lab(image)
    whole = np.asarray(images.to_rgb(image.copy()))
    monkeypatch.setattr(images, "BAND", 70)
    np.testing.assert_array_equal(np.asarray(images.to_rgb(image)), whole)


def as_lab(image):
    from PIL import ImageCms

    turn = ImageCms.buildTransform(*map(ImageCms.createProfile, ("sRGB", "LAB")), "RGB", "LAB")
    return ImageCms.applyTransform(image, turn)


def test_what_would_take_minutes_is_refused_before_it_is_decoded():
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "JPEG", progressive=True)
    jpeg = stream.getvalue().replace(b"\x00\x40\x00\x40", b"\x23\x28\x23\x28", 1)
    last = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    problem = examine(jpeg[:-2] + 40 * last + b"\xff\xd9").problem
    assert problem == "a JPEG of more than 31 scans (a decompression bomb?); save it again"
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        table = [(256, 4, 1, 64), (257, 4, 1, 64), (273, 4, 10_000_000, 300), (279, 4, 10_000_000, 300)]
        entries = b"".join(struct.pack(f"{order}HHII", *entry) for entry in table)
        head = mark + struct.pack(f"{order}IH", 8, len(table))
        assert examine(head + entries + bytes(1000)).problem == (
            "a TIFF of more than 600000 pieces (a bomb?); save it again"
        )
    for damaged in (b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II+\0\x08\0\0\0" + b"\xff" * 16):
        assert examine(damaged).problem


def test_no_side_is_longer_than_a_million_pixels():
    stream = io.BytesIO()
    Image.new("1", (1, 1_000_001)).save(stream, "PNG")
    assert examine(stream.getvalue()).problem == "1 x 1000001 pixels; no side may exceed 1000000; cut it"
