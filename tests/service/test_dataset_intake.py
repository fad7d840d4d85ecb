"""Datasets of each format: what is accepted, what is told, how splits are chosen, and the way through the sandbox."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples import digits
from examples.to_npz import write_npz
from search.dataset_file import SERVER_SPLIT_NOTE, SPLITS, read
from search.errors import InvalidSpecError
from search.preprocessing import Preprocessing
from service.intake.archives import FolderSource
from service.intake.datasets import format_of, import_dataset
from service.intake.errors import IntakeError, ProblemLog
from service.intake.image_table import DatasetOptions
from service.intake.limits import IntakeLimits, resolve_under_roots
from service.intake.splits import choose_splits
from tests.service.datasets import SMALL, arrays, class_folders, folder_of, npz_of, png, refused, take_in, tar_of, zip_of

# --- what is accepted


def test_npz_with_splits_and_groups(tmp_path: Path):
    split = np.repeat(["train", "validation", "selection", "test"], 10)
    path = npz_of(
        tmp_path / "d.npz", **arrays(), split=split, group_camera=np.repeat(["a", "b"], 20), class_names=np.array(list("wxyz"))
    )
    facts = take_in(path, "npz")
    assert facts.split_counts == dict.fromkeys(SPLITS, 10)
    assert facts.class_names == ("w", "x", "y", "z")
    assert facts.group_values == {"camera": ("a", "b")}
    assert (facts.split_chosen_by, facts.notes) == ("dataset", ())
    tensors, metadata = read(facts.path)
    assert tensors.images.shape == (40, 4, 4, 1)
    assert (tensors.images[..., 0] == arrays()["images"]).all()
    assert (tensors.labels == arrays()["labels"]).all()
    assert tensors.groups is not None
    assert tensors.groups[:, 0].tolist() == [0] * 20 + [1] * 20
    assert metadata.data_sha256 == facts.data_sha256
    assert metadata.preprocessing == SMALL


def test_keras_names_keep_their_test_split(tmp_path: Path):
    data = arrays()
    images, labels = data["images"], data["labels"]
    path = npz_of(tmp_path / "d.npz", x_train=images[:30], y_train=labels[:30], x_test=images[30:], y_test=labels[30:])
    facts = take_in(path, "npz")
    assert facts.split_counts["test"] == 10
    assert facts.split_chosen_by == "dataset and server"
    assert SERVER_SPLIT_NOTE in facts.notes[0]
    assert "validation, selection" in facts.notes[0]


def test_float_pixels_of_0_to_1_come_back_as_bytes(tmp_path: Path):
    data = arrays()
    path = npz_of(tmp_path / "d.npz", images=data["images"].astype(np.float32) / 255, labels=data["labels"])
    facts = take_in(path, "npz")
    assert (read(facts.path)[0].images[..., 0] == data["images"]).all()
    assert facts.problem_count == 0


def test_nchw_arrays_are_turned(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
    path = npz_of(tmp_path / "d.npz", images=images, labels=np.arange(12) % 2)
    stated = Preprocessing(4, 4, 3, layout="nchw")
    assert (read(take_in(path, "npz", stated).path)[0].images == images.transpose(0, 2, 3, 1)).all()
    error = refused(path, "npz", preprocessing=Preprocessing(4, 4, 3))
    assert error.field == "preprocessing.layout"
    assert "nchw" in error.message


def test_several_labels_per_image_and_one_hot(tmp_path: Path):
    hot = np.eye(4, dtype=np.uint8)[np.arange(40) % 4]
    assert not take_in(npz_of(tmp_path / "a.npz", images=arrays()["images"], labels=hot), "npz").has_several_labels
    hot[3] = [1, 1, 0, 0]
    facts = take_in(npz_of(tmp_path / "b.npz", images=arrays()["images"], labels=hot), "npz")
    assert facts.has_several_labels
    assert (read(facts.path)[0].labels == hot).all()


def test_images_without_labels(tmp_path: Path):
    facts = take_in(npz_of(tmp_path / "d.npz", images=arrays()["images"]), "npz")
    assert not facts.has_labels
    assert read(facts.path)[0].labels is None


@dataclass(frozen=True)
class Pack:
    pack: Callable[[Path, dict[str, bytes]], Path]
    name: str
    format: str


PACKS = {
    "zip": Pack(zip_of, "d.zip", "zip"),
    "tar.gz": Pack(tar_of, "d.tar.gz", "tar"),
    "folder": Pack(folder_of, "d", "folder"),
}


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_class_folders(pack: Pack, tmp_path: Path):
    files = class_folders("top/train/") | class_folders("top/test/", 3, 100) | {"top/.DS_Store": b"x", "__MACOSX/top/a.png": b"x"}
    facts = take_in(pack.pack(tmp_path / pack.name, files), pack.format)
    assert facts.class_names == ("cat", "dog")
    assert facts.split_counts == {"train": 16, "validation": 2, "selection": 2, "test": 6}
    assert facts.problems == ()
    tensors, _ = read(facts.path)
    assert sorted(tensors.images[tensors.split == SPLITS.index("test")][:, 0, 0, 0].tolist()) == [100, 101, 102, 120, 121, 122]


def test_class_names_fix_the_order(tmp_path: Path):
    path = zip_of(tmp_path / "d.zip", class_folders())
    facts = take_in(path, "zip", options=DatasetOptions(class_names=("dog", "bird", "cat")))
    assert facts.class_names == ("dog", "bird", "cat")
    assert [str(p) for p in facts.problems] == ["class 'bird': has no image"]
    assert set(np.unique(read(facts.path)[0].labels).tolist()) == {0, 2}


def test_empty_class_folder_is_told(tmp_path: Path):
    facts = take_in(zip_of(tmp_path / "d.zip", class_folders() | {"emu/": b""}), "zip")
    assert facts.class_names == ("cat", "dog", "emu")
    assert [(p.place, p.severity) for p in facts.problems] == [("class 'emu'", "warning")]


def test_numeric_class_folders_are_sorted_as_image_folder_does_with_a_warning(tmp_path: Path):
    files = {f"{c}/{i}.png": png(16 * c + i) for c in range(12) for i in range(3)}
    facts = take_in(zip_of(tmp_path / "d.zip", files), "zip")
    assert facts.class_names == ("0", "1", "10", "11", *"23456789")
    assert "ImageFolder" in facts.problems[0].what
    assert "1, 10, 11, 2" in facts.problems[0].what
    assert "1, 2, 3, 4" in facts.problems[0].what
    assert any("ImageFolder" in note for note in facts.notes)


def test_csv_table_in_an_archive(tmp_path: Path):
    rows = [f"img/{i}.png,{'even' if i % 2 == 0 else 'odd'},{'train' if i < 20 else 'test'},site{i % 3}" for i in range(26)]
    files = {"data/table.csv": "\n".join(["filename,label,split,site", *rows]).encode()}
    files |= {f"data/img/{i}.png": png(i) for i in range(26)}
    facts = take_in(zip_of(tmp_path / "d.zip", files), "zip")
    assert facts.class_names == ("even", "odd")
    assert facts.group_values == {"site": ("site0", "site1", "site2")}
    assert facts.split_counts["test"] == 6
    tensors, _ = read(facts.path)
    assert tensors.labels is not None
    assert (tensors.labels == tensors.images[:, 0, 0, 0] % 2).all()


def test_csv_table_with_several_labels(tmp_path: Path):
    rows = [f"{i}.png,{'red' if i % 2 else ''},{'big' if i % 3 else ''}" for i in range(12)]
    files = {"t.csv": "\n".join(["filename,label,label2", *rows]).encode(), **{f"{i}.png": png(i) for i in range(12)}}
    facts = take_in(zip_of(tmp_path / "d.zip", files), "zip")
    assert facts.class_names == ("big", "red")
    labels = read(facts.path)[0].labels
    assert labels is not None
    assert labels.tolist() == [[int(i % 3 > 0), int(i % 2 > 0)] for i in range(12)]


@pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
def test_csv_of_pixels(header: bool, tmp_path: Path):
    data = arrays()
    lines = [",".join(map(str, [label, *image.ravel()])) for image, label in zip(data["images"], data["labels"], strict=True)]
    if header:
        lines.insert(0, "label," + ",".join(f"pixel{i}" for i in range(16)))
    path = tmp_path / "d.csv"
    path.write_text("\n".join(lines))
    tensors, _ = read(take_in(path, "csv").path)
    assert (tensors.images[..., 0] == data["images"]).all()
    assert (tensors.labels == data["labels"]).all()


def test_resize_crop_and_channels(tmp_path: Path):
    files = {f"{c}/{i}.jpg": png(100 + i, (20, 12), "RGB", "JPEG") for c in "ab" for i in range(6)}
    stated = Preprocessing(8, 8, 1, resize="shortest_side", resize_size=10, crop="center")
    tensors, _ = read(take_in(zip_of(tmp_path / "d.zip", files), "zip", stated).path)
    assert tensors.images.shape == (12, 8, 8, 1)
    error = refused(tmp_path / "d.zip", "zip", preprocessing=Preprocessing(8, 8, 1))
    assert error.problem_count == 12
    assert "12x20 pixels instead of 8x8; state a resize" in error.problems[0].what


def test_same_data_gives_the_same_file(tmp_path: Path):
    path = npz_of(tmp_path / "d.npz", **arrays())
    first = take_in(path, "npz")
    data = first.path.read_bytes()
    assert take_in(path, "npz").data_sha256 == first.data_sha256
    assert first.path.read_bytes() == data
    assert take_in(path, "npz", options=DatasetOptions(seed=1)).data_sha256 != first.data_sha256


def test_images_shared_by_splits_are_told(tmp_path: Path):
    data = arrays()
    data["images"][35] = data["images"][0]
    path = npz_of(tmp_path / "d.npz", **data, split=np.repeat(["train", "validation", "selection", "test"], 10))
    facts = take_in(path, "npz")
    assert [str(p) for p in facts.problems] == ["split test: 1 images are in train as well, such as image 35 and image 0"]


# --- what is reported one by one


def test_corrupt_images_are_reported_one_by_one_and_can_be_left_out(tmp_path: Path):
    whole = png(50, (64, 64), "RGB")
    files = {f"{c}/{i}.png": png(16 * (c == "b") + i, (64, 64), "RGB") for c in "ab" for i in range(8)}
    files |= {"a/cut.png": whole[: len(whole) // 2], "b/text.png": b"hello", "b/notes.txt": b"hello"}
    path, stated = zip_of(tmp_path / "d.zip", files), Preprocessing(64, 64, 3)
    error = refused(path, "zip", preprocessing=stated)
    assert {p.place: p.severity for p in error.problems} == {"a/cut.png": "error", "b/text.png": "error", "b/notes.txt": "warning"}
    facts = take_in(path, "zip", stated, DatasetOptions(skip_bad=True))
    assert facts.images == 16
    assert facts.problem_count == 3


def test_at_most_a_hundred_problems_are_listed_and_all_are_counted(tmp_path: Path):
    error = refused(zip_of(tmp_path / "d.zip", {f"a/{i}.png": b"no image" for i in range(130)}), "zip")
    assert (len(error.problems), error.problem_count) == (100, 130)


def test_labels_out_of_range_and_not_finite_pixels(tmp_path: Path):
    data = arrays()
    images, labels = data["images"].astype(np.float32), data["labels"].copy()
    images[5, 0, 0], images[6, 0, 0], images[7, 1, 1] = np.nan, np.inf, 300
    labels[8], labels[9] = -1, 4
    path = npz_of(tmp_path / "d.npz", images=images, labels=labels)
    error = refused(path, "npz", options=DatasetOptions(class_names=tuple("abcd")))
    assert [p.place for p in error.problems] == [f"image {i}" for i in (5, 6, 7, 8, 9)]
    assert "not finite" in error.problems[0].what
    assert "0..255" in error.problems[2].what
    assert "class index in 0..3" in error.problems[3].what


def test_bad_rows_of_a_table(tmp_path: Path):
    table = "filename,label\n0.png,a\n0.png,a\nmissing.png,b\n1.png\n1.png,\n" + "".join(f"{i}.png,b\n" for i in range(2, 14))
    files = {"t.csv": table.encode(), **{f"{i}.png": png(i) for i in range(14)}}
    path = zip_of(tmp_path / "d.zip", files)
    error = refused(path, "zip")
    says = [str(p) for p in error.problems]
    assert "listed twice" in says[0]
    assert "row 3" in says[0]
    assert "no file 'missing.png'" in says[1]
    assert "1 cells instead of 2" in says[2]
    assert "has no label" in says[3]
    assert take_in(path, "zip", options=DatasetOptions(skip_bad=True)).images == 13


# --- splits


def test_server_splits_are_stratified_and_seeded():
    labels = np.repeat(np.arange(4), [400, 300, 200, 100])
    chosen = choose_splits(None, labels, 1000, 3, ProblemLog())
    assert chosen.server_splits == ("validation", "selection", "test")
    assert chosen.chosen_by == "server"
    for index, size in ((3, 100), (1, 90), (2, 81)):
        counts = np.bincount(labels[chosen.split == index], minlength=4)
        assert counts.sum() == size
        assert np.abs(counts - size * np.array([0.4, 0.3, 0.2, 0.1])).max() <= 1
    assert (choose_splits(None, labels, 1000, 3, ProblemLog()).split == chosen.split).all()
    assert (choose_splits(None, labels, 1000, 4, ProblemLog()).split != chosen.split).any()


def test_selection_is_taken_from_validation_and_the_rest_stays():
    given = ["train"] * 60 + ["validation"] * 20 + ["test"] * 20
    chosen = choose_splits(given, None, 100, 0, ProblemLog())  # type: ignore[arg-type]
    assert np.bincount(chosen.split).tolist() == [60, 10, 10, 20]
    assert chosen.server_splits == ("selection",)
    assert (chosen.split[60:80] != 0).all()


def test_splits_without_train_and_too_few_images_are_refused():
    with pytest.raises(IntakeError, match="none of the images is in train"):
        choose_splits(["validation"] * 10 + ["test"] * 10, None, 20, 0, ProblemLog())  # type: ignore[list-item]
    with pytest.raises(IntakeError, match="at least 10"):
        choose_splits(None, None, 9, 0, ProblemLog())


# --- paths and preprocessing


def test_paths_stay_under_the_roots(tmp_path: Path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "set").mkdir(parents=True)
    outside.mkdir()
    (root / "escape").symlink_to(outside)
    (root / "inner").symlink_to(root / "set")
    assert resolve_under_roots("set", [root]) == root / "set"
    assert resolve_under_roots(str(root / "set"), [tmp_path / "other", root]) == root / "set"
    assert resolve_under_roots("inner", [root]) == root / "set"
    for path in ("../outside", "escape", str(outside), "/etc/passwd", "missing", "set/../../outside"):
        with pytest.raises(IntakeError, match="not an existing path") as caught:
            resolve_under_roots(path, [root])
        assert caught.value.code == "not_allowed"
    with pytest.raises(IntakeError, match="no dataset_roots"):
        resolve_under_roots("set", [])


def test_every_bad_field_of_a_preprocessing_is_told():
    with pytest.raises(InvalidSpecError) as caught:
        Preprocessing(0, 4, 3, mean=(1.0, 2.0), std=(0.0,), layout="hwc", resize_size=9).validated()  # type: ignore[arg-type]
    fields = {v.field for v in caught.value.violations}
    assert fields == {f"preprocessing.{n}" for n in ("height", "mean", "std", "layout", "resize_size")}


def test_preprocessing_survives_json():
    stated = Preprocessing(8, 9, 3, "shortest_side", "center", 12, (1, 2, 3), (4, 5, 6), "nchw", "-1..1", "bicubic")
    assert Preprocessing.from_json(stated.to_json()) == stated
    with pytest.raises(InvalidSpecError, match="unexpected keyword"):
        Preprocessing.from_json({**stated.to_json(), "surprise": 1})


def test_format_by_name(tmp_path: Path):
    assert format_of(tmp_path) == "folder"
    assert format_of(Path("a.tar.gz")) == "tar"
    (tmp_path / "a.xyz").write_bytes(b"x")
    with pytest.raises(IntakeError, match="cannot tell the format"):
        format_of(tmp_path / "a.xyz")


def test_folder_source_ignores_clutter(tmp_path: Path):
    folder_of(tmp_path, {"a/1.png": b"x", ".git/config": b"x", "a/.hidden": b"x"})
    assert list(FolderSource(tmp_path, IntakeLimits(), ProblemLog()).files) == ["a/1.png"]


# --- through the sandbox


def test_digits_go_through_the_sandbox(tmp_path: Path):
    path, scratch = tmp_path / "digits.npz", tmp_path / "scratch"
    scratch.mkdir()
    write_npz(path, digits.load(), 300, digits.CLASS_NAMES)
    facts = import_dataset(path, "npz", Preprocessing(8, 8, 1), scratch=scratch)
    assert facts.split_counts == {"train": 1137, "validation": 150, "selection": 150, "test": 360}
    assert facts.path.parent == scratch
    with pytest.raises(IntakeError, match="image 0: 8x8 pixels instead of 9x9") as caught:
        import_dataset(path, "npz", Preprocessing(9, 9, 1), scratch=scratch)
    assert caught.value.problem_count == 1797


def test_a_csv_upload_may_be_an_archive_with_its_table(tmp_path: Path):
    files = {"t.csv": b"filename,label\n" + b"".join(b"%d.png,%d\n" % (i, i % 2) for i in range(12))}
    path = zip_of(tmp_path / "upload", files | {f"{i}.png": png(i) for i in range(12)})
    assert import_dataset(path, "csv", SMALL, scratch=tmp_path).images == 12


def test_bad_options_are_refused_at_once(tmp_path: Path):
    path = npz_of(tmp_path / "d.npz", **arrays())
    with pytest.raises(IntakeError, match="augment must be one of"):
        import_dataset(path, "npz", SMALL, DatasetOptions(augment="mixup"), scratch=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(IntakeError, match="format must be one of"):
        import_dataset(path, "hdf5", SMALL, scratch=tmp_path)  # type: ignore[arg-type]


def test_arrays_are_resized_and_cropped_as_image_files_are(tmp_path: Path):
    """Arrays that had the final size already were taken as they were, whatever resize was stated."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    files = {}
    for number, image in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        files[f"{'ab'[number % 2]}/{number:02}.png"] = buffer.getvalue()
    stated = Preprocessing(16, 16, 3, resize="shortest_side", resize_size=20, crop="center")
    from_files, _ = read(take_in(zip_of(tmp_path / "d.zip", files), "zip", stated).path)
    path = npz_of(tmp_path / "d.npz", images=pixels, labels=np.arange(12) % 2)
    from_arrays, _ = read(take_in(path, "npz", stated).path)
    assert {image.tobytes() for image in from_arrays.images} == {image.tobytes() for image in from_files.images}
    assert not (from_arrays.images == pixels).all()
    as_they_are, _ = read(take_in(path, "npz", Preprocessing(16, 16, 3, resize="shortest_side", crop="center")).path)
    assert (as_they_are.images == pixels).all(), "nothing is left to resize"
