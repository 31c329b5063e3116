"""One encoded image: find out what is wrong with it, and turn any sound one into 8-bit RGB.

Accepted and converted: CMYK (Adobe's inverted JPEG as well), 16-bit, palette, bilevel, greyscale, YCbCr,
LAB and HSV; alpha is laid on white; colour profiles are applied. The main picture of an MPO file (a JPEG
with previews, as phones and cameras write), of a PSD and of a HEIF file is taken; every other file of several
frames is refused unless `Reading.frames` says `first`, because taking one in silence would hide data.
"""

import contextlib
import io
import re
import struct
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageCms import ImageCmsTransform

from drtune.data.kinds import CONVERT, is_preview, kind_of
from drtune.data.profiles import applied, profile_name, to_srgb
from drtune.data.settings import STANDARD, Reading

WHITE = (255, 255, 255, 255)
FORMATS = (
    "PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "TGA", "ICO", "ICNS", "JPEG2000",
    "AVIF", "HEIF", "PCX", "SGI", "QOI", "DDS", "MSP", "XBM", "IM", "PSD", "XPM", "CUR", "DCX", "SUN", "BLP",
    "FTEX", "GBR", "FLI", "PIXAR", "XVTHUMB", "MCIDAS", "SPIDER", "IMT", "PCD",
)  # fmt: skip
"""Raster formats. Never: PostScript and WMF, for which Pillow starts other programs; IPTC, which opens what
it holds as any kind; FITS, whose scale Pillow passes over."""
MAIN_PICTURE = ("MPO", "PSD", "HEIF")
"""Formats that name one of their pictures as the main one."""
MOST_PIXELS, LONGEST_SIDE = 128_000_000, 1_000_000
"""More than a phone of 108 megapixels takes; half of it needs 1 GB to decode, a column of them far more."""
EVER = 1_000_000_000
"""More than `data.max_megapixels` may allow."""
START_OF_SCAN, MOST_SCANS, MOST_PASSES = b"\xff\xda", 100, 20
"""Passes over a JPEG; cameras and programs write 1 to 20. Each costs as much time as a picture."""
STRIPS, MOST_STRIPS, MOST_TAGS = (273, 324), 600_000, 65_535
"""Tags that say where the pieces of a TIFF lie; 128 megapixels in tiles of 16 x 16 are 500,000."""
BAND = 4_000_000
"""Pixels that are converted at a time, so that a large picture needs little more memory than its result."""


class Examination(NamedTuple):
    """What a full decode of one file has shown.

    Attributes:
        problem: why it cannot be used, in words; None where it can.
        mode: Pillow's name of the pixel format as stored (`RGB`, `CMYK`, `I;16`, ...); '' if not an image.
        size: (width, height) of the upright picture; (0, 0) where it has a problem.
        span: smallest and largest value of pixels of more than 8 bits; colours on a scale of 16; else None.
        profile: what its colour profile calls itself; '' without one.
        frames: whether it holds more than the one that is taken.
    """

    problem: str | None
    mode: str
    size: tuple[int, int] = (0, 0)
    span: tuple[float, float] | None = None
    profile: str = ""
    frames: bool = False


def decode_rgb(encoded: bytes, reading: Reading = STANDARD) -> Image.Image:
    """Decode one image file to RGB, upright (EXIF orientation applied).

    Raises:
        Exception: whatever Pillow raises on a broken file; `examine` puts it in words.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # examine has judged the file once; no repetition in every epoch
        return to_rgb(open_image(io.BytesIO(encoded), EVER), reading)


def open_image(stream: IO[bytes], most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Open an image of a raster format; the only place that does.

    Raises:
        Exception: whatever Pillow raises on a broken file, on one of another kind, or on one of far more
            pixels than are allowed.
    """
    # Pillow refuses above twice its limit, which is one for all threads: it is only ever raised
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, most_pixels // 2)
    return Image.open(stream, formats=known_formats())


@cache
def known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow, with its plugins, can read."""
    Image.init()
    for plugin in ("pillow_heif", "pi_heif"):  # an extra: named as text, so that nothing requires it
        if "HEIF" not in Image.OPEN and find_spec(plugin):
            import_module(plugin).register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def to_rgb(image: Image.Image, reading: Reading = STANDARD) -> Image.Image:
    """Convert a Pillow image of any mode to RGB, upright; a large one in bands, pixel by pixel the same.

    Raises:
        ValueError: floating-point or 32-bit pixels, and no range is stated.
    """
    image = upright(image)
    profile = image.info.get("icc_profile") if reading.profiles == "srgb" else None
    turn = to_srgb(profile or b"", image.mode)
    plain = turn is None and image.mode == "RGB" and "transparency" not in image.info
    if plain or image.width * image.height <= BAND:
        whole = flat_rgb(image, turn, reading.value_range)
    else:
        whole, rows = Image.new("RGB", image.size), max(1, BAND // image.width)
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height)))
            whole.paste(flat_rgb(band, turn, reading.value_range), (0, top))
    return whole.convert("L").convert("RGB") if reading.colour == "grey" else whole


def flat_rgb(image: Image.Image, turn: ImageCmsTransform | None, span: list[float] | None) -> Image.Image:
    """Convert a decoded image of any mode to RGB; alpha is laid on white.

    Args:
        image: decoded.
        turn: from its colours to sRGB, or None.
        span: values of deep pixels that become 0 and 255, or None (see `Reading`).
    """
    if is_deep(image):
        image = eight_bit(image, span)
    if "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info:
        alpha = image.convert("RGBA")
        if turn is not None:
            alpha = applied(image, turn)
            alpha.putalpha(image.convert("RGBA").getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), alpha).convert("RGB")
    if turn is not None:
        return applied(image, turn)
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Decode fully and apply the EXIF orientation; EXIF data that cannot be read turn nothing."""
    image.load()
    with contextlib.suppress(Exception):  # Pillow's EXIF parser raises many kinds; the pixels are sound
        ImageOps.exif_transpose(image, in_place=True)
    return image


def eight_bit(image: Image.Image, span: list[float] | None) -> Image.Image:
    """Scale deep grey pixels to 0..255 (Pillow's own conversion clips everything above 255 to white)."""
    pixels = np.asarray(image)
    if span is not None:
        low, high = span
        if not np.isfinite(pixels).all():
            raise ValueError("some pixels are no number (NaN or infinite); write a number in their place")
        shares = (pixels.astype(np.float64).clip(low, high) - low) / (high - low)
        return Image.fromarray(np.rint(255 * shares).astype(np.uint8))
    kind = "floating-point" if image.mode == "F" else "32-bit"
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"{kind} pixels have no agreed range; state theirs in data.value_range: [LOW, HIGH]")
    return Image.fromarray(((pixels.astype(np.int32) + 128) // 257).astype(np.uint8))


def examine(encoded: bytes, reading: Reading = STANDARD, most_pixels: int = MOST_PIXELS) -> Examination:
    """Decode one file fully, as training will, and say what is wrong with it.

    Pillow's warnings should be silenced by the caller, once and not here: filters are shared by all threads.
    """
    return examined(encoded, reading, most_pixels)[0]


def examined(
    encoded: bytes, reading: Reading = STANDARD, most_pixels: int = MOST_PIXELS
) -> tuple[Examination, Image.Image | None]:
    """What `examine` says of one file, and its picture as `decode_rgb` gives it; None if it has a fault."""
    if not encoded:
        return Examination("empty file (0 bytes)", ""), None
    if strips_of(encoded) > MOST_STRIPS:
        return Examination(f"a TIFF of more than {MOST_STRIPS} pieces (a bomb?); save it again", ""), None
    try:
        image = open_image(io.BytesIO(encoded), most_pixels)
    except UnidentifiedImageError:
        return Examination(kind_of(encoded, known_formats()), ""), None
    except Image.DecompressionBombError as fault:
        return Examination(too_large(int(re.findall(r"\d+", str(fault))[0]), most_pixels), ""), None
    except Exception as fault:  # a damaged header can raise anything; each is a fault of the file
        return Examination(undecodable(fault), ""), None
    found = Examination(excess_of(image, encoded, most_pixels), image.mode)
    if found.problem:
        return found, None
    try:
        frames = image.format not in MAIN_PICTURE and has_second_frame(image)
        if problem := unreadable(image, encoded, reading, frames):
            return found._replace(problem=problem), None
        deep, profile = has_deep_colours(image), image.info.get("icc_profile")
        picture = to_rgb(image, reading)
        span = span_of(image, deep)
    except Exception as fault:  # decoders raise OSError, SyntaxError, EOFError, zlib.error, ...
        return found._replace(problem=undecodable(fault)), None
    name = profile_name(profile) if profile else ""
    return found._replace(size=picture.size, span=span, profile=name, frames=frames), picture


def undecodable(fault: Exception) -> str:
    """What a decoder says, on one line."""
    return f"cannot be decoded: {' '.join(str(fault).split()) or type(fault).__name__}"


def excess_of(image: Image.Image, encoded: bytes, most_pixels: int) -> str | None:
    """Say which limit an opened image exceeds before it is decoded, or None."""
    pixels = image.width * image.height
    if max(image.size) > LONGEST_SIDE:
        return f"{image.width} x {image.height} pixels; no side may exceed {LONGEST_SIDE}; cut it"
    if pixels > most_pixels:
        return too_large(pixels, most_pixels)
    scans = encoded.count(START_OF_SCAN) if image.format in ("JPEG", "MPO") else 0
    if scans > (most := min(MOST_SCANS, MOST_PASSES * most_pixels // max(pixels, 1))):
        return f"a JPEG of more than {most} scans (a decompression bomb?); save it again"
    return None


def strips_of(encoded: bytes) -> int:
    """Into how many pieces a TIFF says that it is cut, which Pillow lists first; 0 for another file."""
    order, big = {b"II": "<", b"MM": ">"}.get(encoded[:2], ""), b"+" in encoded[2:4]
    if not order:
        return 0
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), encoded, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), encoded, start)
        first, entry = start + (8 if big else 2), struct.Struct(order + ("HHQ8x" if big else "HHI4x"))
        table = encoded[first : first + min(count, MOST_TAGS) * entry.size]
        tags = entry.iter_unpack(table[: len(table) // entry.size * entry.size])
        return max((pieces for tag, _, pieces in tags if tag in STRIPS), default=0)
    except (struct.error, OverflowError):
        return 0


def too_large(pixels: int, most_pixels: int) -> str:
    """Say that a picture has too many pixels."""
    allowed = f"more than the {most_pixels / 1e6:g} allowed"
    return (
        f"{pixels / 1e6:,.1f} megapixels, {allowed}; shrink it, or raise data.max_megapixels (of a data set)"
    )


def unreadable(image: Image.Image, encoded: bytes, reading: Reading, frames: bool) -> str | None:
    """Say why an opened image does not mean one picture, or None."""
    if is_preview(image, encoded):
        return f"is a camera's raw file, of which only a preview can be read; {CONVERT}"
    if frames and reading.frames == "error":
        return (
            "several frames (animated or several pages); one file must hold one picture: "
            "save the one that is meant, or set data.frames: first"
        )
    if reading.value_range and has_deep_colours(image):
        return "16-bit colours, of which the upper 8 bits can be read: data.value_range is for grey pictures"
    return None


def has_second_frame(image: Image.Image) -> bool:
    """Whether there is more than one; they are not counted, since a file may name thousands."""
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def is_deep(image: Image.Image) -> bool:
    """Whether a decoded image has one channel of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def has_deep_colours(image: Image.Image) -> bool:
    """Whether an opened, not yet decoded image has colours of 16 bits, of which Pillow takes the upper 8."""
    return not is_deep(image) and ";16" in str(getattr(image, "tile", ""))


def span_of(image: Image.Image, deep_colours: bool) -> tuple[float, float] | None:
    """Smallest and largest value of the deep pixels of a decoded image; None if it has none."""
    if is_deep(image):
        pixels = np.asarray(image)
        return float(pixels.min()), float(pixels.max())
    if not deep_colours:
        return None
    ends = [end for channel in np.atleast_2d(image.getextrema()) for end in channel]
    return 257.0 * min(ends), 257.0 * max(ends)
