"""Every pixel format becomes sensible RGB; every broken file is told in words."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from drtune.data import images
from drtune.data.images import decode_rgb, examine
from drtune.data.settings import STANDARD, Reading


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
    assert examine(encoded(noise())) == images.Examination(None, "RGB", (32, 24))
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
        assert examine(data) == images.Examination(None, "CMYK", (16, 16))
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


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_several_frames_are_refused_or_the_first_is_taken(kind):
    frames = [Image.new("L", (16, 16), value) for value in (40, 128, 255)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert examine(data).problem == (
        "several frames (animated or several pages); one file must hold one picture: "
        "save the one that is meant, or set data.frames: first"
    )
    first = with_reading(frames="first")
    assert examine(data, first)[:3] == (None, examine(data).mode, (16, 16))
    assert examine(data, first).frames
    assert abs(int(np.asarray(decode_rgb(data, first))[8, 8, 0]) - 40) <= 4


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
    remedy = "pixels have no agreed range; state theirs in data.value_range: [LOW, HIGH]"
    assert examine(floats).problem == f"cannot be decoded: floating-point {remedy}"
    for value in (70000, -1):
        wide = encoded(Image.fromarray(np.full((2, 2), value, np.int32)), "TIFF")
        assert examine(wide).problem == f"cannot be decoded: 32-bit {remedy}"


@pytest.mark.parametrize(
    ("values", "span", "levels"),
    [
        (np.array([[0, 1024, 4095, 5000]], np.uint16), [0.0, 4095.0], [0, 64, 255, 255]),
        (np.array([[-2000, -1024, 1023.5, 3071]], np.float32), [-1024.0, 3071.0], [0, 0, 128, 255]),
        (np.array([[-1024, 0, 3071, 70000]], np.int32), [-1024.0, 3071.0], [0, 64, 255, 255]),
    ],
)
def test_a_stated_range_becomes_black_to_white(values, span, levels):
    data, reading = encoded(Image.fromarray(values), "TIFF"), with_reading(value_range=span)
    found = examine(data, reading)
    assert (found.problem, found.span) == (None, (float(values.min()), float(values.max())))
    assert np.asarray(decode_rgb(data, reading))[0].tolist() == [[level] * 3 for level in levels]


def test_what_a_stated_range_cannot_be_applied_to_is_refused():
    reading = with_reading(value_range=[0.0, 1.0])
    gap = encoded(Image.fromarray(np.array([[0.5, np.nan]], np.float32)), "TIFF")
    assert "some pixels are no number (NaN or infinite)" in examine(gap, reading).problem
    assert examine(deep_colours(), reading).problem == (
        "16-bit colours, of which the upper 8 bits can be read: data.value_range is for grey pictures"
    )
    assert examine(encoded(noise()), reading).problem is None


def test_deep_colours_are_read_by_their_upper_bits_and_tell_their_range():
    found = examine(deep_colours())
    assert (found.problem, found.mode, found.span) == (None, "RGB", (257.0, 257.0 * 15))
    assert array(deep_colours())[0].tolist() == [[1, 2, 15]]


def deep_colours() -> bytes:
    """A PNG of one pixel with colours of 16 bits, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">3H", 256, 512, 4000))
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_colours_can_be_taken_away():
    grey = np.asarray(decode_rgb(encoded(noise()), with_reading(colour="grey")))
    luma = np.asarray(noise()) @ (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow documents
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    assert np.abs(grey[..., 0] - luma).max() <= 1


def with_reading(**changes: object) -> Reading:
    return STANDARD.model_copy(update=changes)


def test_too_many_pixels_are_refused_in_one_wording():
    data, allowed = (
        encoded(noise()),
        "the 0.0005 allowed; shrink it, or raise data.max_megapixels (of a data set)",
    )
    assert examine(data, most_pixels=500).problem == f"0.0 megapixels, more than {allowed}"
    huge = bytearray(encoded(Image.new("1", (8, 8)), "PPM"))
    huge[:6] = b"P4\n40000 30000"  # Pillow refuses by itself above twice its own limit
    assert examine(bytes(huge)).problem == (
        "1,200.0 megapixels, more than the 128 allowed; "
        "shrink it, or raise data.max_megapixels (of a data set)"
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_phones_of_108_and_200_megapixels_pass_and_a_jpeg_of_a_hundred_scans_does_not():
    assert examine(encoded(Image.new("L", (12_032, 9_024)), "JPEG")).problem is None
    large = encoded(Image.new("L", (16_320, 12_240)), "JPEG")
    assert examine(large).problem.startswith("199.8 megapixels, more than the 128 allowed")
    assert examine(large, most_pixels=256_000_000).problem is None
    many = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = many.rindex(b"\xff\xda")
    many = many[:-2] + many[last:-2] * 200 + b"\xff\xd9"
    assert examine(many).problem == "a JPEG of more than 100 scans (a decompression bomb?); save it again"


def test_formats_that_reach_beyond_their_bytes_are_not_read():
    # EPS and WMF start a program; IPTC opens what it holds as any format; Pillow passes over FITS' scale
    assert not {"EPS", "WMF", "IPTC", "FITS", "MPEG", "GRIB"} & set(images.known_formats())
    assert {"AVIF", "PSD", "WEBP", "JPEG2000"} <= set(images.known_formats())


HANDMADE = {
    "SUN": struct.pack(">8I", 0x59A66A95, 2, 1, 24, 6, 1, 0, 0) + bytes([0, 0, 255, 255, 0, 0]),
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"2 1 2 1",\n"a c #ff0000",\n"b c #0000ff",\n"ab"\n};\n',
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 1, 2, 8, 3) + bytes(14) + b"\xff\0\0\0\0\xff",
}


@pytest.mark.parametrize("kind", HANDMADE)
def test_formats_that_pillow_only_reads(kind):
    assert examine(HANDMADE[kind])[:3] == (None, examine(HANDMADE[kind]).mode, (2, 1))
    assert array(HANDMADE[kind])[0].tolist() == [[255, 0, 0], [0, 0, 255]]


WRITABLE = ["BMP", "DIB", "TIFF", "PPM", "TGA", "PCX", "SGI", "QOI", "DDS", "PNG", "JPEG2000"]


@pytest.mark.parametrize("kind", WRITABLE)
def test_every_lossless_raster_format_is_read_and_one_that_is_cut_off_is_not(kind):
    data = encoded(noise(), kind)
    assert examine(data)[:3] == (None, "RGB", (32, 24))
    assert (array(data) == np.asarray(noise())).all()
    for length in (len(data) // 2, len(data) - 40):
        assert examine(data[:length]).problem.startswith("cannot be decoded: ")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_format_is_read_upright_and_one_that_is_cut_off_is_not(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (64, 32), (0, 0, 200))
    image.paste((255, 255, 255), (0, 0, 16, 16))
    data = encoded(image, kind, exif=exif, quality=95)
    assert examine(data)[:3] == (None, "RGB", (32, 64))
    assert array(data)[:16, 16:, 0].mean() > 250
    assert array(data)[20:, :, 0].mean() < 5
    assert "cannot be decoded" in examine(data[:-20]).problem


def test_heif_is_read_where_its_plugin_is_installed():
    plugin = pytest.importorskip("pillow_heif", reason="pip install 'drtune-pipeline[heif]'")
    plugin.register_heif_opener()
    images.known_formats.cache_clear()
    red, blue = Image.new("RGB", (64, 32), (255, 0, 0)), Image.new("RGB", (64, 32), (0, 0, 255))
    data = encoded(red, "HEIF", save_all=True, append_images=[blue], primary_index=1)
    assert examine(data)[:3] == (None, "RGB", (64, 32))
    assert np.abs(array(data).astype(int) - (0, 0, 255)).max() <= 6, "the main picture is taken"
    assert "cannot be decoded" in examine(data[:-20]).problem
    assert examine(data[:40]).problem == "is HEIF, but damaged or cut off"


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_the_preview_in_a_camera_s_raw_file_is_not_taken_for_the_picture():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    words = "is a camera's raw file, of which only a preview can be read; convert it to PNG or JPEG"
    assert examine(encoded(noise(), "TIFF", tiffinfo=tags)).problem == words
    assert examine(encoded(noise(), "TIFF")).problem is None


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
