"""Files that are no dataset of ours, known by their first bytes, and what their owner should do."""

from __future__ import annotations

from pathlib import Path

from service.intake.errors import IntakeCode, IntakeError

_NPZ = "np.savez_compressed('data.npz', images=images, labels=labels)"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", "a single numpy array (.npy)", f"save images and labels together: {_NPZ}"),
    (b"\x89HDF", "an HDF5 file", f"read it with h5py and save its arrays: {_NPZ}"),
    (b"MATLAB", "a MATLAB file", f"read it with scipy.io.loadmat (h5py from version 7.3 on) and save its arrays: {_NPZ}"),
    (b"PAR1", "a Parquet file", f"decode its images and save them as arrays: {_NPZ}"),
    (b"Rar!", "a RAR archive", "pack the files as a zip or tar"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "pack the files as a zip or tar"),
    (b"(\xb5/\xfd", "packed with zstd", "pack the files as a zip or a tar.gz"),
    (b"\x00\x00\x08\x01", "an IDX file (as MNIST's)", f"read images and labels and save them together: {_NPZ}"),
    (b"\x00\x00\x08\x03", "an IDX file (as MNIST's)", f"read images and labels and save them together: {_NPZ}"),
    (b"\x89PNG", "a single image", "pack class folders of images as a zip or tar"),
    (b"\xff\xd8\xff", "a single image", "pack class folders of images as a zip or tar"),
)
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def refuse_foreign(path: Path) -> None:
    """Refuse a file whose first bytes say that it is something else.

    Raises:
        IntakeError: what it is, and how to bring it into a form that is read.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_PICKLES):
        advice = f"pickles can run code and are never opened; load it yourself and save plain arrays: {_NPZ}"
        raise IntakeError("pickled", f"the file is a Python pickle: {advice}", "dataset")
    for magic, what, advice in _KINDS:
        if start.startswith(magic):
            code: IntakeCode = "unsupported"
            raise IntakeError(code, f"the file is {what}, which is not read: {advice}", "dataset")
