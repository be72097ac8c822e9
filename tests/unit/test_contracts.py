"""Contracts between the shared Python modules and the protos."""

from counterseal.api.common.v1 import reason_pb2
from counterseal.errors import NEXT_ACTION, ServiceError, all_errors


def test_every_reason_of_the_enum_has_a_next_action_and_none_is_invented() -> None:
    names = {name.removeprefix("REASON_") for name in reason_pb2.Reason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert names == set(NEXT_ACTION)


def test_every_error_class_carries_a_listed_reason_and_a_sentence() -> None:
    for reason, error in all_errors().items():
        assert reason in NEXT_ACTION
        assert issubclass(error, ServiceError)
        assert error("x").message == "x"
