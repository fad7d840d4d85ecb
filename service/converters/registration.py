"""The registration of a target to its domain type, with every bad field at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar, get_args

from hw_models.targets import Optimization, Peaks, Precision, Target
from paretopress.v1 import target_pb2
from search.errors import FieldViolation
from service.converters.inputs import parse_parent
from service.errors import InvalidRequestError
from service.resources import ID_RULE, TargetName, is_resource_id
from service.store.target_store import NewTarget

MAX_TEXT, MAX_SOURCES, MAX_COUNT, MAX_RATE = 500, 20, 4096, 1e9
INTEGER_TYPES = ("uint8", "int8")
_PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_OPTIMIZATIONS: tuple[Optimization, ...] = get_args(Optimization)
WordT = TypeVar("WordT", bound=str)


def target_from_proto(request: target_pb2.CreateTargetRequest) -> NewTarget:
    """Read a registration.

    Raises:
        InvalidRequestError: with every bad field.
    """
    found: list[FieldViolation] = []
    project = parse_parent(request.parent, found).project
    proto = request.target
    if not is_resource_id(request.target_id):
        found.append(FieldViolation("target_id", f"must be {ID_RULE}, got {request.target_id!r}"))
    _check_texts(proto, found)
    _check_counts(proto, found)
    peaks = peaks_from_proto(proto, found)
    has_int8 = "int8" in proto.precisions if proto.precisions else bool(peaks and peaks.int8_gmacs)
    if proto.integer_types and not has_int8:
        found.append(FieldViolation("target.integer_types", "only go with precision int8"))
    target_types = _known("integer_types", proto.integer_types, INTEGER_TYPES, found) or INTEGER_TYPES
    precisions = _known("precisions", proto.precisions, _PRECISIONS, found) or (_PRECISIONS if has_int8 else ("fp32",))
    optimization = _known("optimization", [proto.optimization or "extended"], _OPTIMIZATIONS, found)
    if found or peaks is None:
        raise InvalidRequestError(found)
    target = Target(
        name=request.target_id,
        display_name=proto.display_name or request.target_id,
        device=proto.device.strip(),
        runtime=proto.runtime.strip(),
        threads=proto.threads or 1,
        precisions=precisions,
        channel_multiple=proto.channel_multiple or 8,
        integer_types=target_types if has_int8 else (),
        optimization=optimization[0],
        attached=False,
        peaks=peaks,
    )
    return NewTarget(TargetName(project, target.name).name, project, target)


def _check_texts(proto: target_pb2.Target, found: list[FieldViolation]) -> None:
    for field in ("display_name", "device", "runtime"):
        text = getattr(proto, field)
        if len(text) > MAX_TEXT:
            found.append(FieldViolation(f"target.{field}", f"must have at most {MAX_TEXT} characters, got {len(text)}"))
        elif field != "display_name" and not text.strip():
            found.append(FieldViolation(f"target.{field}", "must be given"))


def _check_counts(proto: target_pb2.Target, found: list[FieldViolation]) -> None:
    for field in ("threads", "channel_multiple"):
        if not 0 <= getattr(proto, field) <= MAX_COUNT:
            found.append(FieldViolation(f"target.{field}", f"must be between 0 and {MAX_COUNT}, got {getattr(proto, field)}"))


def _known(field: str, given: Collection[str], known: tuple[WordT, ...], found: list[FieldViolation]) -> tuple[WordT, ...]:
    """The words in their usual order, each once; a violation is noted for others."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        found.append(FieldViolation(f"target.{field}", f"unknown {unknown}; known are {list(known)}"))
    return tuple(word for word in known if word in given)


def peaks_from_proto(proto: target_pb2.Target, found: list[FieldViolation]) -> Peaks | None:
    """A data sheet's rates; None, and violations are noted, where they are missing or impossible."""
    if not proto.HasField("peaks"):
        found.append(FieldViolation("target.peaks", "must be given: a registered target is known from its data sheet only"))
        return None
    peaks, before = proto.peaks, len(found)
    for field in ("fp32_gmacs", "bandwidth_gb_s"):
        if not 0 < getattr(peaks, field) <= MAX_RATE:
            words = f"must be above 0 and at most {MAX_RATE:g}, got {getattr(peaks, field):g}"
            found.append(FieldViolation(f"target.peaks.{field}", words))
    for field in ("int8_gmacs", "per_kernel_us"):
        if not 0 <= getattr(peaks, field) <= MAX_RATE:
            words = f"must be at least 0 and at most {MAX_RATE:g}, got {getattr(peaks, field):g}"
            found.append(FieldViolation(f"target.peaks.{field}", words))
    if "int8" in proto.precisions and peaks.int8_gmacs == 0:
        found.append(FieldViolation("target.peaks.int8_gmacs", "must be above 0 where precisions have int8"))
    if len(peaks.sources) > MAX_SOURCES or any(len(source) > MAX_TEXT for source in peaks.sources):
        words = f"must be at most {MAX_SOURCES} texts of at most {MAX_TEXT} characters"
        found.append(FieldViolation("target.peaks.sources", words))
    if len(found) > before:
        return None
    return Peaks(peaks.fp32_gmacs, peaks.int8_gmacs, peaks.bandwidth_gb_s, peaks.per_kernel_us, tuple(peaks.sources))
