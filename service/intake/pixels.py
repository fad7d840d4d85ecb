"""Numbers of any type and order of axes to 8-bit pixels of the stated size, and what in them speaks against the statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.intake.errors import IntakeError
from service.intake.image_table import ReadRequest

_CHUNK = 4096
_DARK = 63
"""No whole set of pictures ends at a quarter of white; numbers of 4 bits (scikit-learn's digits) do."""

_NEARLY_1 = 1.5
"""Resampling takes numbers of 0..1 a little beyond 1; such images are refused one by one, the others are read."""
_FAINT = 0.1


def as_nhwc(images: npt.NDArray[Any], request: ReadRequest) -> npt.NDArray[Any]:
    """Any accepted shape to ``(n, h, w, c)``, without copying."""
    p = request.preprocessing
    if images.dtype.kind not in "uifb" or images.ndim not in (3, 4) or not len(images):
        message = f"images are {images.dtype} {images.shape}; need numbers (n, h, w), (n, h, w, c) or (n, c, h, w)"
        raise IntakeError("bad_data", message, "images")
    if images.ndim == 3:
        return images[..., None]
    stated, other, right = (1, 3, "nhwc") if p.layout == "nchw" else (3, 1, "nchw")
    turned = images if p.layout == "nhwc" else np.moveaxis(images, 1, -1)
    fits, other_fits = (
        shape == (p.height, p.width, p.channels) for shape in (turned.shape[1:], np.moveaxis(images, other, -1).shape[1:])
    )
    if images.shape[other] == p.channels and (images.shape[stated] != p.channels or (other_fits and not fits)):
        message = f"arrays of shape {images.shape} in layout {p.layout} have {images.shape[stated]} channels; is it {right}?"
        if images.shape[stated] == p.channels:
            message = f"arrays of shape {images.shape} fit {p.height}x{p.width}x{p.channels} in layout {right} only; is it that?"
        raise IntakeError("bad_data", message, "preprocessing.layout")
    return turned


def to_pixels(
    images: npt.NDArray[Any], places: Sequence[str], request: ReadRequest
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Numbers of any type to stated size and 8 bits; bad images are noted and marked unusable."""
    p = request.preprocessing
    request.check_pixels(len(images))
    convert = _pixel_scale(images, request)
    pixels = np.zeros((len(images), p.height, p.width, p.channels), np.uint8)
    usable = np.ones(len(images), np.bool_)
    fits = images.shape[1:] == pixels.shape[1:] and p.keeps_size
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        values, reasons = convert(chunk)
        for offset, reason in reasons:
            usable[start + offset] = False
            request.log.bad(places[start + offset], reason)
        if fits:
            pixels[start : start + len(chunk)] = values
            continue
        for offset in range(len(chunk)):
            try:
                pixels[start + offset] = p.fit_array(values[offset])
            except ValueError as error:
                usable[start + offset] = False
                request.log.bad(places[start + offset], str(error))
    return pixels, usable


_Convert = Callable[[npt.NDArray[Any]], tuple[npt.NDArray[np.uint8], list[tuple[int, str]]]]


def _pixel_scale(images: npt.NDArray[Any], request: ReadRequest) -> _Convert:
    """How these numbers become 8-bit pixels: as they are, or times 255 where they run from 0 to 1."""
    factor = _factor(images, request)
    if images.dtype == np.uint8 and factor == 1:
        return lambda chunk: (chunk, [])
    outside = "holds values outside 0..255 (or 0..1): send the raw pixels and state mean and std instead"
    if images.dtype.kind in "iu":
        outside = "holds values outside 0..255: bring the images to 8 bits (16 bits: divide by 257)"
    noted = False

    def convert(chunk: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], list[tuple[int, str]]]:
        nonlocal noted
        values = chunk.astype(np.float32) * np.float32(factor)
        flat = values.reshape(len(values), -1)
        finite = np.isfinite(flat).all(axis=1)
        inside = ((flat >= -0.5) & (flat < 255.5)).all(axis=1)
        rounded = np.rint(np.clip(np.nan_to_num(values), 0, 255))
        if not noted and finite.any() and np.abs(rounded[finite] - np.clip(values[finite], 0, 255)).max() > 0.01:
            request.log.warn("images", "the values are not 8-bit pixels and were rounded to them")
            noted = True
        reasons = [(int(i), "holds values that are not finite") for i in np.flatnonzero(~finite)]
        reasons += [(int(i), outside) for i in np.flatnonzero(finite & ~inside)]
        return rounded.astype(np.uint8), sorted(reasons)

    return convert


def _factor(images: npt.NDArray[Any], request: ReadRequest) -> float:
    """255 for numbers of 0..1, else 1. What neither can be meant is noted, or refused where the stated range says otherwise.

    Raises:
        IntakeError: whole numbers 0 and 1 for a network that is fed 0..255.
    """
    top = max((float(np.max(c, initial=0, where=np.isfinite(c))) for c in _chunks(images)), default=0.0)
    whole = images.dtype.kind in "iu"
    if top > _NEARLY_1 or (whole and top != 1):
        if 1 < top <= _DARK:
            what = (
                f"the brightest pixel is {top:g} of 255: if that is white, multiply the images by {255 / top:.4g} before the upload"
            )
            request.log.note("images", what)
        return 1.0
    if request.preprocessing.range == "0..255":
        if whole:
            message = (
                "the images hold 0 and 1 only, while range is 0..255; were they meant as 0..1? State that range, or send 0 and 255"
            )
            raise IntakeError("bad_data", message, "preprocessing.range")
        request.log.note("images", "the values lie in 0..1 and were multiplied by 255, since range is 0..255")
    elif whole:
        request.log.note("images", "the images hold 0 and 1 only and were read as black and white, not as 1 of 255")
    elif 0 < top < _FAINT:
        request.log.note("images", f"the brightest value is {top:.4g} of 1: were the pixels divided by 255 twice?")
    return 255.0


def _chunks(images: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK]
