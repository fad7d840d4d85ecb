"""CSV tables as spreadsheets, pandas and people write them: of file names, and of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.dataset_file import read
from search.preprocessing import Preprocessing
from service.intake.image_table import DatasetOptions
from service.intake.label_columns import LABEL_NAMES
from tests.service.datasets import SMALL, labels_of, png, refused, take_in, words, zip_of

COUNT = 12
RIGHT = {i: i % 2 for i in range(COUNT)}


@dataclass(frozen=True)
class Listing:
    """Lines of a table beside ``img/0.png`` ... ``img/11.png``; even ones are of class 0. Or words of the refusal."""

    header: str
    line: str
    says: str = ""
    is_refused: bool = False
    end: str = "\n"
    encoding: str = "utf-8"
    labels: tuple[str, str] = ("cat", "dog")
    is_labelled: bool = True


LISTINGS = {
    "plain": Listing("filename,label", "img/{i}.png,{label}"),
    "label first": Listing("label,path", "{label},img/{i}.png"),
    "class": Listing("Image Path,Class", "img/{i}.png,{label}"),
    "any name of the file's column": Listing("picture,label", "img/{i}.png,{label}"),
    "semicolons": Listing("filename;label", "img/{i}.png;{label}"),
    "tabs": Listing("filename\tlabel", "img/{i}.png\t{label}"),
    "spaces and quotes": Listing("filename, label", '"img/{i}.png" , "{label}"', is_refused=True, says="not a readable CSV"),
    "spaces": Listing("filename , label", " img/{i}.png , {label} "),
    "quotes": Listing('"filename","label"', '"img/{i}.png","{label}"'),
    "mark of UTF-8": Listing("filename,label", "img/{i}.png,{label}", encoding="utf-8-sig"),
    "UTF-16": Listing("filename,label", "img/{i}.png,{label}", encoding="utf-16"),
    "ends of Windows": Listing("filename,label", "img/{i}.png,{label}", end="\r\n"),
    "ends of old Macs": Listing("filename,label", "img/{i}.png,{label}", end="\r"),
    "Windows paths": Listing("filename,label", "C:\\data\\img\\{i}.png,{label}", "not written as the files are"),
    "absolute paths": Listing("filename,label", "/home/me/set/img/{i}.png,{label}", "not written as the files are"),
    "bare names": Listing("filename,label", "{i}.png,{label}", "not written as the files are"),
    "other case": Listing("filename,label", "IMG/{i}.PNG,{label}", "not written as the files are"),
    "no suffix": Listing("id,label", "{i},{label}", "not written as the files are"),
    "dots": Listing("filename,label", "./img/../img/{i}.png,{label}"),
    "pandas' row numbers": Listing(",filename,label", "{i},img/{i}.png,{label}"),
    "labels of floats": Listing("filename,label", "img/{i}.png,{label}", labels=("0.0", "1.0")),
    "no header": Listing("", "img/{i}.png,{label}"),
    "no header, label first": Listing("", "{label},img/{i}.png"),
    "no header, with split": Listing("", "img/{i}.png,{label},train"),
    "no header, two columns more": Listing("", "img/{i}.png,{label},x", "filename,label,group2", is_refused=True),
    "no header, no label": Listing("", "img/{i}.png", is_labelled=False),
    "no label by name": Listing("filename,breed", "img/{i}.png,{label}", "no column is called label", is_labelled=False),
    "other folder": Listing("filename,label", "test/{i}.png,{label}", "there is no file", is_refused=True),
    "other suffix": Listing("filename,label", "img/{i}.jpg,{label}", "there is no file", is_refused=True),
    "no file's column": Listing("a,b", "x,{label}", "needs a column 'filename'", is_refused=True),
    "column twice": Listing("filename,label,label", "img/{i}.png,{label},{label}", "no column twice", is_refused=True),
    "latin letters": Listing("filename,label", "img/{i}.png,{label}", "CSV UTF-8", True, encoding="latin-1", labels=("é", "ü")),
    "names that Python reads as one number": Listing(
        "filename,label", "img/{i}.png,{label}", "sorted as text", labels=("10", "1_0")
    ),
    "minus one": Listing("filename,label", "img/{i}.png,{label}", "no class index", True, labels=("-1", "1")),
}


def table_of(case: Listing) -> bytes:
    lines = [case.header] if case.header else []
    lines += [case.line.format(i=i, label=case.labels[RIGHT[i]]) for i in range(COUNT)]
    return (case.end.join(lines) + case.end).encode(case.encoding)


@pytest.mark.parametrize("case", LISTINGS.values(), ids=LISTINGS.keys())
def test_tables_of_file_names(case: Listing, tmp_path: Path) -> None:
    files = {"t.csv": table_of(case), **{f"img/{i}.png": png(i) for i in range(COUNT)}}
    path = zip_of(tmp_path / "d.zip", files)
    if case.is_refused:
        error = refused(path, "zip")
        assert case.says in " ".join([error.message, *map(str, error.problems)])
        return
    facts = take_in(path, "zip")
    assert facts.images == COUNT
    assert facts.has_labels == case.is_labelled
    assert (case.says in words(facts)) if case.says else not facts.problems
    if case.is_labelled:
        values = read(facts.path)[0].images[:, 0, 0, 0].tolist()
        assert dict(zip(values, labels_of(facts), strict=True)) == RIGHT


@dataclass(frozen=True)
class LabelColumns:
    """Names of label columns, their cells for images of class 0 and 1, and what they mean: class indices, and what is told.

    ``says`` are words of the refusal where there are no classes.
    """

    names: str
    cells: tuple[str, str]
    classes: tuple[str, ...] = ()
    right: tuple[Any, Any] = (0, 1)
    says: str = ""
    groups: tuple[str, ...] = ()


HOT, PAIR, ONE, SEVERAL = "a class each", "index of a class and its name", "one label, since no image", "which may have several"
LABEL_COLUMNS = {
    "one-hot": LabelColumns("label_cat,label_dog", ("1,0", "0,1"), ("cat", "dog"), says=HOT),
    "one-hot of floats": LabelColumns("label_0,label_1,label_2", ("1.0,0.0,0.0", "0.0,1.0,0.0"), ("0", "1", "2"), says=HOT),
    "several hot": LabelColumns("label_cat,label_dog", ("1,0", "1,1"), ("cat", "dog"), ([1, 0], [1, 1]), HOT),
    "one-hot beside other columns": LabelColumns(
        "label_cat,labeler,label_dog", ("1,ann,0", "0,bob,1"), ("cat", "dog"), says="'labeler'; labels", groups=("labeler",)
    ),
    "index and name": LabelColumns("label,label_name", ("1,ant", "0,bee"), ("bee", "ant"), (1, 0), PAIR),
    "name and index": LabelColumns("class_name,class_id", ("bee,2", "ant,0"), ("ant", "class 1", "bee"), (2, 0), PAIR),
    "index and words that say yes or no": LabelColumns(
        "label_id,label_name", ("0,false", "1,true"), ("false", "true"), (0, 1), PAIR
    ),
    "several words": LabelColumns("label,label2", ("red,", "red,big"), ("big", "red"), ([0, 1], [1, 1]), SEVERAL),
    "several numbered": LabelColumns("label_1,label_2", ("red,", "red,big"), ("big", "red"), ([0, 1], [1, 1]), SEVERAL),
    "one word each": LabelColumns("label_1,label_2", ("red,red", "big,"), ("big", "red"), (1, 0), ONE),
    "one number each": LabelColumns("label,label2", ("0,0", "1,1"), ("0", "1"), (0, 1), ONE),
    "who labelled": LabelColumns("label,labeler", ("cat,ann", "dog,bob"), ("cat", "dog"), says="'labeler'", groups=("labeler",)),
    "how sure": LabelColumns(
        "label,label_confidence", ("0,0.5", "1,0.9"), ("0", "1"), says="'label_confidence'", groups=("label_confidence",)
    ),
    "the same twice": LabelColumns("target,label", ("0,0", "1,1"), ("0", "1"), says="'target'", groups=("target",)),
    "two that differ": LabelColumns("label,class", ("0,1", "1,1"), ("0", "1"), says="'class'; labels are", groups=("class",)),
    "an index and its hot columns": LabelColumns(
        "label,label_0,label_1", ("0,1,0", "1,0,1"), ("0", "1"), says="'label_0', 'label_1'", groups=("label_0", "label_1")
    ),
    "one index of two names": LabelColumns("label,label_name", ("1,ant", "1,bee"), says="contradict"),
    "one name of two indices": LabelColumns("label,label_name", ("1,ant", "0,ant"), says="one to one"),
}


def both_tables(case: LabelColumns, folder: Path) -> Sequence[tuple[Path, str]]:
    """The case's columns beside pixels, and beside names of files."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4), np.uint8)
    rows = [f"{','.join(map(str, image.ravel()))},{case.cells[i % 2]}" for i, image in enumerate(images)]
    (folder / "d.csv").write_text("\n".join([f"{NAMES},{case.names}", *rows]))
    files = {f"{i}.png": png(i) for i in range(COUNT)}
    table = "\n".join([f"filename,{case.names}", *(f"{i}.png,{case.cells[i % 2]}" for i in range(COUNT))])
    return (folder / "d.csv", "csv"), (zip_of(folder / "d.zip", {"t.csv": table.encode(), **files}), "zip")


@pytest.mark.parametrize("case", LABEL_COLUMNS.values(), ids=LABEL_COLUMNS.keys())
def test_several_columns_of_labels(case: LabelColumns, tmp_path: Path) -> None:
    for path, format in both_tables(case, tmp_path):
        if not case.classes:
            assert case.says in refused(path, format).message
            continue
        facts = take_in(path, format)
        labels = read(facts.path)[0].labels
        assert facts.class_names == case.classes
        assert tuple(facts.group_values) == case.groups
        assert any(case.says in note for note in facts.notes), facts.notes
        assert labels is not None
        if format == "csv":
            assert labels.tolist() == [case.right[i % 2] for i in range(COUNT)]


@pytest.mark.parametrize("name", ["labeler", "label_confidence", "label_cat", "labelled_by"])
def test_a_column_that_only_starts_like_labels_holds_none(name: str, tmp_path: Path) -> None:
    for path, format in both_tables(LabelColumns(name, ("0", "1")), tmp_path):
        facts = take_in(path, format)
        assert not facts.has_labels
        assert any(f"taken as groups: '{name}'; the images are taken as label-free" in note for note in facts.notes)


@pytest.mark.parametrize("name", [*LABEL_NAMES, "label_1", "Labels2"])
def test_a_column_by_a_name_of_labels_is_read_without_a_word(name: str, tmp_path: Path) -> None:
    for path, format in both_tables(LabelColumns(name, ("cat", "dog")), tmp_path):
        facts = take_in(path, format)
        assert facts.class_names == ("cat", "dog")
        assert not any("column" in note for note in facts.notes)


def test_a_name_that_fits_two_files_is_no_name(tmp_path: Path) -> None:
    files = {f"{folder}/{i}.png": png(i + 20 * (folder == "b")) for folder in "ab" for i in range(COUNT)}
    table = "filename,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(COUNT))
    error = refused(zip_of(tmp_path / "d.zip", {"t.csv": table.encode(), **files}), "zip")
    assert [p.what for p in error.problems if p.severity == "error"] == [f"there is no file '{i}.png'" for i in range(COUNT)]


def test_images_that_the_table_does_not_name_are_told(tmp_path: Path) -> None:
    files = {f"{i}.png": png(i) for i in range(COUNT + 3)}
    table = "filename,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(COUNT))
    facts = take_in(zip_of(tmp_path / "d.zip", {"t.csv": table.encode(), **files}), "zip")
    assert "3 images are not in the table and were left out, such as 12.png" in words(facts)


# --- pixels


@dataclass(frozen=True)
class Pixels:
    """A table of sixteen pixels a row and their label; or words of the refusal."""

    header: str
    is_label_last: bool
    says: str = ""
    is_refused: bool = False
    labels: Sequence[Any] = (0, 1, 2)
    separator: str = ","
    classes: tuple[str, ...] = ("0", "1", "2")


NAMES = ",".join(f"pixel{i}" for i in range(16))
PIXELS = {
    "label first": Pixels("label," + NAMES, False),
    "label last": Pixels(NAMES + ",label", True),
    "class last": Pixels(NAMES + ",class", True),
    "target last": Pixels(NAMES + ",target", True),
    "no header, label first": Pixels("", False),
    "no header, label last": Pixels("", True),
    "no header, words last": Pixels("", True, labels=("cat", "dog", "emu"), classes=("cat", "dog", "emu")),
    "no header, words first": Pixels("", False, labels=("cat", "dog", "emu"), classes=("cat", "dog", "emu")),
    "no header, names that Python reads as numbers": Pixels("", True, labels=("10", "1_0", "1e1"), classes=("10", "1_0", "1e1")),
    "no header, from one": Pixels("", True, "subtract 1", labels=(1, 2, 3), classes=("0", "1", "2", "3")),
    "no header, with gaps": Pixels("", True, labels=(0, 3, 7), classes=tuple("01234567")),
    "no header, semicolons": Pixels("", True, separator=";"),
    "numbered columns, label last": Pixels(",".join(map(str, range(17))), True),
    "floats": Pixels("", True, labels=("0.0", "1.0", "2.0")),
    "unknown word": Pixels(NAMES + ",digit", True, "no column is called label", classes=()),
    "minus one": Pixels(NAMES + ",label", True, "no class index", True, labels=(-1, 1)),
}


def pixel_table(case: Pixels, images: Any) -> str:
    lines = [case.header.replace(",", case.separator)] if case.header else []
    for i, image in enumerate(images):
        cells, label = [str(v) for v in image.ravel()], str(case.labels[i % len(case.labels)])
        lines.append(case.separator.join([*cells, label] if case.is_label_last else [label, *cells]))
    return "\n".join(lines)


@pytest.mark.parametrize("case", PIXELS.values(), ids=PIXELS.keys())
def test_tables_of_pixels(case: Pixels, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), np.uint8)
    (tmp_path / "d.csv").write_text(pixel_table(case, images))
    if case.is_refused:
        error = refused(tmp_path / "d.csv", "csv")
        assert case.says in " ".join([error.message, *map(str, error.problems)])
        return
    facts = take_in(tmp_path / "d.csv", "csv")
    assert facts.class_names == case.classes
    assert (read(facts.path)[0].images[..., 0] == images).all()
    assert case.says in words(facts)
    if case.classes:
        named = [case.classes[i] for i in labels_of(facts)]
        assert named == [str(case.labels[i % len(case.labels)]).removesuffix(".0") for i in range(30)]


def test_a_table_whose_label_could_be_at_either_end_needs_a_header(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 2, (30, 4, 4), np.uint8)
    (tmp_path / "d.csv").write_text(pixel_table(Pixels("", True), images))
    error = refused(tmp_path / "d.csv", "csv")
    assert "label,pixel0,...,pixel15 or pixel0,...,pixel15,label" in error.message
    (tmp_path / "d.csv").write_text(pixel_table(Pixels("", True, labels=(0.5, 1.5)), images * 0.5))
    assert "neither" in refused(tmp_path / "d.csv", "csv").message


def test_a_border_that_is_nearly_always_black_is_no_label(tmp_path: Path) -> None:
    """Digits have 0 in the first pixel, and 1 or 2 now and then."""
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    images[:, 0, 0] = 0
    images[5, 0, 0], images[6, 0, 0] = 1, 2
    (tmp_path / "d.csv").write_text(pixel_table(Pixels("", True), images))
    assert labels_of(take_in(tmp_path / "d.csv", "csv")) == [i % 3 for i in range(60)]


def test_pixels_alone_and_rows_of_another_length(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 16), np.uint8)
    (tmp_path / "d.csv").write_text("\n".join(",".join(map(str, row)) for row in images))
    facts = take_in(tmp_path / "d.csv", "csv")
    assert not facts.has_labels
    assert "pixels only" in words(facts)
    error = refused(tmp_path / "d.csv", "csv", preprocessing=Preprocessing(5, 5, 1))
    assert "states 5x5x1" in error.message


def test_a_table_of_pixels_in_a_zip(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), np.uint8)
    path = zip_of(tmp_path / "d.zip", {"mnist/train.csv": pixel_table(PIXELS["label first"], images).encode()})
    facts = take_in(path, "zip", SMALL, DatasetOptions(class_names=("zero", "one", "two")))
    assert facts.class_names == ("zero", "one", "two")
    assert labels_of(facts) == [i % 3 for i in range(30)]
