"""Fashion-MNIST (Xiao et al. 2017) as Debian packages it: found, or unpacked without root, never downloaded from the web.

``apt-get download`` fetches the package into a cache folder and ``dpkg -x`` unpacks it there, so no root is needed.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGE = "dataset-fashion-mnist"
SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MEAN, STD = 0.2860, 0.3530
_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


@dataclass(frozen=True)
class FashionMnist:
    """Grey images ``(n, 28, 28)`` uint8 and labels ``(n,)`` int64, in the order of the original files."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


def load(cache_dir: Path | None = None) -> FashionMnist:
    """Read the set from the system, the cache, or a freshly unpacked Debian package.

    Raises:
        FileNotFoundError: the set is not here and cannot be fetched; says what was tried.
    """
    folder = _find(cache_dir or default_cache_dir())
    train_x, train_y, test_x, test_y = (_read_idx(folder / name) for name in _FILES)
    return FashionMnist(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


def default_cache_dir() -> Path:
    """Where an unpacked copy is kept: ``$XDG_CACHE_HOME/paretopress`` or ``~/.cache/paretopress``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretopress"


def _find(cache_dir: Path) -> Path:
    unpacked = cache_dir / "fashion-mnist"
    for folder in (SYSTEM_DIR, unpacked):
        if all((folder / name).is_file() for name in _FILES):
            return folder
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise FileNotFoundError(f"Fashion-MNIST is not in {SYSTEM_DIR} and this machine has no apt-get to fetch {PACKAGE}")
    download = cache_dir / "download"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    result = subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=download, capture_output=True, text=True)
    packages = list(download.glob("*.deb"))
    if not packages:
        raise FileNotFoundError(f"apt-get download {PACKAGE} failed (run `apt-get update` once?): {result.stderr.strip()}")
    subprocess.run(["dpkg", "-x", str(packages[0]), str(download / "root")], check=True)
    shutil.rmtree(unpacked, ignore_errors=True)
    shutil.move(download / "root" / SYSTEM_DIR.relative_to("/"), unpacked)
    shutil.rmtree(download)
    return unpacked


def _read_idx(path: Path) -> npt.NDArray[Any]:
    with gzip.open(path, "rb") as file:
        _, rank = struct.unpack(">HxB", file.read(4))
        shape = struct.unpack(f">{rank}I", file.read(4 * rank))
        return np.frombuffer(file.read(), dtype=np.uint8).reshape(shape)
