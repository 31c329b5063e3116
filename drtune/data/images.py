"""One encoded image: find out what is wrong with it, and turn any sound one into 8-bit RGB.

Accepted and converted: CMYK (Adobe's inverted JPEG as well), 16-bit, palette, bilevel, greyscale, YCbCr,
LAB and HSV; alpha is laid on white. Colour profiles are not applied. The main picture of an MPO file (a JPEG
with previews, as phones and cameras write) is taken; every other file of several frames is refused, because
taking one frame in silence would hide data.
"""

import contextlib
import io
import struct
import warnings
from functools import cache
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

WHITE = (255, 255, 255, 255)
FORMATS = (
    "PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "TGA", "ICO", "ICNS", "JPEG2000",
    "AVIF", "HEIF", "PCX", "SGI", "QOI", "DDS", "MSP", "XBM", "IM",
)  # fmt: skip
"""Raster formats. PostScript, PDF, WMF and their kin never: Pillow starts other programs for them."""
OTHER_KINDS = {
    b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"%PDF": "PDF", b"\xd7\xcd\xc6\x9a": "WMF",
    b"8BPS": "PSD",
}  # fmt: skip
MOST_PIXELS, LONGEST_SIDE = 128_000_000, 1_000_000
"""More than a phone of 108 megapixels takes; half of it needs 1 GB to decode, a column of them far more."""
START_OF_SCAN, MOST_SCANS, MOST_WORK = b"\xff\xda", 100, 20 * MOST_PIXELS
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
    """

    problem: str | None
    mode: str


def decode_rgb(encoded: bytes) -> Image.Image:
    """Decode one image file to RGB, upright (EXIF orientation applied).

    Raises:
        Exception: whatever Pillow raises on a broken file; `examine` puts it in words.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # examine has judged the file once; no repetition in every epoch
        return to_rgb(open_image(io.BytesIO(encoded)))


def open_image(stream: IO[bytes]) -> Image.Image:
    """Open an image of a raster format; the only place that does.

    Raises:
        Exception: whatever Pillow raises on a broken file, or on one of another kind.
    """
    return Image.open(stream, formats=known_formats())


@cache
def known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow, with its plugins, can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a Pillow image of any mode to RGB, upright; a large one in bands, pixel by pixel the same.

    Raises:
        ValueError: floating-point or 32-bit pixels, whose range nobody has agreed on.
    """
    image = upright(image)
    if image.width * image.height <= BAND or (image.mode == "RGB" and "transparency" not in image.info):
        return flat_rgb(image)
    whole, rows = Image.new("RGB", image.size), max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(flat_rgb(band), (0, top))
    return whole


def flat_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any mode to RGB; alpha is laid on white."""
    if image.mode.startswith("I"):
        return sixteen_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; convert the file to 8 bit")
    if "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Decode fully and apply the EXIF orientation; EXIF data that cannot be read turn nothing."""
    image.load()
    with contextlib.suppress(Exception):  # Pillow's EXIF parser raises many kinds; the pixels are sound
        ImageOps.exif_transpose(image, in_place=True)
    return image


def sixteen_bit(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255 (Pillow's own conversion clips everything above 255 to white)."""
    pixels = np.asarray(image).astype(np.int32)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels have no agreed range; convert the file to 8 or 16 bit")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def examine(encoded: bytes) -> Examination:
    """Decode one file fully, as training will, and say what is wrong with it.

    Pillow's warnings should be silenced by the caller, once and not here: filters are shared by all threads.
    """
    return examined(encoded)[0]


def examined(encoded: bytes) -> tuple[Examination, Image.Image | None]:
    """What `examine` says of one file, and its picture as `decode_rgb` gives it; None if it has a fault."""
    if not encoded:
        return Examination("empty file (0 bytes)", ""), None
    if strips_of(encoded) > MOST_STRIPS:
        return Examination(f"a TIFF of more than {MOST_STRIPS} pieces (a bomb?); save it again", ""), None
    try:
        image = open_image(io.BytesIO(encoded))
    except UnidentifiedImageError:
        kind = next((kind for start, kind in OTHER_KINDS.items() if encoded.startswith(start)), "")
        other = "not an image (or cut off within its header)"
        return Examination(f"is {kind}, no image" if kind else other, ""), None
    except Image.DecompressionBombError as fault:
        return Examination(str(fault), ""), None
    except Exception as fault:  # a damaged header can raise anything; each is a fault of the file
        return Examination(f"cannot be decoded: {fault or type(fault).__name__}", ""), None
    mode, problem, picture = image.mode, excess_of(image, encoded), None
    try:
        if not problem and image.format != "MPO" and has_second_frame(image):
            problem = "several frames (animated or several pages); one file must hold one picture"
        if not problem:
            picture = to_rgb(image)
    except Exception as fault:  # decoders raise OSError, SyntaxError, EOFError, zlib.error, ...
        problem = f"cannot be decoded: {fault or type(fault).__name__}"
    return Examination(problem, mode), picture


def excess_of(image: Image.Image, encoded: bytes) -> str | None:
    """Say which limit an opened image exceeds before it is decoded, or None."""
    size = f"{image.width} x {image.height}"
    if max(image.size) > LONGEST_SIDE:
        return f"{size} pixels; no side may exceed {LONGEST_SIDE}; cut it"
    if image.width * image.height > MOST_PIXELS:
        return f"{size} pixels exceed {MOST_PIXELS} (a decompression bomb?); shrink it"
    scans = encoded.count(START_OF_SCAN) if image.format in ("JPEG", "MPO") else 0
    if scans > MOST_SCANS or scans * image.width * image.height > MOST_WORK:
        most = min(MOST_SCANS, MOST_WORK // (image.width * image.height))
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


def has_second_frame(image: Image.Image) -> bool:
    """Whether there is more than one; they are not counted, since a file may name thousands."""
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True
