"""Recognises pickled models, so that their owners are told how to export them instead. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

from service.intake.archives import open_zip
from service.intake.errors import IntakeError, refusing
from service.intake.limits import IntakeLimits

_EXPORT_ADVICE = (
    "a pickled file can run code when it is opened and is never loaded here. Export the model on your side:\n"
    "    import torch\n"
    "    program = torch.export.export(model.eval(), (torch.zeros(2, 3, 224, 224),))  # your input's shape\n"
    '    torch.export.save(program, "model.pt2")'
)


def refuse_pickle(path: Path, limits: IntakeLimits) -> None:
    """Recognise ``torch.save`` files, TorchScript and plain pickles by their first bytes and names, without opening them.

    Raises:
        IntakeError: code ``pickled``, with the lines that export the model properly.
    """
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise IntakeError("pickled", f"the file is a Python pickle (torch.save); {_EXPORT_ADVICE}", "format")
    with refusing("unreadable", "not a readable archive", "model"):
        if not zipfile.is_zipfile(path):
            return
        with open_zip(path, limits) as archive:
            names = archive.namelist()
    top = {name.partition("/")[2] for name in names}
    if "constants.pkl" in top:
        raise IntakeError("pickled", f"the file is a TorchScript archive; {_EXPORT_ADVICE}", "format")
    if "data.pkl" in top and not any(name.startswith("models/") or "serialized_exported_program" in name for name in top):
        raise IntakeError("pickled", f"the file was written by torch.save; {_EXPORT_ADVICE}", "format")
