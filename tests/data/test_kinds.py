"""Files that are no readable picture are called by their name, whatever their ending says."""

import pytest

from drtune.data.images import examine
from drtune.data.kinds import kind_of

CONVERT = "convert it to PNG or JPEG"
FILES = {
    b"%!PS-Adobe-3.0 EPSF-3.0": "is PostScript, no image",
    b"%PDF-1.4": "is PDF, no image",
    b"\xff\x0a" + bytes(9): f"is JPEG XL, which is not read; {CONVERT}",
    bytes(128) + b"DICM" + bytes(9): f"is DICOM, which is not read; {CONVERT}",
    b"SIMPLE  =                    T": f"is FITS, whose scale is not read; {CONVERT}",
    b"\0\0\0\x18ftypcrx \0\0\0\1": f"is a camera's raw file; {CONVERT}",
    b"FUJIFILMCCD-RAW 0201": f"is a camera's raw file; {CONVERT}",
    b"\0\0\0\x18ftypmp42\0\0\0\0": "is a video, no image; save its frames as files",
    b"\x1a\x45\xdf\xa3\x01": "is a video, no image; save its frames as files",
    b"version https://git-lfs.github.com/spec/v1\n": "is a pointer of Git LFS, no image; run `git lfs pull`",
    b"PK\x03\x04\x14": "is an archive, no image; unpack it",
    b"\x93NUMPY\x01\0": f"is an array of numbers, no image; {CONVERT}",
    b"\0\x05\x16\x07\0\x02": "is what macOS keeps beside a file, no image; remove it",
    b"\n<!DOCTYPE html><html>404": "is an HTML page, no image (an error page that was saved?)",
    b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "x">\n<svg/>': f"is SVG, which is not read; {CONVERT}",
    b"<?xml version='1.0'?><annotation/>": "is XML, no image",
    bytes(500): "holds zeros alone (a copy that was cut off?); fetch it again",
    b"class,label\ncat,1\n": "not an image (or cut off within its header)",
    b"\x89PNG\r": "not an image (or cut off within its header)",
}


@pytest.mark.parametrize("content", FILES)
def test_a_file_of_another_kind_is_named_with_a_remedy(content):
    assert examine(content).problem == FILES[content]


HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + b"junk" * 99


def test_a_format_of_a_plugin_is_named_with_what_brings_it():
    assert kind_of(HEIC, ["PNG"]) == f"is HEIF (.heic, of iPhones): pip install pillow-heif, or {CONVERT}"
    assert kind_of(HEIC, ["HEIF"]) == "is HEIF, but damaged or cut off"
    assert examine(HEIC).problem in (kind_of(HEIC, ["PNG"]), kind_of(HEIC, ["HEIF"]))
    avif = b"\0\0\0\x20ftypavif"
    assert kind_of(avif, []).startswith("is AVIF, which this Pillow cannot read; install a newer one")
    assert examine(avif).problem == "is AVIF, but damaged or cut off"
