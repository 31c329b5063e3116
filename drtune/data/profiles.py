"""Colour profiles (ICC) inside image files: from the colours of a camera or a printer to sRGB.

Little CMS does the arithmetic. A profile that moves no colour by more than one level is taken for sRGB and
changes nothing; one that is damaged, or made for other channels than the picture has, is passed over, as
browsers do.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Space of a profile as ICC names it -> Pillow's mode of the pixels that it explains."""
STEPS = 18
"""Levels of each channel at which a profile is compared with sRGB: 0, 15, ..., 255."""


def to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB for pictures of a mode; None where nothing is to be done.

    Args:
        profile: as it lies in the file; may be empty.
        mode: Pillow's name of the pixel format.
    """
    plain = "CMYK" if mode == "CMYK" else "L" if mode[0] in "1LIF" and mode != "LAB" else "RGB"
    return transform_of(profile, plain) if profile else None


@lru_cache(maxsize=32)
def transform_of(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform of a profile for pixels of mode `L`, `RGB` or `CMYK`; see `to_srgb`."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if SPACES.get(source.profile.xcolor_space) != mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    return None if mode != "CMYK" and is_identity(transform, mode) else transform


def is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform moves no colour by more than one level of 255."""
    levels = np.linspace(0, 255, STEPS).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(colours if mode == "RGB" else levels[None])
    after = np.asarray(ImageCms.applyTransform(before, transform)).astype(int)
    return int(np.abs(after - np.asarray(before.convert("RGB"))).max()) <= 1


def applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Turn a picture into sRGB of mode RGB; alpha is left out."""
    mode = transform.input_mode
    changed = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
    assert changed is not None  # only a change in place returns nothing
    return changed


def profile_name(profile: bytes) -> str:
    """What a profile calls itself, on one line; `unreadable` where it is damaged."""
    try:
        text = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return "unreadable"
    return " ".join("".join(filter(str.isprintable, text.replace("\n", " "))).split())[:60] or "unnamed"
