"""Fetches issuers' keys: over verified TLS, cached, an unknown key id causing one fetch for all who wait."""

import asyncio
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from counterseal.canonical import parse_strict
from counterseal.clock import monotonic_ms
from counterseal.errors import NotCanonical, TokenInvalid
from counterseal_credentials.config import IssuerConfig
from counterseal_credentials.tokens.jose import Key, read_jwks

MAX_AGE_MS = 600_000
REFETCH_INTERVAL_MS = 5_000
TIMEOUT_SECONDS = 5
MAX_BYTES = 1 << 18

log = logging.getLogger("counterseal.credentials.jwks")


class JwksSource:
    """The keys of one issuer by `kid`."""

    def __init__(
        self, issuer: IssuerConfig, pool: ThreadPoolExecutor, monotonic: Callable[[], int] = monotonic_ms
    ) -> None:
        self._issuer = issuer
        self._pool = pool
        self._monotonic = monotonic
        self._keys: dict[str, Key] = {}
        self._fetched_at: int | None = None
        self._tried_at: int | None = None
        self._lock = asyncio.Lock()

    async def get(self, kid: str) -> Key:
        """Return one key. Raises TokenInvalid when the issuer has none of that id (or cannot be asked and is new)."""
        if kid not in self._keys or self._older(self._fetched_at, MAX_AGE_MS):
            async with self._lock:
                if kid not in self._keys or self._older(self._fetched_at, MAX_AGE_MS):
                    await self._refetch()
        key = self._keys.get(kid)
        if key is None:
            raise TokenInvalid("the subject token's key is not one of its issuer's")
        return key

    async def _refetch(self) -> None:
        if not self._older(self._tried_at, REFETCH_INTERVAL_MS):
            return
        self._tried_at = self._monotonic()
        loop = asyncio.get_running_loop()
        try:
            self._keys = await asyncio.shield(loop.run_in_executor(self._pool, self._fetch))
            self._fetched_at = self._monotonic()
        except (OSError, ValueError, NotCanonical) as error:
            # The keys known so far go on serving: an issuer's outage logs nobody out.
            log.warning("an issuer's keys could not be fetched", extra={"error": type(error).__name__})

    def _fetch(self) -> dict[str, Key]:
        context = ssl.create_default_context(cafile=str(self._issuer.ca_file) if self._issuer.ca_file else None)
        # No proxies out of the environment, no redirects: the URL in the configuration is the only one asked.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect()
        )
        with opener.open(self._issuer.jwks_url, timeout=TIMEOUT_SECONDS) as answer:
            body = answer.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ValueError("the JWKS is too long")
        return read_jwks(parse_strict(body))

    def _older(self, moment: int | None, age_ms: int) -> bool:
        return moment is None or self._monotonic() - moment >= age_ms


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None
