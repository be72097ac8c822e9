"""Tools between their rows and the wire."""

from counterseal.api.executor.v1 import tool_pb2
from counterseal.canonical import canonical, parse_canonical
from counterseal_executor.tools.store import RegisteredTool


def to_wire(tool: RegisteredTool, *, redacted: bool) -> tool_pb2.Tool:
    """Return a tool as a reader sees it; an agent does not see the connector's configuration (SQL, addresses)."""
    body = tool.descriptor.body
    if redacted:
        document = parse_canonical(body)
        document["connector"] = {"kind": document["connector"]["kind"]}
        body = canonical(document)
    message = tool_pb2.Tool(
        tool=tool.descriptor.reference,
        tool_digest=tool.descriptor.digest,
        descriptor_json=body,
        redacted=redacted,
        retired=tool.retired,
    )
    message.create_time.FromMilliseconds(tool.create_ms)
    return message
