"""Where an export comes from: a directory, a zip, or a log's URL. Standard library only.

Whatever is there, reading raises only VerificationError: what cannot be fetched is incomplete, what cannot be right is
tampered.
"""

import argparse
import gzip
import http.client
import ssl
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tiles import CHECKPOINT
from counterseal.ledger.verify import Source

MAX_FILE_BYTES = 17 << 20
"""Above the largest file of the layout: 256 entries of 65,535 bytes, each with its length."""

MAX_LINE_BYTES = 8 << 20
"""Above the disclosures of the largest entry."""

TIMEOUT_SECONDS = 30.0

_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # NotImplementedError too: encrypted, or a compression that Python does not have
    ValueError,
    LookupError,
    OverflowError,
)
_BROKEN_HTTP = (http.client.HTTPException, OSError, ValueError, EOFError, zlib.error)


class _Readable(Protocol):
    def readline(self, limit: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Directory:
    """The files of an export on disk."""

    root: Path

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, at most one more than any good file has; None when there is no such file."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise VerificationError(f"the file cannot be read: {error.strerror}", kind="incomplete") from None

    def paths(self, below: str = "tile/") -> Iterable[str]:
        """Return the paths of all files below a folder."""
        found = (self.root / below).rglob("*")
        return sorted(path.relative_to(self.root).as_posix() for path in found if not path.is_dir())

    def lines(self, path: str) -> Iterator[bytes] | None:
        """Yield a file's lines without their newlines; None when there is no such file."""
        file = self.root / path
        return _file_lines(file) if file.is_file() else None


class Zip:
    """The files of an export in a zip, at its top or in one folder."""

    def __init__(self, path: Path) -> None:
        """Open a zip. Raises VerificationError when it is none, or has a name twice."""
        try:
            self._zip = zipfile.ZipFile(path)
            names = Counter(self._zip.namelist())
        except _BROKEN_ZIP as error:
            raise VerificationError(f"{path.name} is not a zip that can be read: {_word(error)}") from None
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise VerificationError(f"the zip holds {twice[0]!r} more than once")
        heads = [name for name in names if name == CHECKPOINT or name.endswith("/" + CHECKPOINT)]
        self._top = min(heads, key=lambda name: (name.count("/"), name), default="").removesuffix(CHECKPOINT)
        self._names = frozenset(names)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, at most one more than any good file has; None when there is no such file."""
        name = self._top + path
        if name not in self._names:
            return None
        try:
            with self._zip.open(name) as file:
                return file.read(MAX_FILE_BYTES + 1)
        except _BROKEN_ZIP as error:
            raise VerificationError(f"the zip's member cannot be read: {_word(error)}") from None

    def paths(self, below: str = "tile/") -> Iterable[str]:
        """Return the paths of all files below a folder."""
        below = self._top + below
        return sorted(
            name.removeprefix(self._top) for name in self._names if name.startswith(below) and not name.endswith("/")
        )

    def lines(self, path: str) -> Iterator[bytes] | None:
        """Yield a file's lines without their newlines; None when there is no such file."""
        name = self._top + path
        return self._lines(name) if name in self._names else None

    def close(self) -> None:
        """Close the zip."""
        self._zip.close()

    def _lines(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(name) as file:
                yield from _lines(file)
        except _BROKEN_ZIP as error:
            raise VerificationError(f"the zip's member cannot be read: {_word(error)}") from None


class Url:
    """The files of a log below a URL (C2SP tlog-tiles), over one connection that is kept."""

    def __init__(self, url: str, *, token: str = "", context: ssl.SSLContext | None = None) -> None:
        """Prepare reading; connects on first use. Raises VerificationError when the URL cannot be one."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise VerificationError(f"{url!r} is not the address of a log")
        if parts.scheme == "https":
            context = context or ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT_SECONDS, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        self._prefix = parts.path.rstrip("/") + "/"
        self._headers = {"Accept-Encoding": "gzip, identity"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None when the server says that there is none."""
        try:
            response = self._get(path)
            body = response.read(MAX_FILE_BYTES + 1)
            if len(body) <= MAX_FILE_BYTES and response.length:
                raise http.client.IncompleteRead(body, response.length)  # `read` with a limit does not say so itself
            if len(body) > MAX_FILE_BYTES or response.status not in (200, 404, 410):
                self._connection.close()
            encoding = response.headers.get("Content-Encoding", "identity").lower()
            if response.status == 200 and encoding == "gzip":
                body = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, MAX_FILE_BYTES + 1)
        except _BROKEN_HTTP as error:
            self._connection.close()
            raise VerificationError(f"the server cannot be read: {_word(error)}", kind="incomplete") from None
        return body if self._is_found(response.status) else None

    def paths(self, below: str = "tile/") -> Iterable[str]:
        """Return nothing: a server does not list its files."""
        del below
        return ()

    def lines(self, path: str) -> Iterator[bytes] | None:
        """Yield a file's lines without their newlines; None when the server says that there is none."""
        try:
            response = self._get(path)
        except _BROKEN_HTTP as error:
            self._connection.close()
            raise VerificationError(f"the server cannot be read: {_word(error)}", kind="incomplete") from None
        if not self._is_found(response.status):
            self._connection.close()
            return None
        # Read to its end before the next request: one connection carries one answer at a time.
        gzipped = response.headers.get("Content-Encoding", "identity").lower() == "gzip"
        return self._spooled(response, gzipped=gzipped)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _spooled(self, response: http.client.HTTPResponse, *, gzipped: bool) -> Iterator[bytes]:
        import tempfile

        with tempfile.TemporaryFile() as spool:
            try:
                while chunk := response.read(1 << 16):
                    spool.write(chunk)
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)
            except _BROKEN_HTTP as error:
                self._connection.close()
                raise VerificationError(f"the server cannot be read: {_word(error)}", kind="incomplete") from None
            spool.seek(0)
            try:
                yield from _lines(gzip.GzipFile(fileobj=spool) if gzipped else spool)
            except (OSError, EOFError, zlib.error) as error:
                raise VerificationError(f"the file cannot be read: {_word(error)}", kind="incomplete") from None

    def _is_found(self, status: int) -> bool:
        if status in (404, 410):
            return False
        if status != 200:
            raise VerificationError(f"the server answers with status {status}", kind="incomplete")
        return True

    def _get(self, path: str) -> http.client.HTTPResponse:
        try:
            return self._ask(path)
        except (http.client.HTTPException, ConnectionError):  # a kept connection that the server closed meanwhile
            self._connection.close()
            return self._ask(path)

    def _ask(self, path: str) -> http.client.HTTPResponse:
        self._connection.request("GET", self._prefix + path, headers=self._headers)
        return self._connection.getresponse()


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options for reading a log from a server."""
    parser.add_argument("--token-file", metavar="FILE", help="bearer token for a URL")
    parser.add_argument("--cert", metavar="FILE", help="client certificate for a URL (PEM), with --key")
    parser.add_argument("--key", metavar="FILE", help="the client certificate's key (PEM)")
    parser.add_argument("--ca", metavar="FILE", help="whom to trust for a URL's certificate, default: the system")


@contextmanager
def opened(text: str, args: argparse.Namespace) -> "Iterator[Source | None]":
    """Give the export that `text` names, None when there is nothing by that name; connections end with the block.

    Raises VerificationError when there is something that is no export; OSError for option files that cannot be read.
    """
    source = _open(text, args)
    try:
        yield source
    finally:
        if isinstance(source, Zip | Url):
            source.close()


def _open(text: str, args: argparse.Namespace) -> Directory | Zip | Url | None:
    if text.startswith(("http://", "https://")):
        token = Path(args.token_file).read_text(encoding="ascii").strip() if args.token_file else ""
        context = None
        if args.ca or args.cert:
            context = ssl.create_default_context(cafile=args.ca)
            if args.cert:
                context.load_cert_chain(args.cert, args.key)
        return Url(text, token=token, context=context)
    path = Path(text)
    if path.is_dir():
        return Directory(path)
    return Zip(path) if path.is_file() else None


def _file_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from _lines(file)
    except OSError as error:
        raise VerificationError(f"the file cannot be read: {error.strerror}", kind="incomplete") from None


def _lines(file: "_Readable | BinaryIO") -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise VerificationError(f"a line of more than {MAX_LINE_BYTES} bytes")
        yield line.removesuffix(b"\n")


def _word(error: BaseException) -> str:
    """Return a name for what happened, without bytes that came from outside."""
    return type(error).__name__
