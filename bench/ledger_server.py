"""The audit service's server over a filled log, as a process: `python -m bench.ledger_server DIR DSN`.

Server, interceptor, servicers and database are the service's own. Vault is on no reader's path: keys are local and
nothing is signed. Leaves an executor's certificate in DIR, prints its port and serves until it is ended.
"""

import argparse
import asyncio
import signal
from pathlib import Path

from counterseal import telemetry
from counterseal.rpc.runtime import keep_loaded
from counterseal.rpc.tls import Identity, server_name
from counterseal.telemetry import TelemetryConfig
from counterseal_audit.reader.trees import REMEMBERED
from support.audit import audit_server
from support.postgres import ServiceDatabase
from support.shapes import ENVIRONMENT, spiffe

NAME = server_name("audit", ENVIRONMENT)
_FILES = ("caller-cert.pem", "caller-key.pem", "caller-ca.pem")


def caller(folder: Path) -> Identity:
    """Return the certificate that a server left in `folder`."""
    cert, key, ca = (folder / name for name in _FILES)
    return Identity.from_files(cert, key, ca)


async def serve(folder: Path, dsn: str, remembered: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    database = ServiceDatabase("bench", dsn, dsn, dsn)
    async with audit_server(database, publish=False, follow=False, remembered=remembered) as running:
        identity = running.authority.issue(uris=[spiffe("svc/executor")])
        for name, data in zip(_FILES, (identity.cert_pem, identity.key_pem, identity.ca_pem), strict=True):
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(data)
        keep_loaded()
        print(running.server.port, flush=True)
        await stop.wait()


def main() -> None:
    """Parse and serve; logs go to standard error as in production."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("dsn")
    parser.add_argument("--remember", type=int, default=REMEMBERED, help="tiles that are remembered for proofs")
    arguments = parser.parse_args()
    telemetry.configure(TelemetryConfig(), {"service": "audit", "environment": ENVIRONMENT})
    asyncio.run(serve(arguments.folder, arguments.dsn, arguments.remember))


if __name__ == "__main__":
    main()
