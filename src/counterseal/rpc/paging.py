"""Pages of lists: how long they are, and the tokens by which a list goes on where the last page ended (AIP-158).

A token is bound to the tenant, the call and its arguments: with others it is refused instead of answering what nobody
asked. It is no capability and needs no key: every page is read in the caller's own tenant, whatever it says, and what
it says has to have the shape of a position.
"""

import base64
import binascii
import hashlib
import re
from typing import Any

from google.protobuf.message import Message

from counterseal.canonical import canonical, parse_canonical
from counterseal.errors import InputInvalid, NotCanonical

DEFAULT, MOST = 50, 200
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BOUND_ELSEWHERE = ("page_token", "page_size", "tenant")


def size(asked: int, default: int = DEFAULT, most: int = MOST) -> int:
    """Return the page size: 0 means the default, more than the cap means the cap. Raises InputInvalid if negative."""
    if asked < 0:
        raise InputInvalid(f"page_size: expected 0 to {most}", pointer="/page_size")
    return min(asked or default, most)


def make(position: str, request: Message, tenant: str) -> str:
    """Return the token of the page behind `position`, for the same request again."""
    body = canonical({"after": position, "of": _binding(request, tenant)})
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def read(request: Any, tenant: str, shape: "re.Pattern[str]" = ID) -> str:
    """Return the position that a request's `page_token` names, empty for the first page.

    shape: what a position looks like. Raises InputInvalid for a token that is not one of an earlier answer.
    """
    token: str = request.page_token
    if not token:
        return ""
    try:
        found = parse_canonical(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        position = found["after"]
        if found["of"] == _binding(request, tenant) and isinstance(position, str) and shape.fullmatch(position):
            return position
    except (NotCanonical, binascii.Error, ValueError, KeyError):
        pass
    raise InputInvalid("page_token: not one of an earlier answer with the same arguments", pointer="/page_token")


def _binding(request: Message, tenant: str) -> str:
    asked = type(request)()
    asked.CopyFrom(request)
    for name in _BOUND_ELSEWHERE:
        if name in asked.DESCRIPTOR.fields_by_name:
            asked.ClearField(name)
    text = f"{asked.DESCRIPTOR.full_name}\0{tenant}\0".encode() + asked.SerializeToString(deterministic=True)
    return hashlib.sha256(text).hexdigest()[:32]
