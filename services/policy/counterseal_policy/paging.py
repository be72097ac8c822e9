"""Page tokens: the position of the last row, bound to the arguments of the list.

A token is no bearer right: each page is read in the caller's own tenant, whatever the token says.
"""

import base64
import binascii

from counterseal.canonical import canonical, parse_strict
from counterseal.errors import InputInvalid, NotCanonical

DEFAULT_SIZE = 50
MAX_SIZE = 200


def size_of(asked: int) -> int:
    """Return the page size: 50 unless asked, at most 200. Raises InputInvalid for a negative one."""
    if asked < 0:
        raise InputInvalid("page_size is negative")
    return min(asked or DEFAULT_SIZE, MAX_SIZE)


def encode(time_ms: int, name: str, arguments: str) -> str:
    """Return the token of the page after a row."""
    return base64.urlsafe_b64encode(canonical({"a": arguments, "n": name, "t": time_ms})).decode()


def decode(text: str, arguments: str) -> tuple[int, str] | None:
    """Return the position of a token, None for the first page. Raises InputInvalid."""
    if not text:
        return None
    try:
        found = parse_strict(base64.urlsafe_b64decode(text.encode()))
        position = found["t"], found["n"]
        if found["a"] == arguments and type(position[0]) is int and type(position[1]) is str:
            return position
    except (binascii.Error, ValueError, KeyError, NotCanonical):
        pass
    raise InputInvalid("page_token is not one of an earlier answer with the same arguments")
