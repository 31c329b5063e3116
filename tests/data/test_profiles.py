"""Colours are moved as the profile says, checked against the published matrices; sRGB changes nothing."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from drtune.data.images import decode_rgb, examine, to_rgb
from drtune.data.profiles import profile_name, to_srgb
from drtune.data.settings import STANDARD

IGNORE = STANDARD.model_copy(update={"profiles": "ignore"})
PRIMARIES = {  # of the D50 profile space: SMPTE EG 432-1 and IEC 61966-2-1, adapted by Bradford
    "Display P3": ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)),
    "sRGB": ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
}


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def parametric(kind, *values):
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(*values)


def icc(space, name, tags, pcs=b"XYZ "):
    """An ICC profile of version 4 (ICC.1:2010, sections 7 to 10)."""
    text = name.encode("utf-16-be")
    described = b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    tags = {**tags, b"desc": described, b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4s4B4s4s4s", start + len(body), bytes(4), 4, 32, 0, 0, b"mntr", space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name):
    curve = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {f"{c}TRC".encode(): curve for c in "rgb"}
    primaries = zip("rgb", PRIMARIES[name], strict=True)
    tags |= {f"{c}XYZ".encode(): b"XYZ " + bytes(4) + fixed(*place) for c, place in primaries}
    return icc(b"RGB ", name, tags)


def ink_profile():
    """Four inks by a table of 2 levels each; cyan ink alone is (75, -40, -40) in Lab."""
    table = (
        b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + bytes(range(256)) * 4
    )
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        light, a, b = (
            95 - 20 * (c + m + y) - 30 * k,
            (-40 * c + 60 * m) * (1 - k),
            (-40 * c + 80 * y) * (1 - k),
        )
        table += bytes([max(0, light * 255 // 100), 128 + a, 128 + b])
    return icc(b"CMYK", "Inks", {b"A2B0": table + bytes(range(256)) * 3}, pcs=b"Lab ")


P3, SRGB = rgb_profile("Display P3"), rgb_profile("sRGB")
LINEAR_GREY = icc(b"GRAY", "Linear grey", {b"kTRC": parametric(0, 1.0)})
COLOURS = np.array([[(200, 100, 50), (90, 120, 60), (0, 160, 0), (77, 77, 77)]], np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def decoded(image, profile, reading=STANDARD, kind="PNG"):
    return np.asarray(decode_rgb(encoded(image, kind, icc_profile=profile), reading)).astype(int)


def linear(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def curved(values):
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def test_display_p3_becomes_srgb_by_the_published_matrices():
    source, target = (np.array(PRIMARIES[name]).T for name in ("Display P3", "sRGB"))
    light = linear(COLOURS / 255) @ (np.linalg.inv(target) @ source).T
    expected = np.rint(255 * curved(light.clip(0, 1)))
    found = decoded(Image.fromarray(COLOURS), P3)
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - COLOURS).max() >= 10, "the profile moves something"
    assert (decoded(Image.fromarray(COLOURS), P3, IGNORE) == COLOURS).all()


@pytest.mark.parametrize("profile", [SRGB, b"no profile at all", P3[:200], ink_profile(), LINEAR_GREY])
def test_srgb_and_what_is_damaged_or_of_other_channels_changes_nothing(profile):
    assert (decoded(Image.fromarray(COLOURS), profile) == COLOURS).all()
    assert to_srgb(profile, "RGB") is None
    assert examine(encoded(Image.fromarray(COLOURS), icc_profile=profile)).problem is None


def test_alpha_and_palettes_are_turned_before_white_is_laid_below():
    half = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    half.putpixel((1, 0), (200, 100, 50, 128))
    solid = decoded(Image.new("RGB", (1, 1), (200, 100, 50)), P3)[0, 0]
    found = decoded(half, P3)
    assert (found[0, 0] == solid).all()
    assert np.abs(found[0, 1] - (solid * 128 + 255 * 127) / 255).max() <= 1
    palette = Image.new("RGB", (4, 4), (200, 100, 50)).quantize(2)
    assert (decoded(palette, P3)[0, 0] == solid).all()


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles_turn_grey_pixels_of_any_depth(mode):
    grey = Image.new("L", (2, 2), 100).convert(mode) if mode != "I;16" else None
    image = grey or Image.fromarray(np.full((2, 2), 100 * 257, np.uint16))
    expected = round(255 * float(curved(np.array(100 / 255))))
    assert np.abs(decoded(image, LINEAR_GREY) - expected).max() <= 1
    assert (decoded(image, P3) == 100).all()


def test_inks_are_mixed_as_their_profile_says():
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert decoded(cyan, b"", kind="TIFF")[0, 0].tolist() == [0, 255, 255]
    # Lab (75, -40, -40) at D50 is outside of sRGB; Little CMS clips red
    red, green, blue = decoded(cyan, ink_profile(), kind="TIFF")[0, 0]
    assert (red, blue) == (0, 255)
    assert abs(green - 206) <= 3


def test_a_large_picture_is_turned_in_bands_as_a_small_one(monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 33, 3), dtype=np.uint8))
    noise.info["icc_profile"] = P3
    whole = np.asarray(to_rgb(noise.copy()))
    monkeypatch.setattr("drtune.data.images.BAND", 70)
    np.testing.assert_array_equal(np.asarray(to_rgb(noise)), whole)


def test_a_profile_says_its_name_on_one_line():
    assert profile_name(P3) == "Display P3"
    assert profile_name(icc(b"GRAY", "a\nb" + "x" * 99, {})) == "a b" + "x" * 57
    assert profile_name(b"junk") == "unreadable"
    assert examine(encoded(Image.fromarray(COLOURS), icc_profile=P3)).profile == "Display P3"
