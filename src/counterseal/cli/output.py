"""What commands print: text for people with dangerous characters made visible, or one JSON document.

A terminal obeys control and ANSI sequences, and bidirectional or invisible characters change what an approver
reads, so every text that came from elsewhere passes `shown` first.
"""

import json
import sys
import unicodedata
from typing import Any, TextIO

_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(text: str) -> str:
    r"""Return `text` with control, format (bidi, zero-width), surrogate and unassigned characters as `\\u{hex}`."""
    return "".join(f"\\u{{{ord(c):x}}}" if unicodedata.category(c) in _ESCAPED_CATEGORIES else c for c in text)


def fenced(text: str, *, limit: int = 2000) -> str:
    """Return an agent's text line by line behind `| `, escaped; what is cut is counted in the last line."""
    kept, cut = text[:limit], max(0, len(text) - limit)
    lines = [f"  | {shown(line)}" for line in kept.split("\n")]
    if cut:
        lines.append(f"  | [... {cut} more characters]")
    return "\n".join(lines)


def say(text: str = "", *, to: TextIO | None = None) -> None:
    """Print lines for a person, at once, also into a pipe; each line is escaped on its own."""
    print("\n".join(shown(line) for line in text.split("\n")), file=to or sys.stdout, flush=True)


def complain(text: str) -> None:
    """Print one line on standard error."""
    say(text.replace("\n", " "), to=sys.stderr)


def emit(value: Any) -> None:
    """Print one JSON document, ASCII only: it cannot carry a terminal's control characters."""
    print(json.dumps(value, ensure_ascii=True, sort_keys=True), flush=True)
