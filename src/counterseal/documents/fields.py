"""A strict reader of JSON objects: closed field sets, exact types, and a JSON pointer in every complaint."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from counterseal.errors import ServiceError

T = TypeVar("T")

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NAME_PART = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""A part of a name that also becomes a Vault path or a database role (credentials: names and provisioning)."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z")
_MISSING: Any = object()


def token(key: str) -> str:
    """Return `key` escaped as one token of a JSON pointer (RFC 6901 section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def time_ms(text: str) -> int | None:
    """Return an RFC 3339 time in `Z` as milliseconds since the epoch, or None when it is not one."""
    if not _TIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return round(moment.timestamp() * 1000)


class Fields(Generic[T]):
    """Reads one object field by field; `done()` refuses what nobody asked for.

    `fail` is the error to raise: a subclass of ServiceError that takes (message, pointer=...).
    """

    def __init__(self, value: Any, where: str, fail: type[ServiceError]) -> None:
        self._fail = fail
        self._where = where
        self._seen: set[str] = set()
        if not isinstance(value, dict):
            raise self.error("must be an object")
        self._value: Mapping[str, Any] = value

    def error(self, message: str, key: str | None = None) -> ServiceError:
        """Return the error for this object, or for its field `key`."""
        where = self._where if key is None else f"{self._where}/{token(key)}"
        return self._fail(f"{where or 'the document'}: {message}", pointer=where)

    def has(self, key: str) -> bool:
        """Tell whether the field is present."""
        return key in self._value

    def raw(self, key: str, default: Any = _MISSING) -> Any:
        """Return the field as it is; without a default it must be present."""
        self._seen.add(key)
        if key in self._value:
            return self._value[key]
        if default is _MISSING:
            raise self.error("is required", key)
        return default

    def text(
        self, key: str, default: Any = _MISSING, *, most: int = 4096, pattern: re.Pattern[str] | None = None
    ) -> Any:
        """Return a string of 1 to `most` characters that matches `pattern` as a whole."""
        value = self.raw(key, default)
        if key not in self._value:
            return value
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            raise self.error(f"must be text of 1 to {most} characters", key)
        if pattern is not None and not pattern.fullmatch(value):
            raise self.error(f"must match {pattern.pattern}", key)
        return value

    def integer(self, key: str, default: Any = _MISSING, *, least: int = 0, most: int = (1 << 53) - 1) -> Any:
        """Return an integer within the bounds; a boolean is none."""
        value = self.raw(key, default)
        if key not in self._value:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(f"must be an integer from {least} to {most}", key)
        return value

    def boolean(self, key: str, default: Any = _MISSING) -> Any:
        """Return true or false."""
        value = self.raw(key, default)
        if key in self._value and not isinstance(value, bool):
            raise self.error("must be true or false", key)
        return value

    def one_of(self, key: str, choices: tuple[str, ...], default: Any = _MISSING) -> Any:
        """Return one of the listed words."""
        value = self.raw(key, default)
        if key in self._value and value not in choices:
            raise self.error(f"must be one of {', '.join(choices)}", key)
        return value

    def time(self, key: str) -> int | None:
        """Return an optional RFC 3339 time in `Z` as milliseconds since the epoch."""
        value = self.text(key, None, most=24)
        if value is None:
            return None
        moment = time_ms(value)
        if moment is None:
            raise self.error("must be a time such as 2026-11-22T10:00:00Z", key)
        return moment

    def items(self, key: str, read: Callable[[Any, str], T], *, most: int, default: Any = _MISSING) -> tuple[T, ...]:
        """Return a list of at most `most` items, each read by `read(value, pointer)`."""
        value = self.raw(key, default)
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise self.error(f"must be a list of at most {most} items", key)
        return tuple(read(item, f"{self._where}/{token(key)}/{index}") for index, item in enumerate(value))

    def texts(self, key: str, *, most: int = 64, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        """Return an optional list of strings."""

        def read(value: Any, where: str) -> str:
            if not isinstance(value, str) or not 1 <= len(value) <= 4096:
                raise self._fail(f"{where}: must be text of 1 to 4096 characters", pointer=where)
            if pattern is not None and not pattern.fullmatch(value):
                raise self._fail(f"{where}: must match {pattern.pattern}", pointer=where)
            return value

        return Fields.items(self, key, read, most=most, default=())  # type: ignore[arg-type]

    def done(self) -> None:
        """Refuse any field that was not read."""
        unknown = sorted(set(self._value) - self._seen)
        if unknown:
            raise self.error("is not a field of this object", unknown[0])
