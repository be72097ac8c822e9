"""Connectors: the only code that touches targets."""

from collections.abc import Mapping

from counterseal_executor.connectors.base import Connector
from counterseal_executor.connectors.postgres import PostgresConnector
from counterseal_executor.connectors.sim import SimConnector

__all__ = ["connectors"]


def connectors() -> Mapping[str, Connector]:
    """Return every connector of this executor by its kind."""
    return {connector.kind: connector for connector in (PostgresConnector(), SimConnector())}
