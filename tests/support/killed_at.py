"""`counterseal-audit` that sends itself SIGKILL right before, or right after, a file takes its name.

The interpreter announces every rename and every open to audit hooks, before it happens: nothing of ours is patched,
and the kill is at one instruction. Run as a module, with the environment that `killed_at` returns.
"""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

_SIDE, _PATTERN, _ARM = "KILLED_AT_SIDE", "KILLED_AT_PATTERN", "KILLED_AT_ARM"


def killed_at(side: str, pattern: str, arm: Path) -> dict[str, str]:
    """Return the environment for a kill before or after the rename to a path like `pattern`, once `arm` exists."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {_SIDE: side, _PATTERN: pattern, _ARM: str(arm), "PYTHONPATH": path}


def main() -> int:
    """Serve until killed."""
    side, pattern, arm = os.environ[_SIDE], re.compile(os.environ[_PATTERN]), os.environ[_ARM]
    renamed = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal renamed
        if renamed and event in ("open", "os.rename", "os.mkdir"):
            os.kill(os.getpid(), signal.SIGKILL)  # the next thing that is done to a file: the rename has happened
        if event == "os.rename" and pattern.fullmatch(str(args[1])) and os.access(arm, os.F_OK):
            if side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            renamed = True

    sys.addaudithook(hook)
    from counterseal_audit.main import main as serve

    return serve(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
