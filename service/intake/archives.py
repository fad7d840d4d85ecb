"""Files of a zip, a tar or a folder under one face: names are checked first, nothing is ever unpacked to disk."""

from __future__ import annotations

import os
import stat
import tarfile
import unicodedata
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Self

from service.intake.errors import IntakeError, ProblemLog, reason, refusing
from service.intake.limits import IntakeLimits

_CLUTTER = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"})
_LOOSELY_PACKED = frozenset({".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".csv", ".tsv"})
"""Of these a sound file (a black picture, a table of equal rows) packs a thousandfold: only their bytes are limited."""
_RATIO_MATTERS_FROM_BYTES = 1 << 20


class FileSource(ABC):
    """Regular files by safe relative name, in the order in which they are quickest to read.

    Names are in Unicode's composed form (NFC): what macOS writes in two characters is found by a table that has one.
    Building one notes every unsafe name, link, device, double name and oversize file in the log; those are not listed.

    Raises:
        IntakeError: not an archive, or too large to look through.
    """

    def __init__(self, path: Path, limits: IntakeLimits, log: ProblemLog) -> None:
        self.path = path
        self.files: dict[str, int] = {}
        self.folders: set[str] = set()
        self._limits = limits
        self._log = log
        self._total_bytes = 0

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All bytes of one of ``files``; OSError or ValueError if they are damaged."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the archive."""

    def _accept(self, name: str, size: int, is_folder: bool, packed_size: int | None = None) -> bool:
        """Whether an entry is listed; counts it against the limits."""
        if len(self.files) + len(self.folders) >= self._limits.entry_count:
            raise IntakeError("too_large", f"the archive has more than {self._limits.entry_count:,} entries", "dataset")
        danger = unsafe_name(name)
        if not danger and len(name) > self._limits.text_length:
            danger = f"a name of {len(name):,} characters; at most {self._limits.text_length:,} are taken"
        if danger:
            self._log.error(name, danger)
            return False
        clean = clean_name(name)
        if any(part.lower() in _CLUTTER or part.startswith(".") for part in PurePosixPath(clean).parts):
            return False
        if is_folder:
            self.folders.add(clean)
            return False
        if clean in self.files:
            self._log.error(clean, "two entries have this name")
            return False
        self._check_size(clean, size, packed_size)
        self.files[clean] = size
        return True

    def _check_size(self, name: str, size: int, packed_size: int | None) -> None:
        if size > self._limits.entry_bytes:
            raise IntakeError("too_large", f"{name}: {size:,} bytes, at most {self._limits.entry_bytes:,} per file", "dataset")
        is_tight = PurePosixPath(name).suffix.lower() not in _LOOSELY_PACKED
        if (
            packed_size is not None
            and is_tight
            and size > max(_RATIO_MATTERS_FROM_BYTES, packed_size * self._limits.compression_ratio)
        ):
            message = f"{name}: unpacks to more than {self._limits.compression_ratio} times its size, as a zip bomb does"
            raise IntakeError("too_large", message, "dataset")
        self._total_bytes += size
        if self._total_bytes > self._limits.dataset_bytes:
            raise IntakeError("too_large", f"the files are more than {self._limits.dataset_bytes:,} bytes in all", "dataset")


class ZipSource(FileSource):
    """A zip archive."""

    def __init__(self, path: Path, limits: IntakeLimits, log: ProblemLog) -> None:
        super().__init__(path, limits, log)
        self._entries: dict[str, zipfile.ZipInfo] = {}
        with refusing("unreadable", "not a readable zip archive", "dataset"):
            self._archive = open_zip(path, limits)
        for info in self._archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
                log.error(info.filename, "is a link or a device; put the file itself into the archive")
            elif info.flag_bits & 1:
                log.error(info.filename, "is encrypted")
            elif self._accept(info.filename, info.file_size, info.filename.endswith("/"), info.compress_size):
                self._entries[clean_name(info.filename)] = info

    def read(self, name: str) -> bytes:
        """Bytes of an entry; its size was declared and is enforced."""
        try:
            with self._archive.open(self._entries[name]) as file:
                data = file.read(self.files[name] + 1)
        except MemoryError:
            raise
        except Exception as error:  # five decompressors, each with errors of its own
            raise ValueError(reason(error)) from error
        if len(data) != self.files[name]:
            raise ValueError("is not as long as the archive says")
        return data

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


class TarSource(FileSource):
    """A tar archive, plain or packed with gzip, bzip2 or xz; read front to back."""

    def __init__(self, path: Path, limits: IntakeLimits, log: ProblemLog) -> None:
        super().__init__(path, limits, log)
        self._members: dict[str, tarfile.TarInfo] = {}
        with refusing("unreadable", "not a readable tar archive", "dataset"):
            kind: type[_Member] = type("_Member", (_Member,), {"max_header_bytes": limits.header_bytes})
            self._archive = tarfile.open(path, "r:*", tarinfo=kind)  # noqa: SIM115 - open for the life of the source
            for count, member in enumerate(self._archive, 1):
                if count > limits.entry_count:
                    raise IntakeError("too_large", f"the archive has more than {limits.entry_count:,} entries", "dataset")
                if not (member.isreg() or member.isdir()):
                    log.error(member.name, "is a link or a device; put the file itself into the archive")
                    self._check_size(member.name, member.size, None)  # it is read over
                elif self._accept(member.name, member.size, member.isdir()):
                    self._members[clean_name(member.name)] = member
            if any(kind.last_block):  # the library takes a damaged header for the end, and would drop what follows unseen
                raise ValueError(f"the header behind {len(self.files)} files is damaged")

    def read(self, name: str) -> bytes:
        """Bytes of a member."""
        try:
            file = self._archive.extractfile(self._members[name])
            return file.read() if file else b""
        except MemoryError:
            raise
        except Exception as error:  # four decompressors, each with errors of its own
            raise ValueError(reason(error)) from error

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


class _Member(tarfile.TarInfo):
    """Extended headers are held in memory, so their size is checked before they are read. One class per archive."""

    max_header_bytes = 0
    last_block = b""
    _extended = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
    _extended |= {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Remember the block that a header is read from."""
        cls.last_block = bytes(buf)
        return super().frombuf(buf, encoding, errors)

    def _proc_member(self, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in self._extended and not 0 <= self.size <= self.max_header_bytes:
            words = f"an extended header of {self.size:,} bytes; at most {self.max_header_bytes:,} are taken"
            raise IntakeError("too_large", words, "dataset")
        return super()._proc_member(tarfile)  # type: ignore[misc,no-any-return]


class FolderSource(FileSource):
    """A folder of the server; links inside it are not followed."""

    def __init__(self, path: Path, limits: IntakeLimits, log: ProblemLog) -> None:
        super().__init__(path, limits, log)
        self._names: dict[str, str] = {}
        for folder, subfolders, files in os.walk(path, followlinks=False):
            subfolders.sort()
            for leaf in [*subfolders, *sorted(files)]:
                entry = Path(folder, leaf)
                name = entry.relative_to(path).as_posix()
                if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                    log.error(name, "is a link or a device; links are not followed")
                elif self._accept(name, entry.stat().st_size, entry.is_dir()):
                    self._names[clean_name(name)] = name

    def close(self) -> None:
        """Nothing is held open."""

    def read(self, name: str) -> bytes:
        """Bytes of a file; a link that took its place meanwhile is refused."""
        descriptor = os.open(self.path / self._names[name], os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(self._limits.entry_bytes)


def open_zip(path: Path, limits: IntakeLimits) -> zipfile.ZipFile:
    """Open a zip whose table of contents is not too long to be read into memory.

    Raises:
        IntakeError: the table of contents is too long.
        zipfile.BadZipFile: no zip; other errors of `zipfile` as well.
    """
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    directory_bytes = end[zipfile._ECD_SIZE] if end else 0  # type: ignore[attr-defined]
    if directory_bytes > limits.directory_bytes:
        words = f"a table of contents of {directory_bytes:,} bytes; at most {limits.directory_bytes:,} are taken"
        raise IntakeError("too_large", words, "dataset")
    return zipfile.ZipFile(path)


def clean_name(name: str) -> str:
    """A safe name as it is listed: without empty parts, in Unicode's form NFC."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name)))


def unsafe_name(name: str) -> str:
    """Why an entry's name could leave the archive's own folder; empty when it cannot."""
    parts = name.split("/")
    if not any(parts):
        return "is no name"
    if name.startswith("/") or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
        return "is an absolute path, or has a backslash or NUL in it"
    if any("\ud800" <= c <= "\udfff" for c in name):
        return "is no text in UTF-8"
    if ".." in parts:
        return "leads out of the archive (..)"
    return ""
