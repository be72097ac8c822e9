"""The W3C trace context of the call being handled: read or made once, then carried by whatever the call causes.

Standard library only: clients carry a context too, and none of them needs OpenTelemetry for that.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

METADATA_KEY = "traceparent"

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED = 0x01
_TRACE_BYTES, _SPAN_BYTES = 16, 8


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One `traceparent` of valid form (W3C Trace Context, 3.2).

    remote: it came with the call; otherwise it was made here, and nobody has decided about sampling before.
    """

    traceparent: str
    remote: bool = False

    @property
    def trace_id(self) -> str:
        """32 lower-case hex digits."""
        return self.traceparent[3:35]

    @property
    def sampled(self) -> bool:
        """Whether spans of this trace are recorded."""
        return bool(int(self.traceparent[53:55], 16) & _SAMPLED)


def received(metadata: Iterable[Any]) -> TraceContext | None:
    """Return the context that came with a call; None without exactly one of valid form."""
    found = [value for key, value in metadata if key == METADATA_KEY]
    if len(found) != 1 or not isinstance(found[0], str) or not _TRACEPARENT.fullmatch(found[0]):
        return None
    return TraceContext(found[0], remote=True)


def fresh(share: float = 0.0, randomness: Callable[[int], bytes] = os.urandom) -> TraceContext:
    """Return a new trace, sampled with probability `share` (0 to 1), which its id alone decides."""
    drawn = randomness(_TRACE_BYTES + _SPAN_BYTES).hex()
    trace_id, span_id = drawn[: 2 * _TRACE_BYTES], drawn[2 * _TRACE_BYTES :]
    # The rightmost bytes are the random ones in every generator (W3C Trace Context, level 2).
    sampled = int(trace_id[16:], 16) < share * 2**64
    return TraceContext(f"00-{trace_id}-{span_id}-{sampled:02x}")


_current: ContextVar[TraceContext | None] = ContextVar("counterseal_trace", default=None)

current = _current.get
"""Return the context of the call being handled; None outside of one."""

enter = _current.set
"""Make a context the current one of this task."""

leave = _current.reset
"""Take back an `enter`, by what it returned."""


def current_trace_id() -> str:
    """Return the trace id of the call being handled, empty outside of one: what logs and entries name."""
    context = _current.get()
    return context.trace_id if context is not None else ""


def outgoing(metadata: Any) -> Any:
    """Return a call's metadata with the current context in it, unless there is none or it carries one already."""
    context = _current.get()
    if context is None:
        return metadata
    pairs = tuple(metadata or ())
    if any(key == METADATA_KEY for key, _ in pairs):
        return pairs
    return (*pairs, (METADATA_KEY, context.traceparent))
