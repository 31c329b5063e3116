"""Say in words what a file is that no reader of pictures takes, and what to do about it."""

import re
from collections.abc import Collection

from PIL import Image

CONVERT = "convert it to PNG or JPEG"
STARTS: tuple[tuple[bytes, str], ...] = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "is PostScript, no image"),
    (rb"%PDF", "is PDF, no image"),
    (rb"\xd7\xcd\xc6\x9a", "is WMF, no image"),
    (rb"\x01\0\0\0.{36} EMF", "is EMF, no image"),
    (rb".{4}ftypcrx |FUJIFILMCCD|II(RO|RS|U\0)|MMOR|\0MRM", f"is a camera's raw file; {CONVERT}"),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI |\0\0\x01\xba", "is a video, no image; save its frames as files"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", f"is JPEG XL, which is not read; {CONVERT}"),
    (rb"SIMPLE  =", f"is FITS, whose scale is not read; {CONVERT}"),
    (rb".{128}DICM", f"is DICOM, which is not read; {CONVERT}"),
    (rb"version https://git-lfs", "is a pointer of Git LFS, no image; run `git lfs pull`"),
    (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ", "is an archive, no image; unpack it"),
    (rb"\x89HDF|CDF|\x93NUMPY|MATLAB", f"is an array of numbers, no image; {CONVERT}"),
    (rb"\0\x05\x16\x07", "is what macOS keeps beside a file, no image; remove it"),
    (rb"(?i)\s*(<!doctype html|<html|<head)", "is an HTML page, no image (an error page that was saved?)"),
    (rb"(?i)\s*(<[?!][^>]*>\s*)*<svg", f"is SVG, which is not read; {CONVERT}"),
    (rb"\s*<\?xml", "is XML, no image"),
)  # fmt: skip
"""Pattern of the first bytes -> what the file is; the first that fits."""
BY_PLUGIN: tuple[tuple[str, bytes, str], ...] = (
    ("HEIF", rb".{4}ftyp(hei|hev|mif1|msf1)", f" (.heic, of iPhones): pip install pillow-heif, or {CONVERT}"),
    ("AVIF", rb".{4}ftypavi", f", which this Pillow cannot read; install a newer one, or {CONVERT}"),
)
"""Formats that not every installation reads, the pattern of their first bytes, what to do."""
HEAD = 4096
CAMERA_RAW = b"II*\0\x10\0\0\0CR"
"""Canon's CR2, a TIFF whose first picture is a preview."""
SUBFILE_TYPE, REDUCED = 254, 1
"""Tag of a TIFF's picture, and the bit that calls it a smaller version of another (TIFF 6.0, page 36)."""


def kind_of(encoded: bytes, known: Collection[str]) -> str:
    """What a file is that cannot be opened as one of the known formats, in words."""
    head = encoded[:HEAD]
    if not encoded.strip(b"\0"):
        return "holds zeros alone (a copy that was cut off?); fetch it again"
    for name, start, remedy in BY_PLUGIN:
        if re.match(start, head, re.DOTALL):
            return f"is {name}, but damaged or cut off" if name in known else f"is {name}{remedy}"
    found = (words for start, words in STARTS if re.match(start, head, re.DOTALL))
    return next(found, "not an image (or cut off within its header)")


def is_preview(image: Image.Image, encoded: bytes) -> bool:
    """Whether an opened picture is the preview of a camera's raw file: DNG, NEF, ARW and CR2 are TIFFs."""
    if image.format != "TIFF":
        return False
    kind = getattr(image, "tag_v2", {}).get(SUBFILE_TYPE, 0)
    return encoded.startswith(CAMERA_RAW) or bool(kind & REDUCED)
