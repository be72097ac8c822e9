"""How a log begins: reserved outside its database first, so that its genesis entry is the same for ever."""

from collections.abc import Mapping
from typing import Any

from counterseal.clock import Clock
from counterseal.errors import LogForked, SealUnavailable
from counterseal.ids import IdSource
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.append.engine import Prepared
from counterseal_audit.append.mac import HeadMac
from counterseal_audit.logs.anchors import Anchor, AnchorMoved, Anchors, Birth, bucket_of
from counterseal_audit.logs.keys import HeadMacKey, LogSigner
from counterseal_audit.logs.store import Log, LogStore


class Births:
    """Begins logs. origin_domain: first part of their names; the rest is opaque."""

    def __init__(
        self,
        logs: LogStore,
        anchors: Anchors,
        signer: LogSigner,
        mac_key: HeadMacKey,
        *,
        environment: str,
        origin_domain: str,
        clock: Clock,
        new_id: IdSource,
    ) -> None:
        self._logs = logs
        self._anchors = anchors
        self._signer = signer
        self._mac_key = mac_key
        self._environment = environment
        self._origin_domain = origin_domain
        self._clock = clock
        self._new_id = new_id

    async def create(self, tenant: str, shard: int = 0, predecessor: str = "") -> Log:
        """Begin a shard, or return the one that somebody else began meanwhile. predecessor: digest of its last note.

        Order: reserve the birth, anchor the genesis entry, write it. A crash in between leaves nothing that the next
        try does not make again byte for byte. Raises SealUnavailable; LogForked when the log had grown by its anchor
        and its database does not know it.
        """
        births = await self._anchors.births(tenant)
        if shard == 0 and births and max(births) > 0:
            raise LogForked("the tenant has later logs, which this database does not hold")
        birth = births.get(shard) or await self._anchors.reserve(tenant, shard, await self._wish(predecessor))
        genesis = self._genesis(tenant, shard, birth)
        if not await self._anchor(birth.origin, Frontier().extend([genesis.leaf_hash])):
            shards = await self._logs.shards(tenant, self._environment)
            known = [log for log in shards if log.shard == shard]
            if not known:
                raise LogForked("the log's anchor is ahead of a database that does not hold the log")
            return known[0]
        mac = HeadMac(await self._mac_key.get(), birth.origin)
        key = VerifierKey.parse(birth.vkey)
        return await self._logs.create(tenant, self._environment, shard, key, genesis, mac.of)

    async def _wish(self, predecessor: str) -> Birth:
        public = await self._signer.public_keys()
        if not public:
            raise SealUnavailable("there is no key to sign logs with")
        origin = f"{self._origin_domain}/{self._new_id().replace('-', '')}"
        try:
            key = VerifierKey.make(origin, public[max(public)])
        except VerificationError as error:
            raise SealUnavailable(f"the log key cannot be used: {error.message}") from error
        return Birth(origin, key.vkey, self._new_id(), self._clock(), predecessor)

    async def _anchor(self, origin: str, head: Frontier) -> bool:
        """Anchor a log of one entry; False when its anchor says that it has more, or another one."""
        bucket = bucket_of(origin)
        while True:
            page = await self._anchors.read(bucket)
            known = page.anchors.get(origin)
            if known is not None:
                return (known.size, known.root) == (head.size, head.root())
            try:
                await self._anchors.write(bucket, page.advanced({origin: Anchor(head.size, head.root())}))
            except AnchorMoved:
                continue
            return True

    def _genesis(self, tenant: str, shard: int, birth: Birth) -> Prepared:
        data: Mapping[str, Any] = {"vkey": birth.vkey, "shard": shard}
        content = {
            "v": entries.VERSION,
            "type": entries.GENESIS,
            "event_id": birth.event_id,
            "event_time_ms": birth.time_ms,
            "tenant": tenant,
            "environment": self._environment,
            "data": {**data, "predecessor": birth.predecessor} if birth.predecessor else dict(data),
        }
        entries.check_content(content)
        made = entries.build(content, entries.Srv(birth.time_ms, "audit"))
        return Prepared(birth.event_id, entries.request_hash(content), leaf_hash(made), made)
