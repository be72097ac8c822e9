"""ServiceError <-> gRPC status: `google.rpc.Status` with `ErrorInfo` (AIP-193), and `RetryInfo` where a wait is known.

The text travels twice (grpc-message and details), inside HTTP/2 headers that peers limit to 8 KiB: a long one would
change its own status code. Hence the caps. Nothing but a ServiceError's own text ever reaches a client.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from counterseal.errors import (
    CredentialsUnavailable,
    ExecutorUnavailable,
    InputInvalid,
    InternalError,
    LedgerUnavailable,
    PolicyUnavailable,
    ServiceError,
    all_errors,
)

DOMAIN = "counterseal"
DETAILS_KEY = "grpc-status-details-bin"
MAX_TEXT_BYTES = 512
MAX_VALUE_BYTES = 128
MAX_SUM_BYTES = 2048

_UNAVAILABLE: Mapping[str, type[ServiceError]] = {
    "policy": PolicyUnavailable,
    "credentials": CredentialsUnavailable,
    "executor": ExecutorUnavailable,
    "audit": LedgerUnavailable,
}
_NO_ANSWER = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
_BROKEN = ("Internal error from Core", "Received RST_STREAM")
"""gRPC's own words, under INTERNAL, for a connection that went while a message was being sent: nobody answered."""


class PeerUnavailable(InternalError):
    """The service did not answer."""

    code = "UNAVAILABLE"


class RpcStatus(NamedTuple):
    """What `context.abort` takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def to_status(error: ServiceError) -> RpcStatus:
    """Return the status, text and trailing metadata that stand for an error."""
    code = grpc.StatusCode[error.code]
    text = cut(error.message, MAX_TEXT_BYTES)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    info.metadata["next_action"] = error.next_action
    left = MAX_SUM_BYTES
    for key, value in sorted(error.metadata.items()):
        short = cut(value, MAX_VALUE_BYTES)
        left -= len(key) + len(short.encode())
        if left < 0:
            break
        info.metadata[key] = short
    status = status_pb2.Status(code=code.value[0], message=text)
    _add(status, info)
    if error.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        _add(status, retry)
    return RpcStatus(code, text, ((DETAILS_KEY, status.SerializeToString()),))


def from_rpc_error(error: grpc.RpcError, *, peer: str | None = None) -> ServiceError:
    """Return the ServiceError that a failed call stands for.

    peer: the service called (`policy`, `audit`, ...): names the reason when there was no answer at all. Whatever a peer
    sends that is not ours becomes InternalError, without its text.
    """
    code = _code_name(error)
    for key, value in _trailing(error):
        if key == DETAILS_KEY:
            found = _from_details(value)
            if found is not None:
                return found
    if code in _NO_ANSWER or (code == "INTERNAL" and _text(error).startswith(_BROKEN)):
        return _UNAVAILABLE.get(peer or "", PeerUnavailable)()
    if code == "RESOURCE_EXHAUSTED":  # gRPC's own, before any code of ours: ours carries a reason
        return InputInvalid("the message is larger than the service accepts")
    return InternalError("a service answered with an error that names no reason", status=code)


def cut(text: str, limit: int) -> str:
    """Return at most `limit` UTF-8 bytes of `text`, marked with `...` when something is missing."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "..."


def _add(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _code_name(error: grpc.RpcError) -> str:
    code = error.code() if callable(getattr(error, "code", None)) else None
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"


def _text(error: grpc.RpcError) -> str:
    text = error.details() if callable(getattr(error, "details", None)) else None
    return text if isinstance(text, str) else ""


def _trailing(error: grpc.RpcError) -> list[tuple[str, Any]]:
    metadata: Any = error.trailing_metadata() if callable(getattr(error, "trailing_metadata", None)) else None
    return [(str(key), value) for key, value in metadata or ()]


def _from_details(value: Any) -> ServiceError | None:
    status = status_pb2.Status()
    try:
        status.ParseFromString(value)
    except Exception:  # noqa: BLE001 (protobuf raises DecodeError or TypeError; the bytes are a peer's)
        return None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_after_ms = None
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_ms = retry.retry_delay.ToMilliseconds()
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
    if info.domain != DOMAIN:
        return None
    cls = all_errors().get(info.reason)
    if cls is None:
        return None
    values = {k: v for k, v in info.metadata.items() if k not in ("next_action", "message", "retry_after_ms")}
    error = cls.__new__(cls)  # a class may want other arguments when it is raised the first time
    ServiceError.__init__(error, status.message, retry_after_ms=retry_after_ms, **values)
    return error
