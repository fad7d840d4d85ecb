"""What the service refuses, and the one translation of every layer's errors into gRPC status and ``google.rpc`` details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hw_models.errors import HardwareModelError
from search.errors import FieldViolation, InvalidSpecError, OutsideError, SearchError
from service.intake.errors import IntakeError, SandboxError
from techniques.errors import TechniqueError

DOMAIN = "paretopress"
_MAX_MESSAGE_BYTES, _MAX_VIOLATIONS_BYTES, _MAX_FIELD, _MAX_DESCRIPTION = 1000, 3000, 200, 500
"""A client drops a call whose trailing metadata are larger than 8 KiB; the message is in them twice, once percent-encoded."""


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


class MalformedRequestError(ServiceError):
    """The request's bytes are no message of the contract."""


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


class StoreUnavailableError(ServiceError, OutsideError):
    """The database or the blob store does not answer; the same call may succeed in a moment."""


class ServerStoppingError(ServiceError):
    """The server is being stopped; the same call succeeds at the next one."""


class CallAbandonedError(ServiceError):
    """The caller has gone, or its deadline has passed, before anything was changed."""


class StoreUrlError(ServiceError):
    """The URL of the database or of the blob store cannot be used; the message says what to set."""


class DigestMismatchError(ServiceError):
    """The received bytes do not have the announced sha256; the upload has been discarded."""


class UnauthenticatedError(ServiceError):
    """The call carries no credentials, or none that are good; the message says how they are sent."""

    def __init__(self, problem: str) -> None:
        super().__init__(f'Bearer realm="paretopress": {problem}')


class PermissionDeniedError(ServiceError):
    """The caller is known, but may not do this."""


class ForeignProjectError(NotFoundError):
    """The resource is of a project that is not the caller's; to it, nothing is there."""


class KeysUnavailableError(ServiceError):
    """The keys that sign JSON web tokens cannot be fetched now: nobody is let in on trust."""


class QuotaExceededError(ServiceError):
    """A project or a caller would have more than its share.

    Args:
        subject: whose share, such as ``project:vision``.
        retry_s: when the same call may succeed, where that is known.
    """

    reason = "QUOTA_EXCEEDED"

    def __init__(self, subject: str, message: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.subject = subject
        self.retry_s = retry_s


class RateLimitedError(QuotaExceededError):
    """The caller calls too often, or has too many streams open."""

    reason = "RATE_LIMITED"


@dataclass(frozen=True)
class ErrorFacts:
    """An error as a client sees it. ``internal`` details are for the log only."""

    code: grpc.StatusCode
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    internal: str = ""
    quota_subject: str = ""
    retry_s: float | None = None


_SERVICE_CODES: dict[type[Exception], tuple[grpc.StatusCode, str]] = {
    InvalidRequestError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
    MalformedRequestError: (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
    InvalidSpecError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
    NotFoundError: (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"),
    UnauthenticatedError: (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    PermissionDeniedError: (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_TOO_NARROW"),
    KeysUnavailableError: (grpc.StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE"),
    AlreadyExistsError: (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS"),
    PreconditionError: (grpc.StatusCode.FAILED_PRECONDITION, "PRECONDITION_FAILED"),
    EtagMismatchError: (grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
    UploadConflictError: (grpc.StatusCode.ABORTED, "UPLOAD_CONFLICT"),
    TooLargeError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"),
    StoreUnavailableError: (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    ServerStoppingError: (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING"),
    CallAbandonedError: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
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
    if isinstance(error, QuotaExceededError):
        exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
        return ErrorFacts(exhausted, error.reason, str(error), quota_subject=error.subject, retry_s=error.retry_s)
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
    bad_fields = _bad_fields(facts.violations)
    for message in (error_info, request_info, *([bad_fields] if facts.violations else []), *_quota_details(facts)):
        packed = Any()
        packed.Pack(message)
        details.append(packed)
    # Status codes of gRPC and google.rpc.Code are the same numbers under the same names.
    return status_pb2.Status(code=code_pb2.Code.Value(facts.code.name), message=brief(facts.message), details=details)


def _quota_details(facts: ErrorFacts) -> list[error_details_pb2.QuotaFailure | error_details_pb2.RetryInfo]:
    """Whose share is used up, and when to try again."""
    details: list[error_details_pb2.QuotaFailure | error_details_pb2.RetryInfo] = []
    if facts.quota_subject:
        description = facts.message[:_MAX_DESCRIPTION]
        violation = error_details_pb2.QuotaFailure.Violation(subject=facts.quota_subject, description=description)
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if facts.retry_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(facts.retry_s * 1000))
        details.append(retry)
    return details


def brief(message: str) -> str:
    """As much of a message as fits into trailing metadata."""
    return message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore")


def _bad_fields(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    """As many as fit into trailing metadata, and how many more there are."""
    listed: list[error_details_pb2.BadRequest.FieldViolation] = []
    room = _MAX_VIOLATIONS_BYTES
    for place, violation in enumerate(violations):
        field, description = violation.field[:_MAX_FIELD], violation.description[:_MAX_DESCRIPTION]
        one = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        room -= one.ByteSize() + 4
        if room < 0:
            words = f"and {len(violations) - place} more"
            return error_details_pb2.BadRequest(
                field_violations=[*listed, error_details_pb2.BadRequest.FieldViolation(field="...", description=words)]
            )
        listed.append(one)
    return error_details_pb2.BadRequest(field_violations=listed)
