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
    """Upper limits, all checked before the thing itself is read.

    Attributes:
        model_bytes, dataset_bytes: size of an uploaded file; also of a dataset's pixels once decoded.
        entry_count, entry_bytes: files in an archive, and bytes of one of them.
        compression_ratio: unpacked over packed, for entries of more than a megabyte.
        image_pixels: width times height of one image.
        class_count: classes of a dataset.
    """

    model_bytes: int = 2 * GIB
    dataset_bytes: int = 2 * GIB
    entry_count: int = 500_000
    entry_bytes: int = GIB // 16
    compression_ratio: int = 200
    image_pixels: int = 50_000_000
    class_count: int = 100_000


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
