from __future__ import annotations

import errno
import hashlib
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import StoreUnavailableError, UploadConflictError
from service.servicers import blocks as blocks_module
from service.servicers.blocks import Blocks
from service.store import partial_file
from service.store.partial_file import ALIGNMENT_BYTES, PartialFile

BLOCK_BYTES = 2 * ALIGNMENT_BYTES


def aligned(data: bytes) -> memoryview:
    memory = mmap.mmap(-1, max(len(data), 1))
    memory[: len(data)] = data
    return memoryview(memory)[: len(data)]


async def received(path: Path, offset: int, chunks: list[bytes]) -> str:
    file = PartialFile(path, offset)
    blocks = Blocks(file)
    for chunk in chunks:
        await blocks.add(chunk)
    await blocks.close()
    file.close()
    return file.sha256


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from((1, 500, ALIGNMENT_BYTES, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES)), max_size=8),
    cut=st.integers(0, 4 * BLOCK_BYTES),
    is_direct=st.booleans(),
)
async def test_whatever_the_chunks_and_the_cut_the_file_and_its_digest_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], cut: int, is_direct: bool
) -> None:
    path = tmp_path / "upload"
    path.unlink(missing_ok=True)
    monkeypatch.setattr(blocks_module, "_BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(partial_file, "_DIRECT", getattr(os, "O_DIRECT", 0) if is_direct else 0)
    chunks = [os.urandom(size) for size in sizes]
    whole = b"".join(chunks)
    await received(path, 0, chunks)
    assert path.read_bytes() == whole
    offset = min(cut, len(whole))
    digest = await received(path, offset, [whole[offset:]] if whole[offset:] else [])
    assert path.read_bytes() == whole
    assert digest == hashlib.sha256(whole).hexdigest()


def test_a_file_system_that_refuses_direct_writes_gets_usual_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PartialFile(tmp_path / "upload", 0)
    write, refused = os.pwrite, []

    def picky(descriptor: int, data: memoryview, offset: int) -> int:
        if descriptor == file._direct:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", picky)
    data = os.urandom(3 * ALIGNMENT_BYTES)
    file.append(aligned(data))
    file.append(aligned(data))
    file.close()
    assert (tmp_path / "upload").read_bytes() == 2 * data
    assert len(refused) <= 1, "asked once, not at every block"


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write = PartialFile(tmp_path / "upload", 0), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:ALIGNMENT_BYTES], offset))
    data = os.urandom(3 * ALIGNMENT_BYTES + 5)
    file.append(aligned(data))
    file.close()
    assert (tmp_path / "upload").read_bytes() == data
    assert file.size_bytes == len(data)


def test_a_full_disk_is_said_without_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PartialFile(tmp_path / "upload", 0)

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreUnavailableError, match=r"No space left on device\); resume") as error:
        file.append(b"abc")
    assert str(tmp_path) not in str(error.value)
    file.close()


def test_a_shorter_file_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"abc")
    with pytest.raises(UploadConflictError, match="committed size 3"):
        PartialFile(tmp_path / "upload", 4)
