"""How large an upload may be, and which server-side paths may be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.intake.errors import IntakeError

GIB = 1 << 30


@dataclass(frozen=True)
class IntakeLimits:
    """Upper limits, all checked before the thing itself is read or made. Each keeps a small file from becoming a large job.

    Attributes:
        model_bytes, dataset_bytes: size of an uploaded file (what one stream may bring); also of a dataset's pixels once
            decoded, since they are held in memory.
        entry_count, entry_bytes: files in an archive, and bytes of one of them: a photo has few megabytes.
        directory_bytes: of a zip's table of contents, which is read before any entry can be counted.
        header_bytes: of a tar's extended header or an array's header, which are read before they can be judged.
        compression_ratio: unpacked over packed, for entries of more than a megabyte that no image needs: photos stay below 20.
            Arrays in proportion to the images, tables and unpacked image formats pack any number of times: their bytes are limited.
        image_pixels: width times height of one image, as its header states it: decoding takes four bytes for each.
        image_count: images of a dataset; each one costs some hundred bytes beside its pixels.
        class_count, class_names_bytes: classes of a dataset, and their names in all: they travel in one message.
        text_length: characters of a file's name, a class, a group or any other text of an upload.
        group_columns: columns of a table beside label, split and pixels.
        model_nodes, model_tensors: of a network's graph: tracing takes milliseconds for each. The deepest known nets have 10,000.
        tensor_elements: of one weight: half the file's limit in 8-bit numbers and more.
        input_elements: of the input that a network was exported with, batch included: it is run once to check the import.
        json_bytes: of a program's text: parsing takes ten times that in memory.
    """

    model_bytes: int = 2 * GIB
    dataset_bytes: int = 2 * GIB
    entry_count: int = 500_000
    entry_bytes: int = GIB // 16
    directory_bytes: int = GIB // 8
    header_bytes: int = 1 << 20
    compression_ratio: int = 200
    image_pixels: int = 50_000_000
    image_count: int = 5_000_000
    class_count: int = 100_000
    class_names_bytes: int = 1 << 20
    text_length: int = 1000
    group_columns: int = 64
    model_nodes: int = 50_000
    model_tensors: int = 100_000
    tensor_elements: int = 2**31
    input_elements: int = 2**26
    json_bytes: int = GIB // 8


def check_file(path: Path, max_bytes: int, what: str) -> None:
    """Refuse what is no regular file, is empty, or is too large.

    Raises:
        IntakeError: with the size and the limit.
    """
    if path.is_symlink() or not path.is_file():
        raise IntakeError("not_found", f"{what}: {path.name} is not a regular file", what)
    size = path.stat().st_size
    if size == 0:
        raise IntakeError("unreadable", f"{what}: the file is empty", what)
    if size > max_bytes:
        raise IntakeError("too_large", f"{what}: {size:,} bytes, at most {max_bytes:,} are taken", what)


def resolve_under_roots(path: str, roots: Sequence[Path]) -> Path:
    """The real path of a server-side dataset, if it lies under a configured root once all links are followed.

    A relative path is looked up under each root in turn.

    Raises:
        IntakeError: no roots are configured, the path leaves them, or nothing is there. What exists outside is not told.
    """
    if not roots:
        message = "server-side paths are off: no dataset_roots are configured; upload the data instead"
        raise IntakeError("not_allowed", message, "path")
    if not path or "\0" in path:
        raise IntakeError("bad_option", "path: must not be empty or contain NUL", "path")
    for root in (Path(os.path.realpath(r)) for r in roots):
        real = Path(os.path.realpath(root / path))
        if real.is_relative_to(root) and real.exists():
            return real
    raise IntakeError("not_allowed", f"path: {path!r} is not an existing path under the configured dataset_roots", "path")
