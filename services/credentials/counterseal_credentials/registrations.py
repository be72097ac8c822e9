"""Who may exchange tokens, as the configuration says now: read again on SIGHUP, whole or not at all."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

from counterseal.config import ConfigError
from counterseal_credentials.config import CredentialsConfig, Workload

RELOADED = ("workloads", "persons")
"""What SIGHUP changes; everything else of the section holds until a restart."""

log = logging.getLogger("counterseal.credentials.registrations")


class Registrations:
    """The workloads and persons of a configuration that may change while the service runs."""

    def __init__(self, config: CredentialsConfig) -> None:
        self._config = config

    @property
    def persons(self) -> Mapping[str, str]:
        """Subject -> person, where two accounts are one person."""
        return self._config.persons

    def workload(self, spiffe_id: str) -> Workload | None:
        """Return the enabled registration of a peer, or None."""
        return self._config.workload(spiffe_id)

    def reload(self, read: Callable[[], CredentialsConfig]) -> None:
        """Take what `read` returns; when it raises ConfigError the old registrations stay, and the log says why."""
        try:
            fresh = read()
        except ConfigError as error:
            log.error("the registrations were not reloaded, the old ones stay", extra={"problems": str(error)})  # noqa: TRY400
            return
        before = self._config
        self._config = replace(before, **{name: getattr(fresh, name) for name in RELOADED})
        names = [field.name for field in fields(CredentialsConfig)]
        waiting = [name for name in names if getattr(self._config, name) != getattr(fresh, name)]
        count = sum(workload.enabled for workload in self._config.workloads.values())
        log.info("the registrations were reloaded", extra={"enabled": count, "needs_restart": ", ".join(waiting)})
