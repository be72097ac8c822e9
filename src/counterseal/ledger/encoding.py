"""Strict text encodings: one text per value, so that nothing can be altered without being noticed."""

import base64
import binascii
import re

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import MAX_SIZE

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


def b64(data: bytes) -> str:
    """Return standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def parse_b64(text: str, what: str) -> bytes:
    """Decode standard base64 that is spelled in the only canonical way. Raises VerificationError naming `what`."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise VerificationError(f"{what} is not base64") from None
    if b64(data) != text:
        raise VerificationError(f"{what} is not canonical base64")
    return data


def b64url(data: bytes) -> str:
    """Return URL-safe base64 without padding (RFC 4648 section 5), as RFC 9901 uses it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parse_b64url(text: str, what: str) -> bytes:
    """Decode unpadded URL-safe base64 in its only canonical spelling. Raises VerificationError naming `what`."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise VerificationError(f"{what} is not base64url") from None
    if b64url(data) != text:
        raise VerificationError(f"{what} is not canonical base64url")
    return data


def parse_decimal(text: str, what: str) -> int:
    """Read an ASCII decimal without sign or leading zeroes, below 2^63. Raises VerificationError naming `what`."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise VerificationError(f"{what} is not a decimal number below 2^63")
    return int(text)


def parse_text(data: bytes, what: str) -> str:
    """Decode UTF-8 without control characters other than newline. Raises VerificationError naming `what`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VerificationError(f"{what} is not UTF-8 at byte {error.start}") from None
    control = _CONTROL.search(text)
    if control is not None:
        raise VerificationError(f"{what} holds a control character at character {control.start()}")
    return text
