"""Sections `[audit.export]` and `[audit.http]`: where logs are written as files, and who may read them over HTTP."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TENANT = re.compile(r"_system|[a-z0-9]+(-[a-z0-9]+)*")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Section `[audit.export]`.

    directory: where every log is kept as files, `<tenant>/<last part of the origin>/...`; absent: nowhere. Replicas may
    share one directory or have one each.
    """

    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """Section `[audit.http.readers.<tenant>]`: who may read that tenant's logs.

    token_file: one `sha256:<hex>` of a bearer token a line; read again when it changes. clients: URI or DNS names in
    client certificates (mTLS).
    """

    token_file: Path | None = None
    clients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Section `[audit.http]`.

    listen: `host:port`; empty: no HTTP. Without a certificate only a loopback address, for a proxy on the same machine.
    certificate_file, key_file: PEM; read again when they change. client_ca_file: roots of client certificates (mTLS).
    readers: who may read what, by tenant.
    """

    listen: str = ""
    certificate_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    readers: Mapping[str, ReaderConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would serve nobody, or tokens in clear over a network."""
        if not self.listen:
            return
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError("listen: expected host:port")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        if self.certificate_file is None and host.strip("[]") not in _LOOPBACK:
            raise ValueError(
                "listen: without a certificate only a loopback address, since tokens would travel in clear"
            )
        if self.client_ca_file is not None and self.certificate_file is None:
            raise ValueError("client_ca_file: client certificates need TLS, so certificate_file and key_file")
        for tenant, reader in self.readers.items():
            if not _TENANT.fullmatch(tenant):
                raise ValueError(f"readers.{tenant}: not a tenant's name")
            if reader.token_file is None and not reader.clients:
                raise ValueError(f"readers.{tenant}: neither token_file nor clients, so nobody could read")
            if reader.clients and self.client_ca_file is None:
                raise ValueError(f"readers.{tenant}.clients: needs client_ca_file")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)
