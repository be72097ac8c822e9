"""`bare_service.py SERVICE --config FILE`: one of the services without its methods, for tests of who runs them."""

import sys
from collections.abc import Sequence

from counterseal.rpc.runtime import Registration, Runtime, run_service


async def build(runtime: Runtime) -> Sequence[Registration]:
    return []


if __name__ == "__main__":
    sys.exit(run_service(sys.argv[1], build, sys.argv[2:]))
