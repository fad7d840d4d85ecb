"""Malformed requests for every rpc of every service: raw bytes, damaged messages, and messages full of hostile values."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from random import Random
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

import paretopress.v1
from service.server import SERVICE_NAMES
from tests.fuzzing import json_mutators
from tests.fuzzing.byte_mutators import DAMAGE

_DEPTH = 4
_TEXTS = (
    "", "x", "\0", "a\0b", "x" * 5000, "../..", "/etc/passwd", "projects/default", "projects/other", "projects/-",
    "projects/default/models/",
    "projects/default/searches/s/candidates/c", "projects/default/targets/cpu-ort-1t",
    "'; DROP TABLE searches; --", "%s%n", "\u202e", "é" * 300,
    "{}", "[" * 5000, '{"type": "recipe", "version": 1, "steps": []}', "[" * 100_000 + "]" * 100_000, "nan", "*",
    "(a+)+$" + "a" * 40, "a" * 64,
    "* * * * *", "61 * * * *", "Europe/Berlin", "../../etc/localtime", "models:/x@y", "models:/../../etc/passwd/1", "\x1b[31m",
    "true",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 7, 100, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63))
_REALS = (0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, -0.0, 100.0)
_SOUND_NUMBERS, _SOUND_REALS = (0, 1, 2, 8), (0.0, 0.5, 1.0, 2.0)
_NEEDED = ("name", "parent", "model", "dataset", "target", "targets", "search", "budget", "latency_ms", "max_accuracy_drop_points")
_UNSIGNED = (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)

_RECIPE = {
    "type": "recipe",
    "version": 1,
    "steps": [
        {"technique": "structured_pruning", "version": 1, "config": {"ratios": {"0": 0.5}}},
        {"technique": "int8_quantization", "version": 1, "config": {}},
    ],
}
Names = Mapping[str, str]
"""Resources that exist, by kind; the search is one that has ended, the board is known from its data sheet."""


@dataclass(frozen=True)
class HostileCall:
    """One call: a path such as ``/paretopress.v1.SearchService/GetSearch`` and the raw messages to send."""

    method: MethodDescriptor
    messages: tuple[bytes, ...]

    @property
    def path(self) -> str:
        """As gRPC writes it."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


@cache
def methods() -> tuple[MethodDescriptor, ...]:
    """Every method of every service that the server has."""
    found: list[MethodDescriptor] = []
    for module in pkgutil.iter_modules(paretopress.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"paretopress.v1.{module.name}").DESCRIPTOR
            services = [service for service in file.services_by_name.values() if service.full_name in SERVICE_NAMES]
            found += [method for service in services for method in service.methods]
    return tuple(found)


def hostile_calls(names: Names, seed: int = 0) -> Iterator[HostileCall]:
    """Without end, every method in turn; ``names`` are resources that exist, so that many calls get beyond the names."""
    for number in count():
        method = methods()[number % len(methods())]
        random = Random(f"{seed} {number}")
        known = names
        if method.name.startswith(("Delete", "Revoke")):  # what exists is needed by the calls that follow
            known = {kind: f"{name}-gone" for kind, name in names.items()}
        yield HostileCall(method, tuple(_messages(Filler(random, known, method, random.choice((0.02, 0.1, 0.5))))))


def _messages(filler: Filler) -> list[bytes]:
    method, random = filler.method, filler.random
    if not method.client_streaming:
        return [_one(filler)]
    first = message_factory.GetMessageClass(method.input_type)()
    content = random.randbytes(random.choice((1, 50)))
    filler.fill(first.metadata, _DEPTH)
    if random.random() < 0.7:  # announced as it is sent, so that the file reaches the importer
        first.metadata.upload.upload_id = f"u{random.randrange(10**9)}"
        first.metadata.upload.size_bytes, first.metadata.upload.offset = len(content), 0
        first.metadata.upload.sha256 = hashlib.sha256(content).hexdigest()
    chunk = message_factory.GetMessageClass(method.input_type)(chunk=content)
    messages = [first.SerializeToString(), chunk.SerializeToString()]
    action = random.randrange(8)
    if action == 0:
        messages.reverse()
    elif action == 1:
        messages.append(_one(filler))
    elif action == 2:
        messages = [_one(filler) for _ in range(random.choice((0, 1, 3)))]
    elif action == 3:
        messages[random.randrange(2)] = random.choice(DAMAGE[:4])(random, messages[0])
    return messages


def _one(filler: Filler) -> bytes:
    random = filler.random
    if random.random() < 0.08:
        return random.choice(
            (b"", random.randbytes(40), b"\xff" * 30, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 5000, b"\x0a\x02\xc3\x28")
        )
    message = message_factory.GetMessageClass(filler.method.input_type)()
    filler.fill(message, _DEPTH)
    data = message.SerializeToString()
    if random.random() < 0.2:
        data = random.choice(DAMAGE[:5])(random, data)
    if random.random() < 0.1:
        data += b"\xf2\xff\xff\xff\x0f\x03abc" + b"\x82\xfa\x01\x00"  # fields that nobody knows
    return data


@dataclass(frozen=True)
class Filler:
    """Fills messages with what a good client might say and, with probability ``hostility`` at each field, with what none would."""

    random: Random
    names: Names
    method: MethodDescriptor
    hostility: float

    def fill(self, message: Any, depth: int) -> None:
        """Set fields of a message."""
        likely = self.random.choice((0.3, 0.9))
        for field in message.DESCRIPTOR.fields:
            if self.random.random() > likely and not self._is_needed(field):
                continue
            if field.is_repeated:
                self._fill_repeated(getattr(message, field.name), field, depth)
            elif field.message_type is None:
                setattr(message, field.name, self._value(field))
            elif depth:
                child = getattr(message, field.name)
                child.SetInParent()
                self.fill(child, depth - 1)

    def _is_needed(self, field: FieldDescriptor) -> bool:
        return field.name in _NEEDED and self.random.random() > self.hostility

    def _fill_repeated(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        length = self.random.choice((0, 1, 2, 2, 40)) if self._is_hostile() else self.random.choice((1, 1, 2))
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(min(length, 2)):
                key = self._value(field.message_type.fields_by_name["key"])
                child = field.message_type.fields_by_name["value"]
                if child.message_type is None:
                    values[key] = self._value(child)
                elif depth:
                    self.fill(values[key], depth - 1)
        elif field.message_type is not None:
            for _ in range(min(length, 3) if depth else 0):
                self.fill(values.add(), depth - 1)
        else:
            values.extend([self._value(field) for _ in range(length)])

    def _is_hostile(self) -> bool:
        return self.random.random() < self.hostility

    def _value(self, field: FieldDescriptor) -> Any:
        kind, hostile, random = field.cpp_type, self._is_hostile(), self.random
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return random.choice((99, 2**31 - 1, -1)) if hostile else random.choice(list(field.enum_type.values_by_number))
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            reals = _REALS[:7] if kind == FieldDescriptor.CPPTYPE_FLOAT else _REALS
            return random.choice(reals if hostile else _SOUND_REALS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(random.choice((0, 3, 3000)))
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._text(field.name, hostile)
        number = random.choice(_NUMBERS if hostile else _SOUND_NUMBERS)
        if kind in _UNSIGNED:
            number = abs(number)
        return number if kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else number % 2**31

    def _text(self, field: str, hostile: bool) -> str:
        random = self.random
        if field == "page_token":
            return self._token() if random.random() < 0.3 + self.hostility / 2 else ""
        if hostile:
            return random.choice((*self.names.values(), *_TEXTS, *_TEXTS))
        if field in ("target", "targets") and self.method.name in ("PredictLatency", "CompareTargets"):
            return self.names["board"]
        if field in self.names:
            return self.names[field]
        if field == "parent":
            kinds = {"Candidates": "search", "Calibrations": "target", "Runs": "schedule"}
            return self.names[next((kind for word, kind in kinds.items() if word in self.method.name), "project")]
        if field == "name":
            kinds = {kind.capitalize(): kind for kind in self.names} | {"Artifact": "candidate", "Best": "search"}
            return self.names[next((kind for word, kind in kinds.items() if word in self.method.name), "project")]
        if field == "recipe_json":
            return random.choice(("", json.dumps(_RECIPE), self._recipe()))
        if field in ("etag", "scopes", "techniques"):
            return random.choice(("", "", "x", "*", "int8"))
        return f"id-{random.randrange(50)}" if field.endswith("_id") else random.choice(("", "x", "some words"))

    def _recipe(self) -> str:
        """A recipe with something hostile in it."""
        values = json_mutators.hostile_values(["__import__('os')"])
        return json.dumps(json_mutators.change(self.random, _RECIPE, values, self.random.choice((1, 3))))

    def _token(self) -> str:
        """A token whose digest is right for some list, with a key that no list would give."""
        random = self.random
        kind = random.choice(("searches", "models", "datasets", "targets", "candidates", "calibrations", "schedules", "runs"))
        scope = f"{kind} of {random.choice(list(self.names.values()))}" + random.choice(("", ", front only: False"))
        key = random.choice((10**30, -1, "x", "\0", True, None, 1.5, [], "9" * 5000))
        digest = hashlib.sha256(scope.encode()).hexdigest()[:12]
        text = random.choice(
            (json.dumps([digest, key]), json.dumps([digest, key]), "[" * 10_000, json.dumps({}), json.dumps([1, 2, 3]))
        )
        return base64.urlsafe_b64encode(text.encode()).decode()
