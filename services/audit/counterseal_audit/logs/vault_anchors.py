"""Anchors in Vault: a document is written only in place of the one that was read."""

from collections.abc import Coroutine, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from counterseal.errors import CredentialsUnavailable, SealUnavailable
from counterseal.vault import Vault, VaultRefused, VersionMoved
from counterseal.vault.names import Environment
from counterseal_audit.logs.anchors import AnchorMoved, Birth, Page, parse_anchors, parse_births

T = TypeVar("T")


class VaultAnchors:
    """Anchors in the environment's KV v2 store."""

    def __init__(self, vault: Vault, environment: str) -> None:
        self._vault = vault
        self._mount = Environment(environment).kv

    async def read(self, bucket: int) -> Page:
        """Return the anchors of a bucket."""
        found = await _answered(self._vault.kv_get(self._mount, _page(bucket)))
        return Page(0, {}) if found is None else Page(found[1], parse_anchors(found[0]))

    async def write(self, bucket: int, page: Page) -> None:
        """Write anchors in place of those that were read at `page.version`."""
        document = {origin: anchor.document() for origin, anchor in sorted(page.anchors.items())}
        await _answered(self._vault.kv_put(self._mount, _page(bucket), document, page.version))

    async def write_anew(self, bucket: int, page: Page) -> None:
        """Write anchors where the document was deleted: the version of what was deleted still counts."""
        version = page.version or await _answered(self._vault.kv_version(self._mount, _page(bucket)))
        await self.write(bucket, Page(version, page.anchors))

    async def births(self, tenant: str) -> Mapping[int, Birth]:
        """Return the shards that a tenant has, by number."""
        return (await self._births(tenant))[1]

    async def reserve(self, tenant: str, shard: int, wish: Birth) -> Birth:
        """Make `wish` the birth of a shard unless it has one; return the one that counts."""
        while True:
            version, births = await self._births(tenant)
            if shard in births:
                return births[shard]
            document = {str(number): asdict(birth) for number, birth in {**births, shard: wish}.items()}
            try:
                await _answered(self._vault.kv_put(self._mount, f"ledger/log/{tenant}", document, version))
            except AnchorMoved:
                continue
            return wish

    async def _births(self, tenant: str) -> tuple[int, dict[int, Birth]]:
        found = await _answered(self._vault.kv_get(self._mount, f"ledger/log/{tenant}"))
        if found is None:
            return 0, {}
        return found[1], parse_births(found[0])


def _page(bucket: int) -> str:
    return f"ledger/{bucket}"


async def _answered(call: Coroutine[Any, Any, T]) -> T:
    try:
        return await call
    except VersionMoved as moved:
        raise AnchorMoved from moved
    except VaultRefused as refused:
        raise SealUnavailable("Vault refuses the ledger's anchors", status=refused.status) from refused
    except CredentialsUnavailable as error:
        raise SealUnavailable("Vault does not answer") from error
