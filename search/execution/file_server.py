"""The worker's files for trials on other machines: read in blocks, by content, and every byte counted.

A trial on another node asks an actor on the worker's own machine for what its node does not have yet (`NodeFiles`), and hands in
what it wrote. So nothing is put into the object store as a whole, and nothing travels to a machine that has it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.execution.cluster import own_node

BLOCK_BYTES = 16 * 2**20
_PARTIAL = ".partial"


class TrialFiles(Protocol):
    """What an evaluator reads and writes, as paths on the worker's machine."""

    @property
    def inputs(self) -> Sequence[Path]:
        """Files that trials read; they do not change while trials run."""
        ...

    @property
    def checkpoints(self) -> Path:
        """A folder; the files of trial 7 are called ``c0007.*``."""
        ...

    @property
    def interrupt(self) -> Path:
        """While this file exists, training stops."""
        ...

    def moved(self, inputs: Mapping[Path, Path], checkpoints: Path, interrupt: Path) -> Self:
        """The same files elsewhere."""
        ...


@dataclass(frozen=True)
class Content:
    """A file by its content; ``name`` is its path, or its name in the folder of checkpoints."""

    name: str
    sha256: str
    bytes: int


def content_of(path: Path, name: str) -> Content:
    """Read a file once to know its content."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Content(name, digest, path.stat().st_size)


class FileServer:
    """What the actor does; every method may be called from several threads.

    Args:
        inputs: the only files that are given away, beside checkpoints.
    """

    def __init__(self, inputs: Sequence[Path], checkpoints: Path, interrupt: Path) -> None:
        self._checkpoints, self._interrupt = checkpoints, interrupt
        self._lock = threading.Lock()
        self._sent: Counter[tuple[str, str]] = Counter()
        self._received: Counter[str] = Counter()
        self._inputs = {str(path): content_of(path, str(path)) for path in inputs if path.exists()}

    def inputs(self) -> list[Content]:
        """All that trials read."""
        return list(self._inputs.values())

    def checkpoints(self, number: int) -> list[Content]:
        """What trial ``number`` has handed in, or left here."""
        return [content_of(path, path.name) for path in checkpoint_files(self._checkpoints, number)]

    def block(self, name: str, offset: int, node_id: str) -> bytes:
        """A part of an input or a checkpoint."""
        path = Path(name) if name in self._inputs else self._checkpoints / Path(name).name
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(BLOCK_BYTES)
        with self._lock:
            self._sent[node_id, name] += len(data)
        return data

    def take(self, content: Content, offset: int, data: bytes, node_id: str) -> None:
        """A part of a checkpoint; with the last one the file appears as a whole.

        Raises:
            ValueError: the parts are not the file that was announced.
        """
        path = self._checkpoints / Path(content.name).name
        partial = path.with_name(f"{path.name}.{node_id[:8]}{_PARTIAL}")
        with partial.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)
        with self._lock:
            self._received[node_id] += len(data)
        if offset + len(data) >= content.bytes:
            if content_of(partial, content.name) != content:
                raise ValueError(f"{content.name} came damaged from node {node_id}")
            os.replace(partial, path)

    def interrupted(self) -> bool:
        """Whether training is to stop."""
        return self._interrupt.exists()

    def traffic(self) -> dict[str, dict[str, Any]]:
        """Per node: bytes sent to it, in all and by file, and bytes that it handed in."""
        with self._lock:
            nodes = sorted({node for node, _ in self._sent} | set(self._received))
            sent = {node: {name: count for (to, name), count in self._sent.items() if to == node} for node in nodes}
            return {
                node: {
                    "sent_bytes": sum(sent[node].values()),
                    "received_bytes": self._received[node],
                    "files": {Path(name).name: count for name, count in sent[node].items()},
                }
                for node in nodes
            }


def checkpoint_files(folder: Path, number: int) -> list[Path]:
    """The whole files of a trial."""
    return sorted(path for path in folder.glob(f"c{number:04d}.*") if path.suffix not in (".tmp", _PARTIAL))


class Files(Protocol):
    """What `NodeFiles` asks for: a `FileServer`, or one that is elsewhere."""

    def inputs(self) -> list[Content]:
        """See `FileServer`."""
        ...

    def checkpoints(self, number: int) -> list[Content]:
        """See `FileServer`."""
        ...

    def block(self, name: str, offset: int, node_id: str) -> bytes:
        """See `FileServer`."""
        ...

    def take(self, content: Content, offset: int, data: bytes, node_id: str) -> None:
        """See `FileServer`."""
        ...

    def interrupted(self) -> bool:
        """See `FileServer`."""
        ...


class RemoteFileServer:
    """The actor's methods as plain calls, each of which may raise a `ray.exceptions.RayError`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def inputs(self) -> list[Content]:
        """See `FileServer`."""
        found: list[Content] = ray.get(self._actor.inputs.remote())
        return found

    def checkpoints(self, number: int) -> list[Content]:
        """See `FileServer`."""
        found: list[Content] = ray.get(self._actor.checkpoints.remote(number))
        return found

    def block(self, name: str, offset: int, node_id: str) -> bytes:
        """See `FileServer`."""
        return bytes(ray.get(self._actor.block.remote(name, offset, node_id)))

    def take(self, content: Content, offset: int, data: bytes, node_id: str) -> None:
        """See `FileServer`."""
        ray.get(self._actor.take.remote(content, offset, data, node_id))

    def interrupted(self) -> bool:
        """See `FileServer`."""
        return bool(ray.get(self._actor.interrupted.remote()))

    def traffic(self) -> dict[str, dict[str, Any]]:
        """See `FileServer`."""
        found: dict[str, dict[str, Any]] = ray.get(self._actor.traffic.remote())
        return found


@dataclass(frozen=True)
class FileSource:
    """Where trials get files from.

    Attributes:
        node_id: its node; trials on it use the worker's files as they are.
    """

    server: RemoteFileServer
    node_id: str


def start_file_server(files: TrialFiles) -> FileSource:
    """An actor on the worker's own machine; ends with the search."""
    node_id = own_node().node_id
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=8)(FileServer)
    server = actor.options(scheduling_strategy=here).remote(tuple(files.inputs), files.checkpoints, files.interrupt)
    return FileSource(RemoteFileServer(server), node_id)
