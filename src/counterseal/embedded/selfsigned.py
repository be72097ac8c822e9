"""A self-signed loopback certificate (X.509 v3, P-256), for servers that start before there is a PKI.

OpenBao is where certificates come from, so its own listener cannot have one of those; the embedded stack still never
speaks plaintext to it. Written by hand because the usual library is forbidden in the runtime closure (Rust).
Structure: RFC 5280 sections 4.1 and 4.2; ECDSA with SHA-256: RFC 5758.
"""

import hashlib
import ipaddress
import secrets
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from Cryptodome.Hash import SHA256
from Cryptodome.PublicKey import ECC
from Cryptodome.Signature import DSS
from Cryptodome.Util.asn1 import DerInteger, DerObjectId

from counterseal.clock import Clock

VALID_DAYS = 3650
BACKDATE = timedelta(hours=1)  # a clock that is a little behind must not refuse a fresh certificate


@dataclass(frozen=True, slots=True)
class Files:
    """Where a certificate and its key lie; the certificate is its own trust anchor."""

    certificate: Path
    key: Path


def ensure(directory: Path, name: str, clock: Clock) -> Files:
    """Return the certificate `name` of a directory, made at the first call. The key's file has mode 0600."""
    files = Files(directory / f"{name}.crt", directory / f"{name}.key")
    if not files.certificate.exists():
        key = ECC.generate(curve="P-256")
        files.key.touch(mode=0o600)
        files.key.write_text(key.export_key(format="PEM") + "\n")
        files.certificate.write_text(certificate(key, name, clock))
    return files


def certificate(key: ECC.EccKey, name: str, clock: Clock) -> str:
    """Return the PEM of a certificate for `localhost` and 127.0.0.1, signed by its own key."""
    start = datetime.fromtimestamp(clock() / 1000, UTC) - BACKDATE
    public = key.public_key().export_key(format="DER")
    algorithm = _seq(_oid("1.2.840.10045.4.3.2"))
    subject = _seq(_tlv(0x31, _seq(_oid("2.5.4.3"), _tlv(0x0C, f"counterseal {name}".encode()))))
    body = _seq(
        _tlv(0xA0, DerInteger(2).encode()),
        DerInteger(secrets.randbits(120) | 1 << 119).encode(),
        algorithm,
        subject,
        _seq(_time(start), _time(start + timedelta(days=VALID_DAYS))),
        subject,
        public,
        _tlv(0xA3, _seq(*_extensions(public))),
    )
    signature = DSS.new(key, "fips-186-3", encoding="der").sign(SHA256.new(body))
    return ssl.DER_cert_to_PEM_cert(_seq(body, algorithm, _tlv(0x03, b"\x00" + signature)))


def _extensions(public: bytes) -> list[bytes]:
    key_id = _tlv(0x04, hashlib.sha256(public).digest()[:20])
    address = ipaddress.ip_address("127.0.0.1").packed
    names = _seq(_tlv(0x82, b"localhost"), _tlv(0x87, address))
    return [
        _extension("2.5.29.19", _seq(_TRUE), critical=True),  # basicConstraints CA
        _extension("2.5.29.15", _tlv(0x03, b"\x02\x84"), critical=True),  # digitalSignature, keyCertSign
        _extension("2.5.29.37", _seq(_oid("1.3.6.1.5.5.7.3.1"))),  # serverAuth
        _extension("2.5.29.14", key_id),
        _extension("2.5.29.17", names),
    ]


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    flag = [_TRUE] if critical else []
    return _seq(_oid(oid), *flag, _tlv(0x04, value))


def _seq(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _oid(text: str) -> bytes:
    return DerObjectId(text).encode()


def _time(moment: datetime) -> bytes:
    # RFC 5280 section 4.1.2.5: UTCTime through the year 2049.
    return _tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    head = bytes([length]) if length < 0x80 else bytes([0x80 | len(size)]) + size
    return bytes([tag]) + head + content


_TRUE = b"\x01\x01\xff"
