"""The one door to Vault: every call that the suite makes, asynchronous, over hvac's transport.

How hvac is held (each guards something that was reproduced):
* a token is always given, never found in the environment or home directory; no redirects (they carry the token), no
  proxies from the environment, no retries (`GET creds/x` creates a user each time);
* blocking calls run on an executor of their own, so that a hung Vault starves nobody else; revoking uses a lane of
  its own beside issuing (`Vault.lane`);
* the time limit lies inside the library: `wait_for` stops the waiting, not the effect. Awaits are shielded: a cancelled
  await must not orphan a lease that the thread goes on to create;
* Vault's answer bodies appear in no exception text.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import hvac
import requests
from requests.adapters import HTTPAdapter

from counterseal.clock import monotonic_ms
from counterseal.errors import CredentialsUnavailable
from counterseal.vault.names import safe_path

T = TypeVar("T")

CONNECT_SECONDS = 2
READ_SECONDS = 10
THREADS = 8


class VaultRefused(Exception):
    """Vault answered and said no. `status` is HTTP's; `errors` holds Vault's words and is never part of `str()`.

    400 also means "not found", 403 an expired token, 404 an empty list.
    """

    def __init__(self, status: int, operation: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(f"Vault refused {operation} ({status})")
        self.status = status
        self.errors = errors


class VersionMoved(VaultRefused):
    """A compare-and-set write came too late: the value has another version by now."""


class VaultUnavailable(CredentialsUnavailable):
    """Vault did not answer, is sealed, or failed inside. Whether the call took effect is not known.

    `errors` holds Vault's words and is never part of `str()`.
    """

    def __init__(self, message: str, *, status: int = 0, errors: tuple[str, ...] = ()) -> None:
        super().__init__(message, status=status)
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate, its key and the CA bundle, as PEM; `expire_time_ms` in milliseconds since 1970."""

    cert_pem: str
    key_pem: str = field(repr=False)
    ca_pem: str
    expire_time_ms: int


@dataclass(frozen=True, slots=True)
class Login:
    """A database login out of a credential path, and the lease that ends it."""

    username: str
    password: str = field(repr=False)
    lease_id: str = field(repr=False)
    lease_seconds: int


class Signer(Protocol):
    """Signs with a key that never leaves its store."""

    async def sign(self, message: bytes) -> tuple[bytes, str]:
        """Return the Ed25519 signature (64 bytes) and the key id, such as `ctx-prod:3`."""


class Vault:
    """One login at one Vault. Make it by `login_approle`, `with_token` or `anonymous`."""

    def __init__(self, address: str, ca_file: Path | None, login: "_Login", threads: int) -> None:
        self.address = address
        self._ca_file = ca_file
        self._login = login
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vault")
        self._session = _session(ca_file, threads)

    @classmethod
    async def login_approle(
        cls, address: str, role_id: str, secret_id: str, *, ca_file: Path | None = None, threads: int = THREADS
    ) -> "Vault":
        """Log in by AppRole. The token is renewed at half its life, and replaced when Vault no longer knows it.

        Raises VaultRefused when the role or secret is wrong, VaultUnavailable when Vault does not answer.
        """
        vault = cls(address, ca_file, _AppRoleLogin(role_id, secret_id), threads)
        await vault._login.token(vault)
        return vault

    @classmethod
    def with_token(cls, address: str, token: str, *, ca_file: Path | None = None, threads: int = 2) -> "Vault":
        """Use a token that somebody else made."""
        return cls(address, ca_file, _FixedLogin(token), threads)

    def lane(self, threads: int) -> "Vault":
        """Return the same login with threads and connections of its own, which a busy first lane cannot starve."""
        return Vault(self.address, self._ca_file, self._login, threads)

    def close(self) -> None:
        """Give up the connections; calls under way end by themselves."""
        self._pool.shutdown(wait=False)
        self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        wrap_ttl_seconds: int | None = None,
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Make one API call under this login and return the answer's JSON, `{}` where there is none.

        method: GET, POST, PUT, DELETE or LIST. path: without `/v1/`, segments checked.
        Raises VaultRefused, VaultUnavailable.
        """
        for attempt in (0, 1):
            token = await self._login.token(self)
            try:
                return await self.raw(
                    method, path, body, token=token, headers=headers, wrap_ttl_seconds=wrap_ttl_seconds, params=params
                )
            except VaultRefused as refused:
                # 403 is a missing right or a dead token: only the latter is worth a new login, once.
                if refused.status != 403 or attempt or not await self._login.replace(self, token):
                    raise
        raise AssertionError("unreachable")

    async def raw(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str,
        headers: Mapping[str, str] | None = None,
        wrap_ttl_seconds: int | None = None,
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Make one API call under an explicit token; otherwise as `call`."""
        operation = f"{method} {safe_path(path)}"
        extra: dict[str, Any] = {"json": dict(body)} if body is not None else {}
        if wrap_ttl_seconds is not None:
            extra["wrap_ttl"] = f"{wrap_ttl_seconds}s"
        if params is not None:
            extra["params"] = dict(params)

        def blocking() -> Any:
            client = hvac.Client(
                url=self.address,
                token=token,
                verify=str(self._ca_file) if self._ca_file else True,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                session=self._session,
            )
            return client.adapter.request(
                method.lower(), f"/v1/{path}", headers=dict(headers or {}), raise_exception=False, **extra
            )

        try:
            answer = await self._off_loop(blocking)
        except requests.exceptions.RequestException:
            raise VaultUnavailable("Vault did not answer") from None
        if isinstance(answer, dict):
            return answer
        return _checked(answer, operation)

    async def transit_sign(
        self, mount: str, key: str, data: bytes, key_version: int | None = None
    ) -> tuple[bytes, int]:
        """Sign with an Ed25519 transit key; return the 64-byte signature and the key's version."""
        body: dict[str, Any] = {"input": base64.b64encode(data).decode()}
        if key_version is not None:
            body["key_version"] = key_version
        answer = await self.call("POST", f"{mount}/sign/{key}", body)
        return _signature(answer["data"])

    async def transit_sign_batch(
        self, mount: str, key: str, messages: Sequence[bytes], key_version: int
    ) -> list[tuple[bytes, int] | None]:
        """Sign many messages with one version of an Ed25519 key, in one call; None where one item failed.

        The version stands beside the batch: Vault ignores one inside an item. A batch whose items failed is still
        answered with 200, so each item is looked at.
        """
        batch = [{"input": base64.b64encode(message).decode()} for message in messages]
        body = {"batch_input": batch, "key_version": key_version}
        results = (await self.call("POST", f"{mount}/sign/{key}", body))["data"]["batch_results"]
        if len(results) != len(messages):
            raise VaultUnavailable("Vault answered another number of signatures than it was asked for")
        return [None if item.get("error") or not item.get("signature") else _signature(item) for item in results]

    async def transit_public_keys(self, mount: str, key: str) -> dict[int, bytes]:
        """Return the 32-byte Ed25519 public keys of all versions that Vault still shows."""
        answer = await self.call("GET", f"{mount}/keys/{key}")
        return {int(version): base64.b64decode(item["public_key"]) for version, item in answer["data"]["keys"].items()}

    async def issue_certificate(self, mount: str, role: str, common_name: str, uri_sans: str, ttl: str) -> Certificate:
        """Issue a certificate with one DNS name (none when `common_name` is empty) and one URI SAN."""
        body = {"common_name": common_name, "uri_sans": uri_sans, "ttl": ttl, "private_key_format": "pkcs8"}
        data = (await self.call("POST", f"{mount}/issue/{role}", body))["data"]
        chain = data.get("ca_chain") or [data["issuing_ca"]]
        return Certificate(
            cert_pem=data["certificate"] + "\n",
            key_pem=data["private_key"] + "\n",
            ca_pem="\n".join(chain) + "\n",
            expire_time_ms=int(data["expiration"]) * 1000,
        )

    async def ca_bundle(self, mount: str) -> str:
        """Return the PEM of every CA certificate that a peer may chain to (two while an issuer is replaced)."""
        issuers = (await self.call("LIST", f"{mount}/issuers"))["data"]["keys"]
        found = [await self.call("GET", f"{mount}/issuer/{issuer}/json") for issuer in issuers]
        return "".join(str(item["data"]["certificate"]).strip() + "\n" for item in found)

    async def static_credentials(self, mount: str, role: str) -> tuple[str, str]:
        """Return user name and current password of a static database role."""
        data = (await self.call("GET", f"{mount}/static-creds/{role}"))["data"]
        return str(data["username"]), str(data["password"])

    async def kv_get(self, mount: str, path: str) -> tuple[dict[str, Any], int] | None:
        """Return a KV v2 value and its version, or None where there is none (or it was deleted)."""
        try:
            data = (await self.call("GET", f"{mount}/data/{path}"))["data"]
        except VaultRefused as refused:
            if refused.status == 404:
                return None
            raise
        return dict(data["data"]), int(data["metadata"]["version"])

    async def kv_version(self, mount: str, path: str) -> int:
        """Return the version that a write must name, also where the latest one was deleted; 0 where there is none."""
        try:
            return int((await self.call("GET", f"{mount}/metadata/{path}"))["data"]["current_version"])
        except VaultRefused as refused:
            if refused.status == 404:
                return 0
            raise

    async def kv_put(self, mount: str, path: str, value: Mapping[str, Any], cas: int) -> int:
        """Write a KV v2 value if its version is still `cas` (0: it must not exist); return the new version.

        Raises VersionMoved when somebody was faster.
        """
        body = {"data": dict(value), "options": {"cas": cas}}
        try:
            return int((await self.call("POST", f"{mount}/data/{path}", body))["data"]["version"])
        except VaultRefused as refused:
            if refused.status == 400 and any("check-and-set" in word for word in refused.errors):
                raise VersionMoved(refused.status, "a compare-and-set write", refused.errors) from refused
            raise

    async def wrapping_lookup(self, wrapping_token: str) -> str:
        """Return the path that created a wrapping token; a holder compares it before unwrapping."""
        answer = await self.raw("POST", "sys/wrapping/lookup", {"token": wrapping_token}, token="")
        return str(answer["data"]["creation_path"])

    async def unwrap_token(self, wrapping_token: str) -> str:
        """Unwrap a single-use wrapper of a token. VaultRefused (400): somebody was first, or it expired."""
        answer = await self.raw("POST", "sys/wrapping/unwrap", token=wrapping_token)
        return str(answer["auth"]["client_token"])

    async def read_login(self, path: str, token: str) -> Login:
        """Create and return a database login by reading its path under a grant's own token."""
        answer = await self.raw("GET", path, token=token)
        data = answer["data"]
        return Login(data["username"], data["password"], answer["lease_id"], int(answer["lease_duration"]))

    async def _off_loop(self, blocking: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._pool, blocking))


def _signature(item: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return a signature and its key's version out of `vault:v<version>:<base64>`."""
    _, version, signature = str(item["signature"]).split(":")
    return base64.b64decode(signature), int(version[1:])


class TransitSigner:
    """A `Signer` over one transit key. `key_version` pins the version during a rotation; None takes the newest."""

    def __init__(self, vault: Vault, mount: str, key: str, key_version: int | None = None) -> None:
        self._vault, self._mount, self._key, self._version = vault, mount, key, key_version

    async def sign(self, message: bytes) -> tuple[bytes, str]:
        """Return the signature and `<key>:<version>`. Raises VaultUnavailable, VaultRefused."""
        signature, version = await self._vault.transit_sign(self._mount, self._key, message, self._version)
        return signature, f"{self._key}:{version}"


class _Login(Protocol):
    async def token(self, vault: Vault) -> str:
        """Return a token that should still be alive."""

    async def replace(self, vault: Vault, dead: str) -> bool:
        """After a 403: tell whether `dead` was really dead and another one is there now."""


class _FixedLogin:
    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self, vault: Vault) -> str:  # noqa: ARG002
        return self._token

    async def replace(self, vault: Vault, dead: str) -> bool:  # noqa: ARG002
        return False


class _AppRoleLogin:
    def __init__(self, role_id: str, secret_id: str) -> None:
        self._credentials = {"role_id": role_id, "secret_id": secret_id}
        self._token = ""
        self._renew_at = 0
        self._lock = asyncio.Lock()  # one login or renewal at a time

    async def token(self, vault: Vault) -> str:
        if monotonic_ms() < self._renew_at:
            return self._token
        async with self._lock:
            if monotonic_ms() >= self._renew_at:
                await self._refresh(vault)
            return self._token

    async def replace(self, vault: Vault, dead: str) -> bool:
        async with self._lock:
            if self._token != dead:
                return True
            try:
                await vault.raw("GET", "auth/token/lookup-self", token=dead)
            except VaultRefused:
                await self._enter(vault)
                return True
            return False

    async def _refresh(self, vault: Vault) -> None:
        if not self._token:
            await self._enter(vault)
            return
        try:
            answer = await vault.raw("POST", "auth/token/renew-self", {}, token=self._token)
            self._keep(answer)
        except VaultRefused:
            await self._enter(vault)

    async def _enter(self, vault: Vault) -> None:
        self._keep(await vault.raw("POST", "auth/approle/login", self._credentials, token=""))

    def _keep(self, answer: Mapping[str, Any]) -> None:
        self._token = str(answer["auth"]["client_token"])
        self._renew_at = monotonic_ms() + int(answer["auth"]["lease_duration"]) * 500


def _session(ca_file: Path | None, threads: int) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = str(ca_file) if ca_file else True
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=threads, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _checked(response: requests.Response, operation: str) -> dict[str, Any]:
    status = response.status_code
    if status in (200, 202, 204):
        return {}
    errors = _errors(response)
    if 400 <= status < 500 and status not in (408, 429):
        raise VaultRefused(status, operation, errors)
    raise VaultUnavailable("Vault is sealed" if status == 503 else "Vault failed", status=status, errors=errors)


def _errors(response: requests.Response) -> tuple[str, ...]:
    try:
        return tuple(str(item) for item in response.json().get("errors") or ())
    except (ValueError, AttributeError):
        return ()
