"""Data as people really have it, each kind once: read right, or answered with what is wrong and what to do."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples.to_npz import write_npz
from search.preprocessing import Preprocessing
from service.intake.errors import IntakeError
from tests.service.datasets import (
    SMALL,
    STRETCHED,
    arrays,
    class_folders,
    pixels_of,
    png,
    refused,
    saved,
    take_in,
    tar_of,
    words,
    zip_of,
)

# --- sizes: what packs well is no bomb


def test_the_npz_of_seventy_thousand_images_that_the_example_writes(tmp_path: Path) -> None:
    """Its column of equal strings packs over three hundred times."""
    random = np.random.default_rng(0)
    parts = {
        name: (random.integers(0, 256, (count, 4, 4), np.uint8), np.sort(np.arange(count) % 10))
        for name, count in (("train", 60_000), ("test", 10_000))
    }
    data = SimpleNamespace(
        train_images=parts["train"][0], train_labels=parts["train"][1], test_images=parts["test"][0], test_labels=parts["test"][1]
    )
    write_npz(tmp_path / "d.npz", data, 10_000, [str(i) for i in range(10)])
    with zipfile.ZipFile(tmp_path / "d.npz") as archive:
        entry = archive.getinfo("split.npy")
    assert entry.file_size > 200 * entry.compress_size
    assert entry.file_size > 1 << 20
    facts = take_in(tmp_path / "d.npz", "npz")
    assert facts.split_counts == {"train": 50_000, "validation": 5_000, "selection": 5_000, "test": 10_000}


@dataclass(frozen=True)
class Dense:
    """Arrays of which one packs far more than 200 times."""

    arrays: dict[str, Any]
    preprocessing: Preprocessing = SMALL


DENSE = {
    "black images": Dense({"images": np.zeros((100, 128, 128), np.uint8)}, Preprocessing(128, 128, 1)),
    "black images in float64": Dense({"images": np.zeros((20, 128, 128, 1))}, Preprocessing(128, 128, 1)),
    "black images to be made smaller": Dense(
        {"images": np.zeros((100, 128, 128), np.uint8)}, Preprocessing(64, 64, 1, resize="stretch")
    ),
    "sorted labels": Dense(
        {"images": np.random.default_rng(0).integers(0, 255, (200_000, 2, 2), np.uint8), "labels": np.repeat([0, 1], 100_000)},
        Preprocessing(2, 2, 1),
    ),
    "one-hot labels of many classes": Dense(
        {"images": np.random.default_rng(0).integers(0, 255, (1000, 4, 4), np.uint8), "labels": np.eye(1000)}
    ),
    "a constant group": Dense(
        {
            "images": np.random.default_rng(0).integers(0, 255, (20_000, 2, 2), np.uint8),
            "group_site": np.full(20_000, "somewhere over"),
        },
        Preprocessing(2, 2, 1),
    ),
}


@pytest.mark.parametrize("case", DENSE.values(), ids=DENSE.keys())
def test_arrays_that_pack_well_are_no_bombs(case: Dense, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", **case.arrays)
    with zipfile.ZipFile(tmp_path / "d.npz") as archive:
        assert any(entry.file_size > max(1 << 20, 200 * entry.compress_size) for entry in archive.infolist())
    assert take_in(tmp_path / "d.npz", "npz", case.preprocessing).images == len(case.arrays["images"])


BOMBS: dict[str, dict[str, Any]] = {
    "an array of no use": {"other": np.zeros((1000, 2000))},
    "labels in two columns too long": {"split": np.zeros((40, 1 << 17), np.uint8)},
    "one label that is a book": {"labels": np.array(["x" * 100_000] * 40)},
    "images far larger than what is made of them": {"images": np.zeros((40, 1000, 1000), np.uint8), "labels": np.arange(40) % 4},
    "more labels than images": {"labels": np.zeros(1_000_000, np.int64)},
}


@pytest.mark.parametrize("more", BOMBS.values(), ids=BOMBS.keys())
def test_arrays_out_of_proportion_are_bombs(more: dict[str, Any], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", **{**arrays(), **more})
    assert "zip bomb" in refused(tmp_path / "d.npz", "npz", preprocessing=STRETCHED).message


def test_black_pictures_and_tables_in_archives_are_no_bombs(tmp_path: Path) -> None:
    big = {f"{c}/{i}.bmp": saved("RGB", "BMP", color=(0, 0, 0)) for c in "ab" for i in range(8)}
    buffer = io.BytesIO()
    Image.new("RGB", (800, 800)).save(buffer, "BMP")
    facts = take_in(zip_of(tmp_path / "d.zip", big | {"a/x.bmp": buffer.getvalue()}), "zip", STRETCHED)
    assert facts.images == 17
    rows = "label," + ",".join(f"pixel{i}" for i in range(256)) + "\n" + "".join(f"{i % 2}{',0' * 256}\n" for i in range(2_100))
    assert take_in(zip_of(tmp_path / "t.zip", {"t.csv": rows.encode()}), "zip", Preprocessing(16, 16, 1)).images == 2_100


# --- image files


@dataclass(frozen=True)
class ImageKind:
    """One file; ``value`` of its pixels once read as grey or as RGB, or words of the refusal."""

    suffix: str
    content: Callable[[], bytes]
    value: tuple[int, ...] | str
    says: str = ""


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("RGB", "JPEG", color=(9, 9, 9), exif=exif)


def _frames(kind: str) -> bytes:
    frames = [Image.new("L", (4, 4), value) for value in (30, 90)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _palette() -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


IMAGE_KINDS = {
    "TIFF": ImageKind("tif", lambda: saved("L", "TIFF"), (7,)),
    "TIFF packed with LZW": ImageKind("TIFF", lambda: saved("RGB", "TIFF", color=(1, 2, 3), compression="tiff_lzw"), (1, 2, 3)),
    "TIFF of two pages": ImageKind("tiff", lambda: _frames("TIFF"), (30,), "several pages"),
    "TIFF of 16 bits": ImageKind("tif", lambda: saved("I;16", "TIFF", color=70), "more than 8 bits"),
    "TIFF of floats": ImageKind("tif", lambda: saved("F", "TIFF", color=0.5), "more than 8 bits"),
    "PNG of 16 bits": ImageKind("png", lambda: saved("I;16", "PNG", color=70), "more than 8 bits"),
    "GIF": ImageKind("gif", lambda: saved("L", "GIF"), (7,)),
    "GIF of two frames": ImageKind("gif", lambda: _frames("GIF"), (30,), "several pages"),
    "BMP": ImageKind("BMP", lambda: saved("RGB", "BMP", color=(1, 2, 3)), (1, 2, 3)),
    "PPM": ImageKind("ppm", lambda: saved("RGB", "PPM", color=(1, 2, 3)), (1, 2, 3)),
    "PNM": ImageKind("pnm", lambda: saved("L", "PPM"), (7,)),
    "WebP": ImageKind("webp", lambda: saved("RGB", "WEBP", color=(1, 2, 3), lossless=True), (1, 2, 3)),
    "JPEG": ImageKind("JPG", lambda: saved("L", "JPEG"), (7,)),
    "JFIF": ImageKind("jfif", lambda: saved("L", "JPEG"), (7,)),
    "palette": ImageKind("png", _palette, (10, 20, 30)),
    "black and white": ImageKind("png", lambda: saved("1", "PNG", color=1), (255,)),
    "opaque alpha": ImageKind("png", lambda: saved("RGBA", "PNG", color=(1, 2, 3, 255)), (1, 2, 3)),
    "alpha": ImageKind("png", lambda: saved("RGBA", "PNG", color=(1, 2, 3, 0)), (1, 2, 3), "transparent"),
    "grey and alpha": ImageKind("png", lambda: saved("LA", "PNG", color=(7, 9)), (7,), "transparent"),
    "turned by EXIF": ImageKind("jpeg", _turned, (9,), "EXIF"),
    "CMYK": ImageKind("jpg", lambda: saved("CMYK", "JPEG", color=(0, 0, 0, 255)), (0,)),
    "HEIC": ImageKind("heic", lambda: b"\0\0\0\x18ftypheic", ".heic files are not read"),
    "array": ImageKind("npy", lambda: b"\x93NUMPY", ".npy files are not read"),
}


@pytest.mark.parametrize("case", IMAGE_KINDS.values(), ids=IMAGE_KINDS.keys())
def test_kinds_of_image_files(case: ImageKind, tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": png(100 + 20 * (c == "b") + i, mode="RGB") for c in "ab" for i in range(8)}
    path = zip_of(tmp_path / "d.zip", files | {f"a/0x.{case.suffix}": case.content()})
    stated = Preprocessing(4, 4, 3)
    if isinstance(case.value, str):
        error = refused(path, "zip", preprocessing=stated)
        assert [case.value in str(p) for p in error.problems if f"0x.{case.suffix}" in p.place] == [True]
        return
    facts = take_in(path, "zip", stated)
    found = {tuple(int(v) for v in image[0, 0]) for image in pixels_of(facts)}
    right = case.value if len(case.value) == 3 else case.value * 3
    assert right in found, found
    assert (case.says in words(facts)) if case.says else not facts.problems


def test_files_that_are_left_out_are_counted_by_kind(tmp_path: Path) -> None:
    files = class_folders() | {"readme.txt": b"x", "cat/a.json": b"{}", "cat/b.json": b"{}"}
    assert "2 .json, 1 .txt" in words(take_in(zip_of(tmp_path / "d.zip", files), "zip"))
    error = refused(zip_of(tmp_path / "e.zip", {"a.xml": b"x", "b.xml": b"x"}), "zip")
    assert "only .xml (2)" in error.message


def test_tars_packed_in_every_way_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        assert take_in(tar_of(tmp_path / "d.tar", class_folders(), mode), "tar").images == 20
    assert take_in(tmp_path / "d.tar", "zip").images == 20
    assert take_in(zip_of(tmp_path / "d.zip", class_folders()), "tar").images == 20


def test_files_that_hold_0_and_1_only_are_told(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": png(i % 2) for c in "ab" for i in range(8)}
    assert "0 or 1 of 255" in words(take_in(zip_of(tmp_path / "d.zip", files), "zip"))


# --- files that are something else


@dataclass(frozen=True)
class Foreign:
    content: bytes
    says: str
    format: str = "npz"
    code: str = "unsupported"


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((12, 4, 4), np.uint8))
    return buffer.getvalue()


def _npz_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([np.zeros((4, 4)), np.zeros((5, 5))], dtype=object))
    return buffer.getvalue()


FOREIGN = {
    "npy": Foreign(_npy(), "np.savez"),
    "HDF5": Foreign(b"\x89HDF\r\n\x1a\n" + bytes(64), "h5py"),
    "MATLAB": Foreign(b"MATLAB 5.0 MAT-file" + bytes(200), "scipy.io.loadmat"),
    "pickle": Foreign(pickle.dumps({"images": [1]}), "never opened", code="pickled"),
    "array of objects": Foreign(_npz_of_objects(), "save numbers or fixed-width text", code="pickled"),
    "IDX": Foreign(b"\0\0\x08\x03" + bytes(64), "IDX"),
    "Parquet": Foreign(b"PAR1" + bytes(64), "Parquet", "csv"),
    "RAR": Foreign(b"Rar!\x1a\x07\0" + bytes(64), "zip or tar", "zip"),
    "one picture": Foreign(png(1), "single image", "zip"),
}


@pytest.mark.parametrize("case", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_no_dataset_is_named_with_what_to_do(case: Foreign, tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(case.content)
    error = refused(tmp_path / "d", case.format)
    assert error.code == case.code
    assert case.says in error.message


def test_images_that_are_called_npz_are_refused_with_the_right_format(tmp_path: Path) -> None:
    error: IntakeError = refused(zip_of(tmp_path / "d.npz", class_folders()), "npz")
    assert "its format is ZIP" in error.message
