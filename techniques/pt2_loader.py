"""Loads a checked archive: raw tensors and cleaned program go to a fresh archive, which ``torch.export.load`` reads."""

from __future__ import annotations

import io

import torch
import torch.ao.quantization.fx._decomposed  # registers the quantized_decomposed operators
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveWriter

from techniques.errors import UnsupportedNetworkError
from techniques.pt2_archive import HOW_TO_EXPORT, CheckedArchive


def load(archive: CheckedArchive) -> ExportedProgram:
    """The program of a checked archive. No entry of the rebuilt archive is a pickle; sample inputs are left empty.

    Raises:
        UnsupportedNetworkError: torch cannot read the program (written by another version, or inconsistent).
    """
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        writer.write_string(f"models/{archive.model_name}.json", archive.program)
        writer.write_bytes(f"data/sample_inputs/{archive.model_name}.pt", b"")
        for name, content in archive.payloads.items():
            writer.write_bytes(name, content)
    buffer.seek(0)
    try:
        return torch.export.load(buffer)
    except Exception as error:  # any exception of torch's deserializer: the archive is safe but not readable
        last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UnsupportedNetworkError(
            f"torch {torch.__version__} cannot read the program: {last_line[:300]}; {HOW_TO_EXPORT}"
        ) from error
