"""Data as people really have it, each kind once: read right, or answered with what is wrong and what to do."""

from __future__ import annotations

import io
import pickle
import unicodedata
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
from search.dataset_file import DatasetMetadata, read
from search.errors import InvalidSpecError
from search.preprocessing import Preprocessing
from service.intake.datasets import DatasetFacts
from service.intake.errors import IntakeError
from service.intake.image_table import DatasetOptions
from tests.service.test_dataset_intake import SMALL, arrays, class_folders, folder_of, npz_of, png, refused, take_in, tar_of, zip_of

STRETCHED = Preprocessing(4, 4, 1, resize="stretch")


def labels_of(facts: DatasetFacts) -> list[int]:
    labels = read(facts.path)[0].labels
    assert labels is not None
    return [int(label) for label in labels]


def pixels_of(facts: DatasetFacts) -> Any:
    return read(facts.path)[0].images


def saved(mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), options.pop("color", 7)).save(buffer, kind, **options)
    return buffer.getvalue()


def words(facts: DatasetFacts) -> str:
    return " | ".join([*map(str, facts.problems), *facts.notes])


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


# --- classes


@dataclass(frozen=True)
class Order:
    folders: tuple[str, ...]
    right: tuple[str, ...]
    says: str


ORDERS = {
    "numbers": Order(("1", "2", "5", "10"), ("1", "10", "2", "5"), "by number"),
    "names with numbers": Order(("class2", "class10"), ("class10", "class2"), "by number"),
    "padded numbers": Order(("01", "02", "10"), ("01", "02", "10"), ""),
    "case": Order(("apple", "Zebra"), ("Zebra", "apple"), "case"),
    "accents of macOS": Order(("e\u0301clair", "fig"), ("fig", "\u00e9clair"), "macOS"),
    "words": Order(("cat", "dog"), ("cat", "dog"), ""),
}


@pytest.mark.parametrize("case", ORDERS.values(), ids=ORDERS.keys())
def test_folders_stand_as_image_folder_sorts_them(case: Order, tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": png(16 * c + i) for c, name in enumerate(case.folders) for i in range(4)}
    facts = take_in(zip_of(tmp_path / "d.zip", files | {f"{case.folders[0]}/{i}.png": png(200 + i) for i in range(9, 19)}), "zip")
    assert facts.class_names == case.right
    assert [case.says in note for note in facts.notes if "ImageFolder" in note] == ([True] if case.says else [])


def test_names_of_labels_stand_the_same_way_in_tables_and_arrays(tmp_path: Path) -> None:
    names = np.array(["type10", "type2"] * 20)
    facts = take_in(npz_of(tmp_path / "d.npz", images=arrays()["images"], labels=names), "npz")
    assert facts.class_names == ("type10", "type2")
    assert any("by number" in note for note in facts.notes)
    files = {f"{i}.png": png(i) for i in range(12)}
    table = "file,class\n" + "".join(f"{i}.png,type{(2, 10)[i % 2]}\n" for i in range(12))
    facts = take_in(zip_of(tmp_path / "d.zip", {"t.csv": table.encode(), **files}), "zip")
    assert facts.class_names == ("type10", "type2")
    assert any("by number" in note for note in facts.notes)


def test_stated_names_give_the_order_without_a_word(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": png(16 * c + i) for c, name in enumerate(("1", "2", "10")) for i in range(5)}
    facts = take_in(zip_of(tmp_path / "d.zip", files), "zip", options=DatasetOptions(class_names=("1", "2", "10")))
    assert facts.class_names == ("1", "2", "10")
    assert "ImageFolder" not in words(facts)
    assert sorted(labels_of(facts)) == [0] * 5 + [1] * 5 + [2] * 5


def test_what_a_report_must_say_is_kept_in_the_file(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": png(16 * c + i) for c, name in enumerate(("1", "2", "10")) for i in range(5)}
    metadata = read(take_in(zip_of(tmp_path / "d.zip", files), "zip").path)[1]
    assert any("ImageFolder" in note for note in metadata.notes)
    assert DatasetMetadata.from_json(metadata.to_json()) == metadata


def test_files_written_before_there_were_remarks_are_read() -> None:
    text = DatasetMetadata(SMALL).to_json().replace('"remarks": [], ', "")
    assert "remarks" not in text
    assert DatasetMetadata.from_json(text) == DatasetMetadata(SMALL)


@dataclass(frozen=True)
class Labels:
    """Labels of twelve images as they come; ``right`` class indices, or words of the refusal."""

    given: Any
    right: list[int] | None = None
    says: str = ""


TWELVE = np.arange(12) % 3
LABELS = {
    "column": Labels(TWELVE[:, None], TWELVE.tolist()),
    "floats": Labels(TWELVE.astype(np.float32), TWELVE.tolist()),
    "texts of floats": Labels(np.array([f"{i}.0" for i in TWELVE]), TWELVE.tolist()),
    "texts of numbers in a column": Labels(np.array([[str(i)] for i in TWELVE]), TWELVE.tolist()),
    "bytes": Labels(np.array([b"%d" % i for i in TWELVE]), TWELVE.tolist()),
    "one-hot": Labels(np.eye(3)[TWELVE], TWELVE.tolist()),
    "booleans": Labels(np.arange(12) % 2 == 1, [0, 1] * 6),
    "from one": Labels(TWELVE + 1, (TWELVE + 1).tolist(), "subtract 1"),
    "texts from one": Labels(np.array([str(i + 1) for i in TWELVE]), (TWELVE + 1).tolist(), "subtract 1"),
    "minus one": Labels(np.where(TWELVE == 0, -1, 1), None, "label -1 is no class index"),
    "texts of minus one": Labels(np.where(TWELVE == 0, "-1", "1"), None, "label '-1' is no class index"),
    "not a number": Labels(np.where(TWELVE == 0, np.nan, 1), None, "label nan is no class index"),
    "halves": Labels(TWELVE / 2, None, "label 0.5 is no class index"),
    "texts of savetxt": Labels(np.array([f"{i:.18e}" for i in TWELVE]), TWELVE.tolist()),
    "texts of halves": Labels(np.where(TWELVE == 0, "0.5", "1"), None, "label '0.5' is no class index"),
    "texts of halves of savetxt": Labels(np.where(TWELVE == 0, f"{0.5:.18e}", "1"), None, "e-01' is no class index"),
    "texts too large": Labels(np.where(TWELVE == 0, "1234567890", "1"), None, "label '1234567890' is no class index"),
    "names that Python reads as numbers": Labels(np.array(["10", "1_0", "1e1"])[TWELVE], TWELVE.tolist()),
    "names with digits of another script": Labels(np.array(["1", "\u0661"])[TWELVE % 2], (TWELVE % 2).tolist()),
    "texts that miss": Labels(np.where(TWELVE == 0, "nan", np.where(TWELVE == 1, "cat", "dog")), None, "'nan'"),
    "one class": Labels(np.full(12, 2), None, "one class, '2'"),
    "one class by name": Labels(np.full(12, "cat"), None, "one class, 'cat'"),
    "too few": Labels(TWELVE[:11], None, "beside 12 images"),
    "numbers of colours": Labels(np.zeros((12, 3, 3)), None, "need integers"),
}


@pytest.mark.parametrize("case", LABELS.values(), ids=LABELS.keys())
def test_labels_of_arrays(case: Labels, tmp_path: Path) -> None:
    path = npz_of(tmp_path / "d.npz", images=arrays(12)["images"], labels=case.given)
    if case.right is None:
        error = refused(path, "npz")
        assert case.says in " ".join([error.message, *map(str, error.problems)])
        return
    facts = take_in(path, "npz")
    assert labels_of(facts) == case.right
    assert case.says in words(facts)


def test_arrays_under_names_of_their_own_are_told(tmp_path: Path) -> None:
    data = arrays()
    facts = take_in(npz_of(tmp_path / "a.npz", images=data["images"], targets=data["labels"]), "npz")
    assert not facts.has_labels
    assert "arrays that are not read: targets; labels are read from" in words(facts)
    np.savez(tmp_path / "b.npz", data["images"], data["labels"])
    assert "images=..., labels=..." in refused(tmp_path / "b.npz", "npz").message


def test_one_class_that_is_written_in_two_ways_is_told(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": png(16 * c + i) for c, name in enumerate(("Red panda", "red_panda")) for i in range(8)}
    assert "differ in case or spaces only" in words(take_in(zip_of(tmp_path / "d.zip", files), "zip"))


# --- splits


def test_small_splits_say_what_is_needed(tmp_path: Path) -> None:
    facts = take_in(zip_of(tmp_path / "d.zip", class_folders()), "zip")
    assert facts.split_counts["validation"] == 2
    assert "one image is up to 50 points" in facts.notes[-1]
    assert "at least 100 images" in facts.notes[-1]


# --- folders


@dataclass(frozen=True)
class Folders:
    """Names of files, ten images each in every folder; ``right`` classes (None: no labels), or words of the refusal."""

    folders: tuple[str, ...]
    right: tuple[str, ...] | None = None
    says: str = ""
    is_refused: bool = False


FOLDERS = {
    "one folder": Folders(("photos",), None, "taken as images without labels"),
    "one folder in another": Folders(("my/photos",), None, "taken as images without labels"),
    "splits without classes": Folders(("train", "test"), None, "below those of the splits"),
    "splits without classes in a folder": Folders(("top/train", "top/val"), None, "below those of the splits"),
    "splits": Folders(("top/Train/cat", "top/Train/dog", "top/dev/cat", "top/dev/dog"), ("cat", "dog")),
    "a class that train lacks": Folders(
        ("train/cat", "train/dog", "val/ant", "val/cat"), ("ant", "cat", "dog"), "ant is not in train"
    ),
    "splits beside something else": Folders(("train/cat", "val/cat", "extra/cat"), None, "beside them lie extra", True),
    "a train is a vehicle": Folders(("bus", "train"), ("bus", "train"), "taken as a class"),
    "folders inside classes": Folders(("cat/a", "cat/b", "dog/a"), ("cat", "dog")),
    "clutter": Folders(("cat", "dog", "__MACOSX/cat", ".cache/cat", "@eaDir/cat"), ("cat", "dog")),
}


@pytest.mark.parametrize("case", FOLDERS.values(), ids=FOLDERS.keys())
def test_folders(case: Folders, tmp_path: Path) -> None:
    files = {f"{folder}/{i}.png": png(20 * c + i) for c, folder in enumerate(case.folders) for i in range(10)}
    path = zip_of(tmp_path / "d.zip", files)
    if case.is_refused:
        assert case.says in refused(path, "zip").message
        return
    facts = take_in(path, "zip")
    assert facts.has_labels == (case.right is not None)
    assert facts.class_names == (case.right or ())
    assert case.says in words(facts)


def test_one_folder_of_a_stated_class_is_refused_and_so_is_one_with_an_empty_neighbour(tmp_path: Path) -> None:
    files = {f"cat/{i}.png": png(i) for i in range(12)}
    options = DatasetOptions(class_names=("cat", "dog"))
    assert "one class, 'cat'" in refused(zip_of(tmp_path / "a.zip", files), "zip", options=options).message
    assert "one class, 'cat'" in refused(zip_of(tmp_path / "b.zip", files | {"dog/": b""}), "zip").message


def test_one_name_in_two_forms_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    files = {f"{composed}/{i}.png": png(i) for i in range(6)} | {f"{decomposed}/{i + 6}.png": png(i + 50) for i in range(6)}
    files |= {f"tea/{i}.png": png(i + 100) for i in range(6)}
    for path, format in ((zip_of(tmp_path / "d.zip", files), "zip"), (folder_of(tmp_path / "d", files), "folder")):
        facts = take_in(path, format)
        assert facts.class_names == (composed, "tea")
        assert sorted(labels_of(facts)) == [0] * 12 + [1] * 6
    error = refused(zip_of(tmp_path / "e.zip", files | {f"{decomposed}/1.png": png(99)}), "zip")
    assert "two entries have this name" in error.message


def test_a_table_names_files_in_another_form_of_unicode(tmp_path: Path) -> None:
    files = {unicodedata.normalize("NFD", f"é{i}.png"): png(i) for i in range(12)}
    table = "filename,label\n" + "".join(unicodedata.normalize("NFC", f"é{i}.png,{'äö'[i % 2]}\n") for i in range(6))
    table += "".join(unicodedata.normalize("NFD", f"é{i}.png,{'äö'[i % 2]}\n") for i in range(6, 12))
    facts = take_in(zip_of(tmp_path / "d.zip", {"t.csv": table.encode(), **files}), "zip")
    assert facts.class_names == ("ä", "ö")
    assert sorted(labels_of(facts)) == [0] * 6 + [1] * 6


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


# --- values of pixels


@dataclass(frozen=True)
class Values:
    """Images of one kind of number; ``right`` is the brightest pixel once read, or words of the refusal."""

    make: Callable[[Any], Any]
    right: int | str
    says: str = ""
    range: str = "0..1"


VALUES = {
    "bytes": Values(lambda x: x, 250),
    "0 and 1 in bytes": Values(lambda x: x % 2, 255, "0 and 1 only"),
    "0 and 1 in integers": Values(lambda x: (x % 2).astype(np.int64), 255, "0 and 1 only"),
    "0 and 1 in booleans": Values(lambda x: x % 2 == 1, 255),
    "0 and 1 for 0..255": Values(lambda x: x % 2, "were they meant as 0..1", range="0..255"),
    "0 and 1 for -1..1": Values(lambda x: x % 2, 255, "0 and 1 only", range="-1..1"),
    "black": Values(lambda x: x * 0, 0),
    "floats to 1": Values(lambda x: (x / 255).astype(np.float32), 250),
    "floats to 1 for 0..255": Values(lambda x: x / 250, 255, "multiplied by 255", range="0..255"),
    "floats to 255": Values(lambda x: x.astype(np.float64), 250),
    "floats a little over 1": Values(lambda x: x / 240, "outside 0..255 (or 0..1)"),
    "divided twice": Values(lambda x: x / 250 / 255, 1, "divided by 255 twice"),
    "-1 to 1": Values(lambda x: x / 125 - 1, "outside 0..255"),
    "4 bits": Values(lambda x: x % 17, 16, "brightest pixel is 16"),
    "16 bits": Values(lambda x: x.astype(np.uint16) * 257, "divide by 257"),
    "integers": Values(lambda x: x.astype(np.int16), 250),
    "below 0": Values(lambda x: x.astype(np.int32) - 9, "outside 0..255"),
}


@pytest.mark.parametrize("case", VALUES.values(), ids=VALUES.keys())
def test_values_of_pixels(case: Values, tmp_path: Path) -> None:
    data = arrays()
    images = data["images"].copy()
    images[0, 0, 0] = 250
    path = npz_of(tmp_path / "d.npz", images=case.make(images), labels=data["labels"])
    stated = Preprocessing(4, 4, 1, range=case.range)  # type: ignore[arg-type]
    if isinstance(case.right, str):
        error = refused(path, "npz", preprocessing=stated)
        assert case.right in " ".join([error.message, *map(str, error.problems)])
        return
    facts = take_in(path, "npz", stated)
    assert pixels_of(facts).max() == case.right
    assert (case.says in words(facts)) if case.says else not any(p.place == "images" for p in facts.problems)


def test_splits_of_two_scales_are_refused(tmp_path: Path) -> None:
    data = arrays()
    path = npz_of(
        tmp_path / "d.npz", x_train=data["images"] / 255, y_train=data["labels"], x_test=data["images"], y_test=data["labels"]
    )
    assert "not of one scale" in refused(path, "npz").message


def test_files_that_hold_0_and_1_only_are_told(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": png(i % 2) for c in "ab" for i in range(8)}
    assert "0 or 1 of 255" in words(take_in(zip_of(tmp_path / "d.zip", files), "zip"))


@dataclass(frozen=True)
class Shape:
    shape: tuple[int, ...]
    stated: Preprocessing
    right: tuple[int, ...] | str


SHAPES = {
    "grey": Shape((12, 5, 6), Preprocessing(5, 6, 1), (5, 6, 1)),
    "grey for RGB": Shape((12, 5, 6), Preprocessing(5, 6, 3), (5, 6, 3)),
    "nhwc": Shape((12, 5, 6, 3), Preprocessing(5, 6, 3), (5, 6, 3)),
    "nchw": Shape((12, 3, 5, 6), Preprocessing(5, 6, 3, layout="nchw"), (5, 6, 3)),
    "nchw unsaid": Shape((12, 3, 5, 6), Preprocessing(5, 6, 3), "is it nchw?"),
    "nhwc called nchw": Shape((12, 5, 6, 3), Preprocessing(5, 6, 3, layout="nchw"), "is it nhwc?"),
    "grey nhwc called nchw": Shape((12, 5, 6, 1), Preprocessing(5, 6, 1, layout="nchw"), "is it nhwc?"),
    "three columns": Shape((12, 3, 8, 3), Preprocessing(8, 3, 3, resize="stretch"), "nchw"),
    "three rows": Shape((12, 3, 8, 3), Preprocessing(3, 8, 3), (3, 8, 3)),
    "flat": Shape((12, 30), Preprocessing(5, 6, 1), "need numbers (n, h, w)"),
    "four channels": Shape((12, 5, 6, 4), Preprocessing(5, 6, 3), "shape (5, 6, 4) instead of (5, 6, 3)"),
}


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_of_arrays(case: Shape, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, case.shape, np.uint8)
    path = npz_of(tmp_path / "d.npz", images=images, labels=np.arange(12) % 2)
    if isinstance(case.right, str):
        error = refused(path, "npz", preprocessing=case.stated)
        assert case.right in " ".join([error.message, *map(str, error.problems)])
    else:
        assert pixels_of(take_in(path, "npz", case.stated)).shape[1:] == case.right


@dataclass(frozen=True)
class Units:
    mean: float
    std: float
    range: str
    wrong: tuple[str, ...]


UNITS = {
    "ImageNet in 0..255 for 0..1": Units(123.675, 58.395, "0..1", ("mean", "std")),
    "ImageNet in 0..255 for -1..1": Units(123.675, 58.395, "-1..1", ("mean", "std")),
    "mean alone": Units(123.675, 0.229, "0..1", ("mean",)),
    "std alone": Units(0.485, 58.395, "0..1", ("std",)),
    "ImageNet in 0..1 for 0..255": Units(0.485, 0.229, "0..255", ("mean", "std")),
    "std in 0..1 for 0..255": Units(123.675, 0.229, "0..255", ("std",)),
    "ImageNet in 0..1": Units(0.485, 0.229, "0..1", ()),
    "ImageNet in 0..255": Units(123.675, 58.395, "0..255", ()),
    "lite": Units(127, 128, "0..255", ()),
    "to 0..255 by std": Units(0, 1 / 255, "0..1", ()),
    "nothing": Units(0, 1, "0..255", ()),
    "dark": Units(0.9, 12, "0..255", ()),
}


@pytest.mark.parametrize("case", UNITS.values(), ids=UNITS.keys())
def test_mean_and_std_are_in_the_units_of_the_range(case: Units) -> None:
    stated = Preprocessing(4, 4, 3, mean=(case.mean,), std=(case.std,), range=case.range)  # type: ignore[arg-type]
    found = {v.field: v.description for v in stated.violations()}
    assert set(found) == {f"preprocessing.{name}" for name in case.wrong}
    assert all("255" in words for words in found.values())
    assert Preprocessing.from_json(stated.to_json()) == stated  # what is stored already stays readable
    if case.wrong:
        with pytest.raises(InvalidSpecError, match="units of range"):
            stated.validated()


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
