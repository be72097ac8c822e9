"""Every error of the suite survives the wire: reason, message, values, next action, wait."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from counterseal.api.common.v1 import reason_pb2
from counterseal.errors import (
    NEXT_ACTION,
    ExecutorUnavailable,
    InternalError,
    LedgerUnavailable,
    ServiceError,
    all_errors,
)
from counterseal.rpc.status import DETAILS_KEY, PeerUnavailable, from_rpc_error, to_status
from support.requirements import requirement


class FakeRpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, trailing: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__("secret text of a peer")
        self._code, self._trailing = code, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> Any:
        return self._trailing


@requirement("error:code-kept")
@pytest.mark.parametrize("cls", all_errors().values(), ids=lambda cls: cls.__name__)
def test_every_error_survives_the_wire(cls: type[ServiceError]) -> None:
    error = cls.__new__(cls)
    ServiceError.__init__(error, "what was wrong", retry_after_ms=1500, pointer="/a/b", count=3)
    status = to_status(error)
    back = from_rpc_error(FakeRpcError(status.code, status.trailing_metadata))
    assert type(back) is cls
    assert (back.message, back.retry_after_ms) == ("what was wrong", 1500)
    assert back.metadata == {"pointer": "/a/b", "count": "3"}
    assert status.code.name == cls.code


def test_every_reason_is_in_the_public_enum_and_has_a_next_action() -> None:
    names = {name.removeprefix("REASON_") for name in reason_pb2.Reason.keys()}  # noqa: SIM118 (no dict)
    names.discard("UNSPECIFIED")
    assert all_errors().keys() <= names
    assert names == NEXT_ACTION.keys()


def test_the_sum_of_all_values_is_capped() -> None:
    values: dict[str, Any] = {f"key{i}": "v" * 500 for i in range(100)}
    error = InternalError("x" * 10_000, retry_after_ms=None, **values)
    status = to_status(error)
    assert len(status.details.encode()) <= 512
    assert len(status.trailing_metadata[0][1]) < 4096


def test_a_cut_text_is_still_unicode() -> None:
    assert to_status(InternalError("€" * 1000)).details.endswith("€...")


@pytest.mark.parametrize("junk", [b"", b"\xff\xff", b"\x12\x03abc"])
def test_a_peers_junk_becomes_an_internal_error_without_its_text(junk: bytes) -> None:
    error = from_rpc_error(FakeRpcError(grpc.StatusCode.UNKNOWN, ((DETAILS_KEY, junk),)))
    assert type(error) is InternalError
    assert "secret" not in error.message


def test_details_of_another_domain_are_not_ours() -> None:
    status = status_pb2.Status(code=5)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="elsewhere"))
    error = from_rpc_error(FakeRpcError(grpc.StatusCode.NOT_FOUND, ((DETAILS_KEY, status.SerializeToString()),)))
    assert type(error) is InternalError


@pytest.mark.parametrize("text", ["Internal error from Core", "Received RST_STREAM with error code 2"])
def test_a_connection_that_broke_while_sending_is_no_answer(text: str) -> None:
    """gRPC calls it INTERNAL; whoever takes that for an answer does not send again what may be retried."""

    class Broken(FakeRpcError):
        def details(self) -> str:
            return text

    for peer, error in (("audit", LedgerUnavailable), (None, PeerUnavailable)):
        failure = from_rpc_error(Broken(grpc.StatusCode.INTERNAL), peer=peer)
        assert type(failure) is error
        assert failure.code == "UNAVAILABLE"
    ours = to_status(InternalError("internal error"))
    assert type(from_rpc_error(FakeRpcError(ours.code, ours.trailing_metadata), peer="audit")) is InternalError
    assert type(from_rpc_error(FakeRpcError(grpc.StatusCode.INTERNAL), peer="audit")) is InternalError


def test_a_message_that_grpc_itself_refuses_is_the_callers_to_make_smaller() -> None:
    failure = from_rpc_error(FakeRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert (failure.reason, failure.next_action) == ("INPUT_INVALID", "NONE")


def test_no_answer_names_the_service_that_was_called() -> None:
    silent = FakeRpcError(grpc.StatusCode.UNAVAILABLE)
    assert type(from_rpc_error(silent, peer="audit")) is LedgerUnavailable
    assert type(from_rpc_error(silent, peer="executor")) is ExecutorUnavailable
    assert type(from_rpc_error(silent, peer="issuer")) is PeerUnavailable
    assert from_rpc_error(silent).code == "UNAVAILABLE"
