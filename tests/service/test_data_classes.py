"""Classes, folders and splits as people name them: read right, or told what to do."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from search.dataset_file import DatasetMetadata, read
from service.intake.image_table import DatasetOptions
from tests.service.datasets import SMALL, arrays, class_folders, folder_of, labels_of, npz_of, png, refused, take_in, words, zip_of


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
