"""What every service's main does: configuration -> Vault -> certificate -> database -> server -> drain.

A service gives one coroutine that makes its servicers of a `Runtime`; everything else is here, so that mains hold no
logic and all four start, fail and stop alike. Exit codes: 0 stopped by a signal, 1 failed, 2 bad configuration.
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal import config as configuration
from counterseal import db, telemetry
from counterseal.api.credentials.v1 import token_pb2, token_pb2_grpc
from counterseal.clock import Clock, system_clock
from counterseal.config import ConfigError
from counterseal.errors import CredentialsUnavailable
from counterseal.identity import audience, service_spiffe_id
from counterseal.ids import IdSource, new_id
from counterseal.rpc.interceptor import Hooks, Interceptor
from counterseal.rpc.keys import Fetch, KeyCache, PublicKey
from counterseal.rpc.method_table import METHODS
from counterseal.rpc.server import Registration, Server, ServerConfig
from counterseal.rpc.status import from_rpc_error
from counterseal.rpc.tls import Identity, RenewingChannel, ServerIdentity, open_channel, server_name
from counterseal.rpc.tracing import Tracing, start_tracing
from counterseal.rpc.txn_token import TokenVerifier
from counterseal.vault import Signer, TransitSigner, Vault, VaultRefused
from counterseal.vault.names import KEY_USES, SERVICES
from counterseal.vault.names import Environment as VaultNames

CERTIFICATE_TTL = "6h"
RENEW_SECONDS = 3600.0
RETRY_SECONDS = 30.0
START_PATIENCE_SECONDS = 60.0
FINISH_SECONDS = 2.0
"""For background work to finish by itself once `stopping` is set: a last checkpoint, a lease given up."""
CLOSE_SECONDS = 10.0
"""For everything else to end behind it: a store that does not answer must not hold the end of the process."""

log = logging.getLogger("counterseal.runtime")

T = TypeVar("T")
Reread = Callable[[], Mapping[str, Any]]
Build = Callable[["Runtime"], Awaitable[Sequence[Registration]]]


@dataclass(frozen=True, slots=True)
class CommonConfig:
    """Section `[common]`: the deployment's one environment and its trust domain."""

    environment: str
    trust_domain: str


@dataclass(frozen=True, slots=True)
class VaultConfig:
    """Section `[vault]`: where Vault is and how the service logs in (AppRole; both files hold one line)."""

    address: str
    role_id_file: Path
    secret_id_file: Path
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The sections that all services have. `own` is the service's own table, which the service binds itself.

    peers: service -> `host:port`.
    """

    common: CommonConfig
    server: ServerConfig
    vault: VaultConfig
    database: db.DatabaseConfig
    telemetry: telemetry.TelemetryConfig
    peers: Mapping[str, str]
    own: Mapping[str, Any]

    @classmethod
    def bind(cls, service: str, tables: Mapping[str, Any]) -> "ServiceConfig":
        """Bind all sections; raises ConfigError with the problems of all of them."""
        sections: dict[str, type] = {
            "common": CommonConfig,
            "server": ServerConfig,
            "vault": VaultConfig,
            "database": db.DatabaseConfig,
            "telemetry": telemetry.TelemetryConfig,
        }
        problems = configuration.check_sections(tables, [*sections, "peers", service])
        bound: dict[str, Any] = {}
        for name, section in sections.items():
            try:
                bound[name] = configuration.bind(section, tables.get(name, {}), name)
            except ConfigError as error:
                problems.extend(error.problems)
        peers = tables.get("peers", {})
        problems.extend(f"peers.{name}: unknown service" for name in peers if name not in SERVICES)
        problems.extend(f"peers.{name}: expected text" for name, at in peers.items() if not isinstance(at, str))
        own = tables.get(service, {})
        if not isinstance(own, dict):
            problems.append(f"{service}: expected a table")
        if problems:
            raise ConfigError(problems)
        return cls(**bound, peers=peers, own=own)


@dataclass(slots=True)
class Runtime:
    """What a service is built of, made by `run_service`; `build` may set `hooks` and `on_hangup`, and replace `keys`.

    instance_id: a fresh id per process. config: the service's own TOML table, to be bound by the service.
    vault: logged in as this service. engine: its own database under its runtime role. keys: public keys by kid.
    stopping: set when the process drains; streams and loops end on it.
    reread: reads the service's own table again, after checking the whole file; raises ConfigError.
    on_hangup: called on SIGHUP; without it the signal ends the process, as it does any.
    unfit: set by a service that must not serve although it runs; its health is NOT_SERVING from then on.
    backup_days: how long backups of the database are kept.
    """

    service: str
    environment: str
    trust_domain: str
    instance_id: str
    clock: Clock
    new_id: IdSource
    config: Mapping[str, Any]
    vault: Vault
    engine: AsyncEngine
    keys: KeyCache
    tokens: TokenVerifier
    peers: Mapping[str, str]
    identity: Identity
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hooks: Hooks = field(default_factory=Hooks)
    tracing: Tracing | None = None
    reread: Callable[[], Mapping[str, Any]] = dict
    on_hangup: Callable[[], None] | None = None
    crashed: asyncio.Event = field(default_factory=asyncio.Event)
    unfit: asyncio.Event = field(default_factory=asyncio.Event)
    backup_days: int = 35
    _channels: dict[str, RenewingChannel] = field(default_factory=dict)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _endless: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def spiffe_id(self) -> str:
        """Our own SPIFFE id."""
        return service_spiffe_id(self.trust_domain, self.environment, self.service)

    def channel(self, peer: str) -> grpc.aio.Channel:
        """Return the one mTLS channel to a service; stubs made on it follow certificate renewals."""
        if peer not in self._channels:
            address, name = self.peers[peer], server_name(peer, self.environment)

            def open_now(interceptors: Sequence[Any] = ()) -> grpc.aio.Channel:
                return open_channel(address, self.identity, name, interceptors)

            if (spans := self.tracing) is None:
                self._channels[peer] = RenewingChannel(open_now)
            else:
                self._channels[peer] = RenewingChannel(open_now, lambda: open_now(spans.client), spans.ratio)
        return self._channels[peer]

    def spawn(self, name: str, work: Coroutine[Any, Any, None], *, endless: bool = False) -> None:
        """Run background work until the drain; a crash is logged and ends the process with exit code 1.

        endless: it does not end by itself when `stopping` is set.
        """
        task = asyncio.create_task(self._supervised(name, work), name=name)
        tasks = self._endless if endless else self._tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def signer(self, key: str) -> Signer:
        """Return the signer over transit key `<key>-<environment>`; key is `ctx`, `decision` or `log`."""
        names = VaultNames(self.environment)
        return TransitSigner(self.vault, names.transit, names.key(key))

    def renew(self, identity: Identity) -> None:
        """Use another certificate for every connection made from now on."""
        self.identity = identity
        for channel in self._channels.values():
            channel.renew()

    async def close(self) -> None:
        """End background work, then close channels, pool and Vault, in this order; what takes too long is left."""
        if self._tasks and self.stopping.is_set():
            await asyncio.wait(self._tasks, timeout=FINISH_SECONDS)
        left = [*self._tasks, *self._endless]
        for task in left:
            task.cancel()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*left, return_exceptions=True)
                for channel in self._channels.values():
                    await channel.close()
                await self.engine.dispose()
        except TimeoutError:
            log.warning("not everything closed in time")
        self.vault.close()

    async def _supervised(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            log.critical("background work failed", extra={"work": name}, exc_info=True)
            self.crashed.set()


def run_service(
    service: str,
    build: Build,
    argv: Sequence[str] | None = None,
    *,
    check_own: Callable[[Mapping[str, Any]], object] | None = None,
) -> int:
    """Run one service's console script and return its exit code.

    build: makes the servicers. check_own: binds the service's own table, for `--check-config`; raises ConfigError.
    """
    args = _parser(service).parse_args(argv)
    try:
        bound = ServiceConfig.bind(service, configuration.load(args.config, os.environ))
        if check_own is not None:
            check_own(bound.own)
    except ConfigError as error:
        for problem in error.problems:
            print(f"{args.config}: {problem}", file=sys.stderr)  # noqa: T201 (before logging is set up)
        return 2
    if args.check_config:
        return 0
    fixed = {"service": service, "environment": bound.common.environment}
    telemetry.configure(bound.telemetry, fixed)
    try:
        if args.command == "migrate":
            asyncio.run(_migrate(service, bound))
            return 0
        with contextlib.ExitStack() as ending:
            ending.callback(telemetry.export_metrics(bound.telemetry, fixed))
            spans = start_tracing(bound.telemetry.traces, fixed)
            if spans is not None:
                ending.callback(spans.close)
            reread = lambda: ServiceConfig.bind(service, configuration.load(args.config, os.environ)).own  # noqa: E731
            return asyncio.run(_serve(service, bound, build, spans, reread))
    except telemetry.TelemetryError as error:
        log.critical("the configuration cannot be used", extra={"problems": str(error)})
        return 2
    except ConfigError as error:
        log.critical("the configuration cannot be used", extra={"problems": error.problems})
        return 2
    except Exception:
        log.critical("the service failed", exc_info=True)
        return 1


def keep_loaded() -> None:
    """Take what the process has loaded by now out of garbage collection: it is needed until the end.

    Else every full collection looks at it again, some hundred thousand objects of libraries.
    """
    gc.collect()
    gc.freeze()


def _parser(service: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"counterseal-{service}", description=f"The {service} service.")
    parser.add_argument("command", nargs="?", choices=("serve", "migrate"), default="serve")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.toml")
    parser.add_argument("--check-config", action="store_true", help="report every problem of the file and stop")
    return parser


async def _migrate(service: str, bound: ServiceConfig) -> None:
    database = bound.database
    if not database.owner or database.owner_password_file is None:
        raise ConfigError(["database.owner, database.owner_password_file: needed by migrate"])
    engine = db.owner_engine(database, database.owner, configuration.read_secret(database.owner_password_file))
    try:
        await db.migrate(service, engine)
    finally:
        await engine.dispose()


async def _serve(service: str, bound: ServiceConfig, build: Build, spans: Tracing | None, reread: Reread) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(_start(service, bound, build, spans, reread))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return 0
    runtime, server = starting.result()
    crashed = asyncio.create_task(runtime.crashed.wait())
    await asyncio.wait((stopped, crashed), return_when=asyncio.FIRST_COMPLETED)
    log.info("draining")
    await server.stop(runtime.stopping)
    await runtime.close()
    crashed.cancel()
    stopped.cancel()
    return 1 if runtime.crashed.is_set() else 0


async def _start(
    service: str, bound: ServiceConfig, build: Build, spans: Tracing | None, reread: Reread
) -> tuple[Runtime, Server]:
    vault = await _patiently(lambda: _login(bound.vault))
    certificate = await _patiently(lambda: _certificate(vault, bound.common, service))
    runtime = _runtime(service, bound, vault, certificate)
    runtime.tracing, runtime.reread = spans, reread
    try:
        registrations = await build(runtime)
        if runtime.on_hangup is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, runtime.on_hangup)
        shown = ServerIdentity(certificate)
        interceptor = Interceptor(
            trust_domain=runtime.trust_domain,
            environment=runtime.environment,
            verify=runtime.tokens.verify,
            clock=runtime.clock,
            hooks=runtime.hooks,
            max_unary_seconds=bound.server.max_unary_seconds,
            tracing=spans,
        )
        server = Server(bound.server, interceptor, shown.credentials(), registrations, METHODS)
        await server.start()
    except BaseException:
        await runtime.close()
        raise
    runtime.spawn("renew-certificate", _renewals(runtime, bound, shown), endless=True)
    runtime.spawn("health", _tell_unfit(runtime, server), endless=True)
    keep_loaded()
    log.info("serving", extra={"port": server.port, "instance_id": runtime.instance_id})
    return runtime, server


def _runtime(service: str, bound: ServiceConfig, vault: Vault, certificate: Identity) -> Runtime:
    common = bound.common
    names = VaultNames(common.environment)
    user = bound.database.user or f"counterseal_{service}"

    async def password() -> str:
        _, secret = await vault.static_credentials(names.service_databases, service)
        return secret

    async def published() -> Mapping[str, PublicKey]:
        return await (_vault_keys(vault, common.environment) if service == "credentials" else _peer_keys(runtime))

    keys = KeyCache(published)
    runtime = Runtime(
        service=service,
        environment=common.environment,
        trust_domain=common.trust_domain,
        instance_id=new_id(),
        clock=system_clock,
        new_id=new_id,
        config=bound.own,
        vault=vault,
        engine=db.create_engine(bound.database, user, password, application_name=f"counterseal-{service}"),
        keys=keys,
        tokens=TokenVerifier(keys.get, audience=audience(common.trust_domain, common.environment), clock=system_clock),
        peers=bound.peers,
        identity=certificate,
        backup_days=bound.database.backup_days,
    )
    return runtime


async def _peer_keys(runtime: Runtime) -> Mapping[str, PublicKey]:
    stub = token_pb2_grpc.TokenServiceStub(runtime.channel("credentials"))
    try:
        answer = await stub.GetKeys(token_pb2.GetKeysRequest(), timeout=5, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer="credentials") from None
    return {key.key: PublicKey(bytes(key.public_key), key.state == token_pb2.KEY_STATE_ACTIVE) for key in answer.keys}


async def _vault_keys(vault: Vault, environment: str) -> Mapping[str, PublicKey]:
    found: dict[str, PublicKey] = {}
    names = VaultNames(environment)
    for key in map(names.key, KEY_USES):
        versions = await vault.transit_public_keys(names.transit, key)
        found.update({f"{key}:{version}": PublicKey(public) for version, public in versions.items()})
    return found


async def _login(config: VaultConfig) -> Vault:
    role_id = configuration.read_secret(config.role_id_file)
    secret_id = configuration.read_secret(config.secret_id_file)
    return await Vault.login_approle(config.address, role_id, secret_id, ca_file=config.ca_file)


async def _certificate(vault: Vault, common: CommonConfig, service: str) -> Identity:
    mount = VaultNames(common.environment).pki
    issued = await vault.issue_certificate(
        mount,
        f"svc-{service}",
        server_name(service, common.environment),
        service_spiffe_id(common.trust_domain, common.environment, service),
        CERTIFICATE_TTL,
    )
    # Every root that a peer may chain to: two of them while an issuer is replaced.
    roots = await vault.ca_bundle(mount)
    return Identity(issued.cert_pem.encode(), issued.key_pem.encode(), roots.encode(), issued.expire_time_ms)


async def _renewals(runtime: Runtime, bound: ServiceConfig, shown: ServerIdentity) -> None:
    wait = RENEW_SECONDS
    while True:
        await asyncio.sleep(wait)
        try:
            identity = await _certificate(runtime.vault, bound.common, runtime.service)
        except (CredentialsUnavailable, VaultRefused):
            # The present one is good for hours: an outage of Vault stops nobody.
            log.warning("the certificate was not renewed; trying again", exc_info=True)
            wait = RETRY_SECONDS
            continue
        shown.replace(identity)
        runtime.renew(identity)
        wait = RENEW_SECONDS


async def _tell_unfit(runtime: Runtime, server: Server) -> None:
    await runtime.unfit.wait()
    await server.unfit()


async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Try until Vault answers: services and Vault start together."""
    deadline = asyncio.get_running_loop().time() + START_PATIENCE_SECONDS
    while True:
        try:
            return await work()
        except CredentialsUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.3)


__all__ = ["Fetch", "Registration", "Runtime", "ServiceConfig", "run_service"]
