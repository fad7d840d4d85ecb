"""A trial's files on its own node: the worker's where they are in reach, copies by content where they are not.

Copies lie in one folder per node and user, named by sha256 and fetched once, however many trials of a node need them. They
outlive the search, for the next one on the same data, and the oldest go when there are too many.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from ray.exceptions import RayError

from search.execution.file_server import BLOCK_BYTES, Content, Files, TrialFiles, checkpoint_files, content_of

CACHE_BYTES = 20 * 2**30
_INTERRUPT_POLL_S = 1.0
F = TypeVar("F", bound=TrialFiles)


class NodeFiles:
    """Files of the trials of one process, which runs on another machine than the worker.

    Args:
        server: where they are.
    """

    def __init__(self, server: Files, node_id: str, cache: Path | None = None) -> None:
        self._server, self._node_id = server, node_id
        self._cache = cache or cache_folder()
        self._own = self._cache / f"process-{os.getpid()}"
        self._handed_in: dict[str, Content] = {}
        _forget_dead(self._cache)
        shutil.rmtree(self._own, ignore_errors=True)
        self._checkpoints.mkdir(parents=True)
        threading.Thread(target=self._mirror_interrupt, name="interrupt", daemon=True).start()

    @property
    def _checkpoints(self) -> Path:
        return self._own / "checkpoints"

    def place(self, files: F) -> F:
        """The same files where this process can read them; fetches what is not here."""
        inputs = {Path(one.name): self._local(one) for one in self._server.inputs()}
        make_room(self._cache, keep={path.name for path in inputs.values()})
        return files.moved(inputs, self._checkpoints, self._own / "interrupt")

    def begin(self, number: int) -> None:
        """Bring the checkpoints of a trial that another node began."""
        for content in self._server.checkpoints(number):
            self._fetch(content, self._checkpoints / content.name)
            self._handed_in[content.name] = content

    def hand_in(self, number: int) -> None:
        """Send what the trial has written since the last time. What gets lost is only time: it can be trained again."""
        for path in checkpoint_files(self._checkpoints, number):
            content = content_of(path, path.name)
            if self._handed_in.get(path.name) != content:
                with contextlib.suppress(RayError):
                    self._send(path, content)
                    self._handed_in[path.name] = content

    def end(self, number: int) -> None:
        """The trial is over here."""
        for path in checkpoint_files(self._checkpoints, number):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave nothing but the copies by content."""
        shutil.rmtree(self._own, ignore_errors=True)

    def _local(self, content: Content) -> Path:
        path = Path(content.name)
        if _is_here(path, content):
            return path
        copy = self._cache / content.sha256
        # By the digest's first digit: a lock's file cannot be deleted safely, so there is a fixed number of them.
        with _locked(self._cache / f"{content.sha256[0]}.lock"):
            if copy.exists():
                os.utime(copy)
            else:
                self._fetch(content, copy)
        return copy

    def _fetch(self, content: Content, path: Path) -> None:
        # In the process's own folder: whoever comes next deletes it if this process is killed.
        partial, digest = self._own / f"{path.name}.tmp", hashlib.sha256()
        with partial.open("wb") as file:
            for offset in range(0, content.bytes, BLOCK_BYTES):
                data = self._server.block(content.name, offset, self._node_id)
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != content.sha256:
            partial.unlink()
            raise OSError(f"{content.name} came damaged to node {self._node_id}")
        os.replace(partial, path)

    def _send(self, path: Path, content: Content) -> None:
        with path.open("rb") as file:
            for offset in range(0, content.bytes, BLOCK_BYTES):
                self._server.take(content, offset, file.read(BLOCK_BYTES), self._node_id)

    def _mirror_interrupt(self) -> None:
        """What stops trials is a file on the worker's machine."""
        while self._own.exists():
            with contextlib.suppress(RayError, OSError):
                if self._server.interrupted():
                    (self._own / "interrupt").touch()
            time.sleep(_INTERRUPT_POLL_S)


def _is_here(path: Path, content: Content) -> bool:
    """Whether the worker's path leads to the same content here: a shared file system, or another node on the worker's machine.

    What may not be looked at, such as another user's home, is not here.
    """
    with contextlib.suppress(OSError):
        return path.is_file() and path.stat().st_size == content.bytes and content_of(path, content.name) == content
    return False


def cache_folder() -> Path:
    """This user's folder for copies, below ``TMPDIR``.

    Raises:
        PermissionError: it is somebody else's, who could have put anything into it.
    """
    folder = Path(tempfile.gettempdir()) / f"paretopress-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def make_room(cache: Path, keep: set[str], most_bytes: int = CACHE_BYTES) -> None:
    """Delete the copies that were not used for longest, until the others take no more than ``most_bytes``."""
    copies = []
    for path in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            if len(path.name) == 64:
                copies.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in copies)
    for _, size, path in sorted(copies):
        if total > most_bytes and path.name not in keep:
            total -= size
            path.unlink(missing_ok=True)


def _forget_dead(cache: Path) -> None:
    """Folders of processes that were killed."""
    for folder in cache.glob("process-*"):
        if not Path(f"/proc/{folder.name.removeprefix('process-')}").exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this node at a time; a killed one lets go."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
