"""Uploads that are refused as a whole: unsafe names, links, bombs, pickles, and what is no dataset."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from search.preprocessing import Preprocessing
from service.intake.image_table import DatasetOptions
from service.intake.limits import IntakeLimits
from tests.service.datasets import class_folders, folder_of, png, refused, tar_of, zip_of


def hostile_zip(path: Path, name: str, link: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in class_folders().items():
            archive.writestr(file, data)
        info = zipfile.ZipInfo(name)
        if link:
            info.external_attr = 0o120777 << 16
        archive.writestr(info, png(9))
    return path


@dataclass(frozen=True)
class Name:
    name: str
    says: str
    link: bool = False


NAMES = {
    "parent": Name("../../etc/cat/evil.png", "leads out"),
    "inner parent": Name("cat/../../evil.png", "leads out"),
    "absolute": Name("/etc/evil.png", "absolute"),
    "drive": Name("C:/evil.png", "absolute"),
    "link": Name("cat/link.png", "link", link=True),
    "double": Name("cat/1.png", "two entries"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", NAMES.values(), ids=NAMES.keys())
def test_unsafe_names_are_refused_even_when_bad_images_may_be_skipped(case: Name, tmp_path: Path):
    error = refused(hostile_zip(tmp_path / "d.zip", case.name, case.link), "zip", options=DatasetOptions(skip_bad=True))
    assert case.says in error.message
    assert [p.place for p in error.problems] == [case.name]


def test_backslashes_in_a_tar_are_refused(tmp_path: Path):
    error = refused(tar_of(tmp_path / "d.tar", class_folders() | {"cat\\..\\..\\x.png": png(1)}, "w"), "tar")
    assert "backslash" in error.message


def test_links_in_a_tar_and_in_a_folder(tmp_path: Path):
    path = tar_of(tmp_path / "d.tar", class_folders(), "w")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("cat/passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "link" in refused(path, "tar").message
    folder = folder_of(tmp_path / "d", class_folders())
    (folder / "cat" / "passwd.png").symlink_to("/etc/passwd")
    assert "links are not followed" in refused(folder, "folder").message


@dataclass(frozen=True)
class Bomb:
    limits: IntakeLimits
    says: str
    files: dict[str, bytes] = field(default_factory=class_folders)


BOMBS = {
    "entries": Bomb(IntakeLimits(entry_count=10), "more than 10 entries"),
    "total": Bomb(IntakeLimits(dataset_bytes=3400), "bytes in all", class_folders() | {"readme.txt": bytes(3000)}),
    "one file": Bomb(IntakeLimits(entry_bytes=1000), "at most 1,000 per file", class_folders() | {"cat/a.png": bytes(2000)}),
    "ratio": Bomb(IntakeLimits(), "as a zip bomb does", class_folders() | {"cat/a.png": bytes(5 << 20)}),
    "pixels of one image": Bomb(IntakeLimits(image_pixels=15), "more than the limit of 15"),
    "pixels of all": Bomb(IntakeLimits(dataset_bytes=18_000), "at most 18,000", {f"a/{i}.png": png(i) for i in range(20)}),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused(bomb: Bomb, tmp_path: Path):
    stated = Preprocessing(40, 40, 1, resize="stretch")
    error = refused(zip_of(tmp_path / "d.zip", bomb.files), "zip", preprocessing=stated, limits=bomb.limits)
    assert bomb.says in error.message


def test_npz_bomb_and_pickled_arrays(tmp_path: Path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((1000, 40, 40), np.uint8))
    assert refused(path, "npz", limits=IntakeLimits(dataset_bytes=100_000)).code == "too_large"
    np.savez(tmp_path / "object.npz", images=np.array([{"a": 1}], dtype=object))
    error = refused(tmp_path / "object.npz", "npz")
    assert error.code == "pickled"


@dataclass(frozen=True)
class Unreadable:
    name: str
    format: str
    content: bytes
    code: str = "unreadable"


UNREADABLE = {
    "zip": Unreadable("d.zip", "zip", b"not a zip"),
    "tar": Unreadable("d.tar", "tar", b"not a tar"),
    "npz": Unreadable("d.npz", "npz", b"not an npz"),
    "csv": Unreadable("d.csv", "csv", b'label,pixel0\n1,"\xff\xfe', "bad_data"),
    "csv of names": Unreadable("d.csv", "csv", b"filename,label\na.png,1\n", "bad_data"),
    "empty": Unreadable("d.npz", "npz", b""),
}


@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_dataset_is_refused(case: Unreadable, tmp_path: Path):
    path = tmp_path / case.name
    path.write_bytes(case.content)
    assert refused(path, case.format).code in (case.code, "unreadable")
