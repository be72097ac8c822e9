"""Page tokens: where the last page ended, tied to the tenant and the arguments that it answered.

A token is no capability: every query repeats the tenant's condition, and row-level security stands behind it.
"""

import base64
import binascii

from counterseal.canonical import JsonObject, canonical, digest_of, parse_canonical
from counterseal.errors import InputInvalid, ServiceError

DEFAULT, MOST = 50, 200


def size(requested: int) -> int:
    """Return the page size: 0 means the default, more than the cap means the cap. Raises InputInvalid if negative."""
    if requested < 0:
        raise InputInvalid("page_size must not be negative", pointer="/page_size")
    return min(requested or DEFAULT, MOST)


def make(after: str, tenant: str, method: str, **arguments: str) -> str:
    """Return the token of the page after `after`."""
    body = canonical({"after": after, "of": _binding(tenant, method, arguments)})
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def read(token: str, tenant: str, method: str, **arguments: str) -> str:
    """Return what `make` was given; empty for an empty token. Raises InputInvalid for any other token."""
    if not token:
        return ""
    try:
        document = parse_canonical(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ServiceError, binascii.Error, ValueError):
        raise InputInvalid("page_token is not one of ours", pointer="/page_token") from None
    if document.get("of") != _binding(tenant, method, arguments) or not isinstance(document.get("after"), str):
        raise InputInvalid("page_token belongs to another request", pointer="/page_token")
    return str(document["after"])


def _binding(tenant: str, method: str, arguments: dict[str, str]) -> str:
    document: JsonObject = {"tenant": tenant, "method": method, "arguments": arguments}
    return digest_of("admin-request", document)
