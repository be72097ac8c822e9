"""A certificate authority for tests: X.509 v3, P-256, any SANs, also those that no real authority would issue."""

import hashlib
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from Cryptodome.Hash import SHA256
from Cryptodome.PublicKey import ECC
from Cryptodome.Signature import DSS
from Cryptodome.Util.asn1 import DerInteger, DerObjectId

from counterseal.clock import system_clock
from counterseal.rpc.tls import Identity


@dataclass(frozen=True)
class Authority:
    """A root; `issue` makes leaves that chain to it."""

    key: ECC.EccKey
    pem: bytes
    name: bytes

    @classmethod
    def create(cls, name: str) -> "Authority":
        key = ECC.generate(curve="P-256")
        subject = _name(name)
        pem = _certificate(key, subject, key, subject, [_basic(ca=True), _extension("2.5.29.15", b"\x03\x02\x02\x84")])
        return cls(key, pem, subject)

    def issue(self, *, uris: Sequence[str] = (), dns: Sequence[str] = (), valid: timedelta | None = None) -> Identity:
        """Return a leaf with these names; `valid` counts from an hour ago."""
        key = ECC.generate(curve="P-256")
        names = [_tlv(0x86, uri.encode()) for uri in uris] + [_tlv(0x82, name.encode()) for name in dns]
        extensions = [_basic(ca=False)]
        if names:
            extensions.append(_extension("2.5.29.17", _seq(*names)))
        pem = _certificate(key, _name("leaf"), self.key, self.name, extensions, valid or timedelta(days=1))
        return Identity(pem, key.export_key(format="PEM").encode(), self.pem)


def _certificate(
    key: ECC.EccKey,
    subject: bytes,
    signer: ECC.EccKey,
    issuer: bytes,
    extensions: Sequence[bytes],
    valid: timedelta = timedelta(days=1),
) -> bytes:
    start = datetime.fromtimestamp(system_clock() / 1000, UTC) - timedelta(hours=1)
    public = key.public_key().export_key(format="DER")
    algorithm = _seq(_oid("1.2.840.10045.4.3.2"))
    key_id = _tlv(0x04, hashlib.sha256(public).digest()[:20])
    body = _seq(
        _tlv(0xA0, DerInteger(2).encode()),
        DerInteger(secrets.randbits(120) | 1 << 119).encode(),
        algorithm,
        issuer,
        _seq(_time(start), _time(start + valid)),
        subject,
        public,
        _tlv(0xA3, _seq(*extensions, _extension("2.5.29.14", key_id))),
    )
    signature = DSS.new(signer, "fips-186-3", encoding="der").sign(SHA256.new(body))
    return ssl.DER_cert_to_PEM_cert(_seq(body, algorithm, _tlv(0x03, b"\x00" + signature))).encode()


def _basic(*, ca: bool) -> bytes:
    return _extension("2.5.29.19", _seq(b"\x01\x01\xff") if ca else _seq())


def _extension(oid: str, value: bytes) -> bytes:
    return _seq(_oid(oid), _tlv(0x04, value))


def _name(text: str) -> bytes:
    return _seq(_tlv(0x31, _seq(_oid("2.5.4.3"), _tlv(0x0C, text.encode()))))


def _seq(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _oid(text: str) -> bytes:
    return DerObjectId(text).encode()


def _time(moment: datetime) -> bytes:
    return _tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    head = bytes([length]) if length < 0x80 else bytes([0x80 | len(size)]) + size
    return bytes([tag]) + head + content
