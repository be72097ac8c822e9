"""Ed25519 verification in plain Python (RFC 8032 section 5.1.7), so that a verifier needs nothing but Python.

Stricter than the RFC where implementations disagree: encodings must be canonical, S below the group order, and the
public key must not be a point of small order. A few milliseconds per signature; verifying handles public values only,
so running time may depend on them.
"""

import hashlib

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_SQRT_M1 = pow(2, (_P - 1) // 4, _P)

Point = tuple[int, int, int, int]
"""Extended twisted Edwards coordinates (X, Y, Z, T), x = X/Z, y = Y/Z, xy = T/Z (RFC 8032 section 5.1.4)."""

_IDENTITY: Point = (0, 1, 1, 0)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` (64 bytes) is by `public` (32 bytes) over `message`. Never raises."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a = _decompress(public)
    r = _decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= _L or _is_small_order(a):
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    # [S]B = R + [h]A, checked as [S]B + [h](-A) = R: one pass over the bits of both scalars.
    return _equal(_double_scalar(s, _BASE, h, _negate(a)), r)


def is_valid_key(public: bytes) -> bool:
    """Tell whether 32 bytes are a canonical point of the curve that is not of small order."""
    point = _decompress(public) if len(public) == 32 else None
    return point is not None and not _is_small_order(point)


def _decompress(data: bytes) -> Point | None:
    raw = int.from_bytes(data, "little")
    sign, y = raw >> 255, raw & ((1 << 255) - 1)
    if y >= _P:
        return None
    x2 = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if x2 == 0:
        return None if sign else (0, y, 1, 0)
    x = pow(x2, (_P + 3) // 8, _P)
    if (x * x - x2) % _P:
        x = x * _SQRT_M1 % _P
    if (x * x - x2) % _P:
        return None
    if x & 1 != sign:
        x = _P - x
    return (x, y, 1, x * y % _P)


def _add(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _double(p: Point) -> Point:
    a = p[0] * p[0] % _P
    b = p[1] * p[1] % _P
    c = 2 * p[2] * p[2] % _P
    h = a + b
    e = h - (p[0] + p[1]) ** 2 % _P
    g = a - b
    f = c + g
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _negate(p: Point) -> Point:
    return (_P - p[0], p[1], p[2], _P - p[3])


def _equal(p: Point, q: Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % _P == 0 and (p[1] * q[2] - q[1] * p[2]) % _P == 0


def _is_small_order(p: Point) -> bool:
    return _equal(_double(_double(_double(p))), _IDENTITY)


def _double_scalar(s: int, p: Point, t: int, q: Point) -> Point:
    """Return [s]p + [t]q by Shamir's trick: shared doublings."""
    both = _add(p, q)
    result = _IDENTITY
    for bit in range(max(s.bit_length(), t.bit_length()) - 1, -1, -1):
        result = _double(result)
        pair = (s >> bit & 1, t >> bit & 1)
        if pair == (1, 1):
            result = _add(result, both)
        elif pair == (1, 0):
            result = _add(result, p)
        elif pair == (0, 1):
            result = _add(result, q)
    return result


def _base() -> Point:
    point = _decompress((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    if point is None:  # pragma: no cover (a constant)
        raise AssertionError("the base point lies on the curve")
    return point


_BASE = _base()
