"""Callers of a server with authentication, and raw calls of any rpc."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import paretopress.v1
from paretopress.errors import RequestRefusedError, from_rpc_error
from service.access.granting import grant_token
from service.access.principal import Scope
from service.access.rules import rule_of
from service.converters.access import TokenRequest
from service.store.access_store import AccessStore
from service.store.database import Database
from service.testing import InProcessServer


def secret(server: InProcessServer, project: str, scope: Scope = Scope.ADMIN, **changes: Any) -> str:
    """A fresh token of a server, made on its database as an operator would."""
    asked = TokenRequest(**{**_request(project, scope), **changes})
    database = Database(server.settings.resolved_database_url)
    try:
        return grant_token(AccessStore(database), asked, "test")[1].text
    finally:
        database.close()


def _request(project: str, scope: Scope) -> dict[str, Any]:
    return {"project": project, "scope": scope, "display_name": "", "all_projects": False, "expire_time": time.time() + 3600}


def methods() -> list[str]:
    """Every rpc of every service: those of all our protos, health and reflection."""
    files: list[FileDescriptor] = [health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    for path in sorted(Path(str(paretopress.v1.__file__)).parent.glob("*_pb2.py")):
        files.append(__import__(f"paretopress.v1.{path.stem}", fromlist=["DESCRIPTOR"]).DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def descriptor_of(method: str) -> MethodDescriptor:
    """An rpc's types."""
    from google.protobuf.descriptor_pool import Default

    service, name = method[1:].split("/")
    return Default().FindServiceByName(service).methods_by_name[name]


def request_about(method: str, resource: str, references: Callable[[str], str]) -> Message:
    """A request of an rpc whose resource is ``resource`` and whose other names are what ``references`` gives for a field."""
    request: Message = GetMessageClass(descriptor_of(method).input_type)()
    rule = rule_of(method)
    for path in filter(None, (rule.resource, *rule.references)):
        place, parts = request, path.split(".")
        for part in parts[:-1]:
            place = getattr(place, part)
        value = resource if path == rule.resource else references(parts[-1])
        if isinstance(getattr(place, parts[-1]), str):
            setattr(place, parts[-1], value)
        else:
            getattr(place, parts[-1]).append(value)
    return request


@contextmanager
def channel_of(server: InProcessServer) -> Iterator[grpc.Channel]:
    """A bare connection."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def call(channel: grpc.Channel, method: str, request: Message, token: str = "") -> list[Any]:
    """Call any rpc.

    Raises:
        RequestRefusedError: as the client would.
    """
    found = descriptor_of(method)
    kind = f"{'stream' if found.client_streaming else 'unary'}_{'stream' if found.server_streaming else 'unary'}"
    answer_type = GetMessageClass(found.output_type)
    stub = getattr(channel, kind)(method, type(request).SerializeToString, answer_type.FromString)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        answer = stub(iter([request]) if found.client_streaming else request, metadata=metadata, timeout=10)
        return list(answer) if found.server_streaming else [answer]
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def outcome(channel: grpc.Channel, method: str, request: Message, token: str = "") -> grpc.StatusCode:
    """How a call ends."""
    try:
        call(channel, method, request, token)
    except RequestRefusedError as error:
        return error.code
    return grpc.StatusCode.OK


def refusal(channel: grpc.Channel, method: str, request: Message, token: str = "") -> RequestRefusedError:
    """How a call is refused; an answer is a failure."""
    try:
        answers = call(channel, method, request, token)
    except RequestRefusedError as error:
        return error
    raise AssertionError(f"{method} answered {answers}")
