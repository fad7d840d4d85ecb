"""Every limit of intake is told with its number and what was found; and what the fuzzing has found once stays found."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from search.errors import FieldViolation
from search.preprocessing import Preprocessing
from service.errors import ErrorFacts, describe_error, to_status
from service.importing import LEFT_OVER_AFTER_S, SandboxImporter
from service.intake.dataset_readers import read_dataset
from service.intake.errors import IntakeError, Problem, printable
from service.intake.image_table import DatasetOptions
from service.intake.limits import IntakeLimits
from service.intake.model_readers import read_model
from service.intake.pickles import refuse_pickle
from service.store.blobs import FsspecBlobStore
from tests.fuzzing.corpus import Corpus, pt2_archive, saved_arrays, tarred, zipped
from tests.fuzzing.onnx_mutators import many_nodes
from tests.fuzzing.zip_mutators import zip64_lie

SMALL = Preprocessing(4, 4, 1, resize="shortest_side", crop="center")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.make(tmp_path_factory.mktemp("outside") / "outside")


def refused_dataset(path: Path, format: str, limits: IntakeLimits | None = None) -> IntakeError:
    """The child's part, in this process."""
    options, chosen = asdict(DatasetOptions()), asdict(limits or IntakeLimits())
    with pytest.raises(IntakeError) as caught:
        read_dataset(str(path), format, SMALL.to_json(), options, chosen, str(path.with_suffix(".out")))
    return caught.value


def refused_model(path: Path, format: str, limits: IntakeLimits | None = None) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        read_model(str(path), format, {}, asdict(limits or IntakeLimits()), str(path.parent))
    return caught.value


# --- datasets


def long_pax_header(corpus: Corpus) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 5000
    return info.tobuf() + bytes(5120) + tarred(corpus.files)


def csv_table(header: str, cells: str) -> bytes:
    pixels = ",".join(f"pixel{i}" for i in range(16))
    return "\n".join([f"label,{pixels},{header}", *(f"0,{'1,' * 16}{cells}" for _ in range(12))]).encode()


@dataclass(frozen=True)
class TooMuch:
    """A file that breaks one limit; the message names the limit and what was found."""

    format: str
    content: Callable[[Corpus], bytes]
    limits: IntakeLimits
    says: tuple[str, ...]


def _long_names(corpus: Corpus) -> bytes:
    return saved_arrays({**corpus.arrays, "class_names": np.array(["a" * 60, "b", "c"])})


TOO_MUCH = {
    "table of contents of a zip": TooMuch(
        "zip", lambda c: zipped(c.files), IntakeLimits(directory_bytes=1000), ("table of contents of 1,", "at most 1,000")
    ),
    "table of contents of an npz": TooMuch(
        "npz", lambda c: saved_arrays(c.arrays), IntakeLimits(directory_bytes=100), ("table of contents of 1", "at most 100")
    ),
    "extended header of a tar": TooMuch("tar", long_pax_header, IntakeLimits(header_bytes=4096), ("5,000 bytes", "at most 4,096")),
    "members of a tar": TooMuch("tar", lambda c: tarred(c.files), IntakeLimits(entry_count=9), ("more than 9 entries",)),
    "file name": TooMuch(
        "zip", lambda c: zipped({**c.files, "cat/" + "n" * 50: b"x"}), IntakeLimits(text_length=40), ("54 characters", "at most 40")
    ),
    "array's name": TooMuch(
        "npz",
        lambda c: saved_arrays({**c.arrays, "x" * 50: np.ones(2)}),
        IntakeLimits(text_length=40),
        ("54 characters", "at most 40"),
    ),
    "images": TooMuch("npz", lambda c: saved_arrays(c.arrays), IntakeLimits(image_count=23), ("24 images", "at most 23")),
    "class name": TooMuch("npz", _long_names, IntakeLimits(text_length=59), ("60 characters", "at most 59")),
    "class names in all": TooMuch("npz", _long_names, IntakeLimits(class_names_bytes=61), ("62 bytes", "at most 61")),
    "classes": TooMuch("npz", lambda c: saved_arrays(c.arrays), IntakeLimits(class_count=2), ("2", "class")),
    "group columns": TooMuch(
        "csv", lambda c: csv_table("a,b,c", "1,1,1"), IntakeLimits(group_columns=2), ("3 columns", "at most 2")
    ),
    "group's value": TooMuch(
        "csv", lambda c: csv_table("a", "x" * 99), IntakeLimits(text_length=98), ("99 characters", "at most 98")
    ),
    "ratio of an npz": TooMuch(
        "npz",
        lambda c: saved_arrays({**c.arrays, "group_a": np.zeros((24, 1 << 17))}, packed=True),
        IntakeLimits(compression_ratio=50),
        ("50 times", "zip bomb"),
    ),
    "pixels once resized": TooMuch(
        "npz",
        lambda c: saved_arrays({"images": np.zeros((12, 1, 5_000_000), np.uint8)}),
        IntakeLimits(),
        ("4x20000000", "50,000,000"),
    ),
}


@pytest.mark.parametrize("case", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_a_dataset_beyond_a_limit_is_told_limit_and_value(case: TooMuch, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(case.content(corpus))
    error = refused_dataset(tmp_path / "up", case.format, case.limits)
    for words in case.says:
        assert words in error.message, error.message


def bad_header(text: bytes) -> Callable[[Corpus], bytes]:
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    return lambda corpus: zipped({"images.npy": header + bytes(64)})


def surrogate_name(corpus: Corpus) -> bytes:
    return tarred(corpus.files).replace(b"cat/1.jpg", b"\xff\xfe\xfd/1.jpg")


def _repacked_checksum(archive: bytes) -> bytes:
    """Checksums of changed headers put right."""
    blocks = bytearray(archive)
    for start in range(0, len(blocks) - 512, 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = f"{sum(blocks[start : start + 512]):06o}\0 ".encode()
    return bytes(blocks)


def many_headers(corpus: Corpus) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    return info.tobuf() * 3000 + tarred(corpus.files)


def truncated_xz(corpus: Corpus) -> bytes:
    packed = bytearray(tarred(corpus.files, "xz"))
    packed[40] ^= 0xFF
    return bytes(packed)


def wrong_method(corpus: Corpus) -> bytes:
    """An entry that says it is packed with LZMA."""
    archive = bytearray(zipped(corpus.files, zipfile.ZIP_STORED))
    at = archive.find(b"PK\x01\x02")
    local = archive.find(b"PK\x03\x04")
    archive[at + 10 : at + 12] = archive[local + 8 : local + 10] = (14).to_bytes(2, "little")
    return bytes(archive)


@dataclass(frozen=True)
class Found:
    """What once ended the reader with an error of its own."""

    format: str
    content: Callable[[Corpus], bytes]
    code: str
    says: str


def damaged_header(corpus: Corpus) -> bytes:
    """The reader once took it for the end, and the images behind were lost without a word."""
    archive = bytearray(tarred(corpus.files))
    archive[archive.find(b"dog/20")] ^= 1
    return bytes(archive)


def nameless(corpus: Corpus) -> bytes:
    archive = zipped({**corpus.files, "#": b"x"}, zipfile.ZIP_STORED)
    at = archive.rfind(b"PK\x01\x02")
    directory = archive[at : at + 28] + b"\0\0" + archive[at + 30 : at + 46] + archive[at + 47 :]
    end = directory.rfind(b"PK\x05\x06")
    size = int.from_bytes(directory[end + 12 : end + 16], "little") - 1
    local = archive.rfind(b"PK\x03\x04", 0, at)
    body = archive[:local] + archive[local : local + 26] + b"\0\0" + archive[local + 28 : local + 30] + archive[local + 31 : at]
    offset = int.from_bytes(directory[end + 16 : end + 20], "little") - 1
    return body + directory[: end + 12] + size.to_bytes(4, "little") + offset.to_bytes(4, "little") + directory[end + 20 :]


FOUND = {
    "damaged header in the middle": Found("tar", damaged_header, "unreadable", "header behind 20 files is damaged"),
    "name of a tar that is no text": Found("tar", lambda c: _repacked_checksum(surrogate_name(c)), "bad_data", "no text in UTF-8"),
    "headers inside headers": Found("tar", many_headers, "unreadable", "levels deep"),
    "damaged xz": Found("tar", truncated_xz, "unreadable", "tar archive"),
    "unknown decompressor": Found("zip", wrong_method, "bad_data", "cannot be used"),
    "zip64 over several disks": Found("zip", lambda c: zip64_lie(Random(3), zipped(c.files)), "unreadable", "zip archive"),
    "negative shape": Found(
        "npz", bad_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4), }\n"), "unreadable", "shape (-1, 4)"
    ),
    "text of no length": Found(
        "npz", bad_header(b"{'descr': '<U0', 'fortran_order': False, 'shape': (4,), }\n"), "unreadable", "shape (4,)"
    ),
    "code in a header": Found("npz", bad_header(b"{'descr': __import__('os').getcwd(), 'shape': ()}\n"), "unreadable", "npz"),
    "class names of no length": Found(
        "npz", lambda c: saved_arrays({**c.arrays, "class_names": np.array("x")}), "bad_data", "class_names"
    ),
    "images that are one number": Found("npz", lambda c: saved_arrays({"images": np.array(3)}), "bad_data", "a single int64"),
    "entry without a name": Found("zip", nameless, "bad_data", "is no name"),
    "class names twice": Found(
        "npz", lambda c: saved_arrays({**c.arrays, "class_names": np.array(["a", "a", "b"])}), "bad_data", "each once"
    ),
    "column twice": Found("csv", lambda c: csv_table("a,a", "1,1"), "bad_data", "twice"),
}


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND.keys())
def test_what_fuzzing_found_is_refused_with_words(case: Found, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(case.content(corpus))
    error = refused_dataset(tmp_path / "up", case.format)
    assert error.code == case.code
    assert case.says in error.message, error.message


def test_a_csv_that_is_a_bomb_of_a_tar_is_opened_in_the_child_only(tmp_path: Path) -> None:
    """The calling process once asked `tarfile` and `zipfile` itself."""
    import service.intake.datasets as caller

    assert not hasattr(caller, "tarfile")
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    files = {f"{name}/{i}.png": buffer.getvalue() for name in "ab" for i in range(8)}
    (tmp_path / "up").write_bytes(tarred(files, "gz"))
    out = read_dataset(
        str(tmp_path / "up"), "csv", SMALL.to_json(), asdict(DatasetOptions()), asdict(IntakeLimits()), str(tmp_path / "o")
    )
    assert out["images"] == 16


# --- models


def _onnx(**change: Any) -> onnx.ModelProto:
    shape = change.get("shape", ["N", 1, 8, 8])
    nodes = change.get("nodes", [helper.make_node("GlobalAveragePool", ["image"], ["logits"])])
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, change.get("weights", []))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _sparse() -> onnx.ModelProto:
    """A constant whose values would be read from a file of the server."""
    node = helper.make_node("Constant", [], ["leak"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.dims.append(16)
    attribute.sparse_tensor.values.data_type = TensorProto.FLOAT
    attribute.sparse_tensor.values.data_location = TensorProto.EXTERNAL
    attribute.sparse_tensor.values.external_data.add(key="location", value="/etc/passwd")
    attribute.sparse_tensor.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "i"))
    return _onnx(nodes=[node, helper.make_node("GlobalAveragePool", ["image"], ["logits"])])


def _unknown_types() -> onnx.ModelProto:
    model = _onnx()
    model.graph.input[0].type.tensor_type.elem_type = 99
    return model


def _nan() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.full((4, 1, 3, 3), np.nan, np.float32), "w")
    nodes = [helper.make_node("Conv", ["image", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["logits"])]
    return _onnx(nodes=nodes, weights=[weight])


def _unknown_weight() -> onnx.ModelProto:
    model = _nan()
    model.graph.initializer[0].data_type = 2**31 - 1
    return model


def _no_text() -> bytes:
    return _onnx().SerializeToString().replace(b"image", b"im\xff\xfee")


@dataclass(frozen=True)
class BadModel:
    content: Callable[[], bytes]
    says: tuple[str, ...]
    limits: IntakeLimits = field(default_factory=IntakeLimits)


BAD_MODELS = {
    "a million nodes": BadModel(lambda: many_nodes(1_000_000), ("1000000 nodes", "50000")),
    "tensors": BadModel(lambda: _nan().SerializeToString(), ("1 tensors", "0 are accepted"), IntakeLimits(model_tensors=0)),
    "elements of a tensor": BadModel(
        lambda: _nan().SerializeToString(), ("36 elements", "at most 35"), IntakeLimits(tensor_elements=35)
    ),
    "elements of the input": BadModel(
        lambda: _onnx(shape=[1, 3, 30_000, 30_000]).SerializeToString(), ("2,700,000,000 elements", "67,108,864")
    ),
    "sparse constant from a file": BadModel(lambda: _sparse().SerializeToString(), ("sparse",)),
    "unknown type of the input": BadModel(lambda: _unknown_types().SerializeToString(), ("unknown type 99",)),
    "names that are no text": BadModel(_no_text, ("no text in UTF-8",)),
    "unknown type of a weight": BadModel(lambda: _unknown_weight().SerializeToString(), ("initializer 'w'",)),
    "weights that are no numbers": BadModel(lambda: _nan().SerializeToString(), ("not finite",)),
}


@pytest.mark.parametrize("case", BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_bad_onnx_files_are_refused_with_limit_and_value(case: BadModel, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(case.content())
    error = refused_model(tmp_path / "up", "onnx", case.limits)
    for words in case.says:
        assert words in error.message, error.message


def test_limits_of_a_program_are_kept(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(pt2_archive(corpus.pt2))
    assert "at most 3 are accepted" in refused_model(tmp_path / "up", "pt2", IntakeLimits(model_nodes=3)).message
    assert "128 elements; 1 to 127 are accepted" in refused_model(tmp_path / "up", "pt2", IntakeLimits(input_elements=127)).message
    assert "at most 99 are accepted" in refused_model(tmp_path / "up", "pt2", IntakeLimits(json_bytes=99)).message
    deep = b"[" * 100_000
    (tmp_path / "up").write_bytes(pt2_archive({**corpus.pt2, "models/model.json": deep}))
    assert "levels deep" in refused_model(tmp_path / "up", "pt2").message


def test_names_of_modules_must_be_names(corpus: Corpus, tmp_path: Path) -> None:
    program = json.loads(corpus.pt2["models/model.json"])
    for wrong in (7, ["x"], "__import__('os')"):
        program["graph_module"]["module_call_graph"][-1]["fqn"] = wrong
        (tmp_path / "up").write_bytes(pt2_archive({**corpus.pt2, "models/model.json": json.dumps(program).encode()}))
        assert "fqn" in refused_model(tmp_path / "up", "pt2").message


def test_operators_that_reach_into_raw_memory_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    program = json.loads(corpus.pt2["models/model.json"])
    for name in (
        "_reshape_alias",
        "_nested_view_from_buffer",
        "_sparse_coo_tensor_unsafe",
        "_test_warn_in_autograd",
        "_foreach_add_",
    ):
        program["graph_module"]["graph"]["nodes"][0]["target"] = f"torch.ops.aten.{name}.default"
        (tmp_path / "up").write_bytes(pt2_archive({**corpus.pt2, "models/model.json": json.dumps(program).encode()}))
        error = refused_model(tmp_path / "up", "pt2")
        assert (error.code, name in error.message) == ("unsafe", True)


def test_an_archive_that_no_zip_reader_takes_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    """It once ended the reader, and before that the server's own thread."""
    codes = []
    for seed in range(20):
        (tmp_path / "up").write_bytes(zip64_lie(Random(seed), pt2_archive(corpus.pt2)))
        with contextlib.suppress(IntakeError):
            refuse_pickle(tmp_path / "up", IntakeLimits())
            codes.append(seed)
    assert len(codes) < 20


# --- words


def test_names_from_uploads_cannot_command_a_terminal() -> None:
    error = IntakeError("bad_data", "cat/\x1b]0;owned\x07.png \udcff", "dataset", [Problem("a\x1b[2J", "b\x00c\u202e")])
    assert not any(c in f"{error.message}{error.problems}" for c in "\x1b\x07\0\u202e\udcff")
    assert printable("x" * 5000, 100) == "x" * 96 + " ..."


def test_errors_with_many_long_problems_fit_into_trailing_metadata() -> None:
    problems = [Problem(f"{'long/' * 50}{i}.png", "ü" * 300) for i in range(100)]
    error = IntakeError("bad_data", "é" * 5000, "dataset", problems, 5000)
    facts = describe_error(error)
    status = to_status(facts, "request")
    assert len(status.SerializeToString()) < 6000
    bad_request = next(d for d in status.details if d.type_url.endswith("BadRequest"))
    assert b"and 9" in bad_request.value
    assert len(to_status(ErrorFacts(facts.code, "R", "m", [FieldViolation("f", "d")] * 3), "r").details) == 3  # type: ignore[arg-type]


# --- what a killed server leaves


def test_old_scratch_folders_are_removed_at_the_start(tmp_path: Path) -> None:
    for name, age_s in {"old": LEFT_OVER_AFTER_S + 60, "young": 60.0}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "upload").write_bytes(b"left")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    SandboxImporter(FsspecBlobStore(str(tmp_path / "blobs")), tmp_path)
    assert (tmp_path / "young").exists()
    assert not (tmp_path / "old").exists()
