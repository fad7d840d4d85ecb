"""One image file to pixels, as Pillow and torchvision's loader read it, and what was seen on the way that they pass over."""

from __future__ import annotations

import contextlib
import io
from collections import Counter

import numpy as np
from PIL import Image, UnidentifiedImageError

from service.intake.errors import ProblemLog, reason

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"}
)
OTHER_IMAGE_SUFFIXES = frozenset(
    {
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".dcm",
        ".nii",
        ".svg",
        ".psd",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
        ".exr",
        ".hdr",
    }
    | {".tga", ".ico", ".pcx", ".npy", ".mat"}
)
"""Pictures of kinds that are not read: leaving them out without a word would leave a class without images."""
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "PPM", "TIFF", "GIF")
_ORIENTATION = 0x0112
_WORDS = {
    "turned": "are turned by their EXIF orientation, which was not applied, as torchvision's loader does not",
    "transparent": "are transparent in places: transparency was dropped and the colour behind shows, as in torchvision's loader",
    "frames": "have several pages or frames; the first was read",
}


class ImageReader:
    """Opens image files, and counts what a user should know of them."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._seen: Counter[str] = Counter()

    def open(self, data: bytes) -> Image.Image:
        """Decode one file: its first frame.

        Raises:
            ValueError: too many pixels, said before they are decoded; and whatever a decoder comes across.
        """
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > self._max_pixels:
            raise ValueError(f"{image.height}x{image.width} pixels are more than the limit of {self._max_pixels:,}")
        kinds = {"frames"} if _has_second_frame(image) else set()
        if image.format != "TIFF" and image.info.get("exif"):  # Pillow turns a TIFF itself
            with contextlib.suppress(ValueError, TypeError, SyntaxError, OSError, KeyError):
                kinds |= {"turned"} if image.getexif().get(_ORIENTATION, 1) in range(2, 9) else set()
        image.load()
        if _is_transparent(image):
            kinds.add("transparent")
        self._seen.update(kinds)
        return image

    def tell(self, log: ProblemLog) -> None:
        """Note what was seen, once for all images."""
        for kind, words in _WORDS.items():
            if self._seen[kind]:
                log.warn("images", f"{self._seen[kind]} {words}")


def image_problem(error: Exception) -> str:
    """A decoder's error in words."""
    if isinstance(error, UnidentifiedImageError):
        return "is not a PNG, JPEG, WebP, BMP, PNM, TIFF or GIF image"
    return f"cannot be used: {reason(error)}"


def _has_second_frame(image: Image.Image) -> bool:
    """Asked by one step: counting them all would follow a hostile file for ever."""
    if image.format not in ("TIFF", "GIF"):
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # a phone's second picture is a preview
    try:
        image.seek(1)
    except EOFError:
        found = False
    else:
        found = True
    image.seek(0)
    return found


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ("RGBA", "LA", "PA"):
        return bool(np.asarray(image.getchannel("A")).min() < 255)
    return "transparency" in image.info
