"""What other languages' clients need: protos that compile by themselves, and reflection that knows them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import google.api.field_behavior_pb2
import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos.generate import PACKAGE, PROTO_ROOT
from service.server import SERVICE_NAMES
from service.testing import InProcessServer

VENDORED = "google/api/field_behavior.proto"
PROTOS = sorted(str(path.relative_to(PROTO_ROOT)) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))


def test_the_protos_compile_with_nothing_but_their_folder(tmp_path: Path) -> None:
    written = tmp_path / "all.binpb"
    options = ["-I", str(PROTO_ROOT), "--include_imports", f"--descriptor_set_out={written}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *PROTOS], check=True, cwd=tmp_path)
    names = {file.name for file in FileDescriptorSet.FromString(written.read_bytes()).file}
    assert {*PROTOS, VENDORED} <= names


def test_googles_proto_is_the_one_of_its_package() -> None:
    installed = Path(google.api.field_behavior_pb2.__file__).with_name("field_behavior.proto")
    assert (PROTO_ROOT / VENDORED).read_bytes() == installed.read_bytes(), "copy it again"


@pytest.mark.parametrize("service", SERVICE_NAMES)
def test_reflection_serves_a_service_with_all_that_it_imports(service: str, server: InProcessServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        known: dict[str, FileDescriptorProto] = {}
        wanted = [database.FindFileContainingSymbol(service).name]
        while wanted:
            file = database.FindFileByName(wanted.pop())
            known[file.name] = file
            wanted += [name for name in file.dependency if name not in known]
    assert VENDORED in known
    assert any(extension.name == "field_behavior" for extension in known[VENDORED].extension)
