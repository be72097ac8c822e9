"""The registry of event types against the wire contract, and against the list of what a record must hold."""

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from counterseal.api.audit.v1 import event_pb2
from counterseal.ledger.fields import Flag, Group, Kind, ListOf, Number, OneOf, Person, Text, names_people
from counterseal.ledger.registry import REGISTRY
from support.requirements import requirement

EVENTS = list(event_pb2.Event.DESCRIPTOR.fields)


def shape_of_kind(kind: Kind) -> object:
    if isinstance(kind, Flag):
        return "bool"
    if isinstance(kind, Number):
        return "int64"
    if isinstance(kind, (Text, OneOf, Person)):
        return "string"
    if isinstance(kind, ListOf):
        return [shape_of_kind(kind.item)]
    assert isinstance(kind, Group)
    return {name: shape_of_kind(field) for name, field in kind.fields.items()}


def shape_of_field(field: FieldDescriptor) -> object:
    if field.message_type is not None:
        single: object = shape_of_message(field.message_type)
    else:
        single = {
            FieldDescriptor.TYPE_BOOL: "bool",
            FieldDescriptor.TYPE_INT64: "int64",
            FieldDescriptor.TYPE_STRING: "string",
        }[field.type]
    return [single] if field.is_repeated else single


def shape_of_message(message: Descriptor) -> dict[str, object]:
    return {field.name: shape_of_field(field) for field in message.fields}


def test_every_type_of_the_contract_is_registered_and_no_other() -> None:
    assert {field.name.replace("_", ".", 1) for field in EVENTS} == set(REGISTRY)


@pytest.mark.parametrize("field", EVENTS, ids=lambda field: str(field.name))
def test_the_clear_fields_of_a_type_are_those_of_its_message(field: FieldDescriptor) -> None:
    assert field.message_type is not None
    registered = REGISTRY[field.name.replace("_", ".", 1)]
    assert shape_of_kind(registered.clear) == shape_of_message(field.message_type)


def test_text_may_be_absent_but_numbers_and_flags_never() -> None:
    for name, registered in REGISTRY.items():
        for optional in registered.clear.optional:
            assert not isinstance(registered.clear.fields[optional], (Number, Flag)), name


def test_no_clear_field_takes_free_text() -> None:
    def leaves(kind: Kind) -> list[Kind]:
        if isinstance(kind, ListOf):
            return leaves(kind.item)
        if isinstance(kind, Group):
            return [leaf for field in kind.fields.values() for leaf in leaves(field)]
        return [kind]

    for name, registered in REGISTRY.items():
        for leaf in leaves(registered.clear):
            for text in ("ana@example.com", "Ana Smith", "два", "a\nb", ""):
                assert leaf.problem(text), (name, text)


RECORD_MUST_HOLD = {
    "user request": "request.received:user_request",
    "its constraints": "request.received:constraints",
    "normalised intent": "request.received:intent",
    "model id and version": "request.received:model",
    "model parameters": "request.received:model_parameters",
    "taint": "plan.proposed:taint",
    "usage": "usage.reported:tokens_in",
    "task outcome": "request.completed:outcome",
    "final answer": "request.completed:final_answer",
    "policy decision": "plan.decided:outcome",
    "reason codes": "plan.decided:reason_codes",
    "policy snapshot": "plan.decided:snapshot_id",
    "selected tools": "plan.proposed:tools",
    "tool version": "step.intent:version",
    "input summary": "step.intent:input_summary",
    "output summary": "step.outcome:output_summary",
    "external call id": "step.outcome:external_id",
    "approvals": "approval.recorded:verdict",
    "error state": "step.outcome:error_code",
    "compensations": "compensation.ended:compensated_count",
    "final status": "plan.ended:state",
    "rejected alternatives": "plan.proposed:rejected_alternatives",
    "confidence": "plan.proposed:confidence_ppm",
    "unverified assumptions": "plan.proposed:unverified",
    "state transitions of plans": "plan.changed:to_state",
    "state transitions of steps": "step.changed:to_state",
    "replay: inputs": "plan.decided:inputs",
    "replay: policy": "policy.published:bundle",
    "replay: tool schema": "tool.registered:descriptor",
}


@requirement("ledger:record-holds")
@pytest.mark.parametrize("place", list(RECORD_MUST_HOLD.values()), ids=list(RECORD_MUST_HOLD))
def test_a_record_can_hold_what_it_must(place: str) -> None:
    kind, _, name = place.partition(":")
    assert name in REGISTRY[kind].clear.fields or name in REGISTRY[kind].sealed


def test_a_field_that_names_people_takes_nothing_in_clear_whatever_the_producer_calls_them() -> None:
    """`tripped_by` may also be a breaker or a certificate; everywhere else a bare name is a person too."""
    for name, registered in REGISTRY.items():
        for field, kind in registered.clear.fields.items():
            if not names_people(kind) or isinstance(kind, Group) or field == "tripped_by":
                continue
            for person in ("ida", "user:ida", "operator"):
                sent = [person] if isinstance(kind, ListOf) else person
                assert kind.problem(sent), (name, field)
                renamed = kind.rename(sent, lambda _: "p_" + "a" * 26)
                assert person not in str(renamed), (name, field)
                assert kind.problem(renamed) == "", (name, field)
