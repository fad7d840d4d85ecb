"""What the service refuses, and the one translation of every layer's errors into gRPC status and ``google.rpc`` details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hw_models.errors import HardwareModelError
from search.errors import FieldViolation, InvalidSpecError, SearchError
from service.intake.errors import IntakeError, SandboxError
from techniques.errors import TechniqueError

DOMAIN = "paretopress"


class ServiceError(Exception):
    """Root of everything that this layer raises on purpose."""


class InvalidRequestError(ServiceError):
    """Fields of the request are wrong; carries every one of them."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    @staticmethod
    def of(field: str, description: str) -> InvalidRequestError:
        """A single bad field."""
        return InvalidRequestError([FieldViolation(field, description)])


class NotFoundError(ServiceError):
    """There is no resource of that name."""


class AlreadyExistsError(ServiceError):
    """The name is taken, or the request id was used for another request."""


class PreconditionError(ServiceError):
    """The resource is not in a state in which this can be done; the message says what to do first."""


class EtagMismatchError(ServiceError):
    """The resource has changed since the caller read it."""


class UploadConflictError(ServiceError):
    """The offset is not the committed size, or another stream writes the same upload."""


class TooLargeError(ServiceError):
    """The upload exceeds a limit of the server."""


class StoreUnavailableError(ServiceError):
    """The database or the blob store does not answer; the same call may succeed in a moment."""


class StoreUrlError(ServiceError):
    """The database's URL cannot be used; the message says what one looks like."""


class DigestMismatchError(ServiceError):
    """The received bytes do not have the announced sha256; the upload has been discarded."""


@dataclass(frozen=True)
class ErrorFacts:
    """An error as a client sees it. ``internal`` details are for the log only."""

    code: grpc.StatusCode
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    internal: str = ""


_SERVICE_CODES: dict[type[Exception], tuple[grpc.StatusCode, str]] = {
    InvalidRequestError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
    InvalidSpecError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
    NotFoundError: (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"),
    AlreadyExistsError: (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS"),
    PreconditionError: (grpc.StatusCode.FAILED_PRECONDITION, "PRECONDITION_FAILED"),
    EtagMismatchError: (grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
    UploadConflictError: (grpc.StatusCode.ABORTED, "UPLOAD_CONFLICT"),
    TooLargeError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"),
    StoreUnavailableError: (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    DigestMismatchError: (grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH"),
    TechniqueError: (grpc.StatusCode.INVALID_ARGUMENT, "TECHNIQUE_REFUSED"),
    HardwareModelError: (grpc.StatusCode.FAILED_PRECONDITION, "HARDWARE_MODEL_REFUSED"),
    SearchError: (grpc.StatusCode.FAILED_PRECONDITION, "SEARCH_REFUSED"),
}
_INTAKE_CODES = {
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "not_allowed": grpc.StatusCode.PERMISSION_DENIED,
    "not_found": grpc.StatusCode.NOT_FOUND,
}


def describe_error(error: Exception) -> ErrorFacts:
    """What a client is told about an error; whatever is not raised on purpose is INTERNAL and keeps its details to the log."""
    if isinstance(error, IntakeError):
        return _intake_facts(error)
    if isinstance(error, SandboxError):
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if error.kind != "crash" else grpc.StatusCode.INVALID_ARGUMENT
        return ErrorFacts(code, f"SANDBOX_{error.kind.upper()}", error.message, internal=error.detail)
    for kind, (code, reason) in _SERVICE_CODES.items():
        if isinstance(error, kind):
            return ErrorFacts(code, reason, str(error), tuple(getattr(error, "violations", ())))
    return ErrorFacts(grpc.StatusCode.INTERNAL, "INTERNAL", "something went wrong in the server; its log has the details")


def _intake_facts(error: IntakeError) -> ErrorFacts:
    violations = [FieldViolation(p.place, p.what) for p in error.problems if p.severity == "error"]
    if not violations and error.field:
        violations = [FieldViolation(error.field, error.message)]
    metadata = {"problem_count": str(error.problem_count)} if error.problem_count else {}
    code = _INTAKE_CODES.get(error.code, grpc.StatusCode.INVALID_ARGUMENT)
    return ErrorFacts(code, error.code.upper(), error.message, tuple(violations), metadata)


def to_status(facts: ErrorFacts, request_id: str) -> status_pb2.Status:
    """The rich status: ErrorInfo always, RequestInfo, and BadRequest where fields are to blame."""
    details: list[Any] = []
    request_info = error_details_pb2.RequestInfo(request_id=request_id)
    error_info = error_details_pb2.ErrorInfo(reason=facts.reason, domain=DOMAIN, metadata=facts.metadata)
    bad_fields = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description) for v in facts.violations
        ]
    )
    for message in (error_info, request_info, *([bad_fields] if facts.violations else [])):
        packed = Any()
        packed.Pack(message)
        details.append(packed)
    # Status codes of gRPC and google.rpc.Code are the same numbers under the same names.
    return status_pb2.Status(code=code_pb2.Code.Value(facts.code.name), message=facts.message, details=details)
