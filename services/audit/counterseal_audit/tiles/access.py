"""Who may read which tenant's logs over HTTP: a bearer token by its digest, or a name in a client certificate."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterseal_audit.tiles.config import ReaderConfig

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(slots=True)
class TokenFile:
    """The token digests of one tenant, read again whenever the file changes: a line taken out is a token revoked."""

    path: Path
    _read: tuple[int, int, int] = (0, 0, 0)
    _digests: frozenset[bytes] = frozenset()

    def holds(self, digest: bytes) -> bool:
        """Tell whether a token's digest is in the file; a file that cannot be read admits nobody."""
        try:
            found = self.path.stat()
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if state != self._read:
                matches = map(_DIGEST.fullmatch, self.path.read_text("ascii").split())
                self._digests = frozenset(bytes.fromhex(match[1]) for match in matches if match)
                self._read = state
        except (OSError, ValueError):
            return False
        return any(hmac.compare_digest(digest, known) for known in self._digests)


@dataclass(slots=True)
class Access:
    """The readers of the configuration."""

    readers: Mapping[str, ReaderConfig]
    _files: dict[str, TokenFile] = field(init=False)

    def __post_init__(self) -> None:
        """Make the token files."""
        self._files = {
            tenant: TokenFile(reader.token_file)
            for tenant, reader in self.readers.items()
            if reader.token_file is not None
        }

    def by_token(self, authorization: str) -> list[str]:
        """Return the tenants that a bearer token opens."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return []
        digest = hashlib.sha256(token.strip().encode()).digest()
        return [tenant for tenant, file in self._files.items() if file.holds(digest)]

    def by_names(self, names: Iterable[str]) -> list[str]:
        """Return the tenants that a verified client certificate's names open."""
        shown = set(names)
        return [tenant for tenant, reader in self.readers.items() if shown & set(reader.clients)]


def names_in(certificate: Mapping[str, Any] | None) -> list[str]:
    """Return the URI and DNS names of a verified peer certificate, as `ssl` shows it."""
    alternatives = (certificate or {}).get("subjectAltName", ())
    return [value for kind, value in alternatives if kind in {"URI", "DNS"}]
