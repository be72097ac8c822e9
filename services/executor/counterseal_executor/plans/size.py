"""Whether the ledger can take a proposal: its entry seals the plan's bytes as one text, quotes escaped. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from counterseal.canonical import MAX_BYTES
from counterseal.errors import PlanInvalid

MAX_SEALED_BYTES = MAX_BYTES - len('{"v":}')
"""What one sealed value may measure as JSON text (`ledger/disclosure.py`)."""
MAX_SUM_BYTES = 2 << 20
"""What all sealed values of a proposal may measure: base64 makes 2.7 MiB of it, and a request to the ledger has 3."""

NEXT = "keep bulky data at the target and name it in the arguments, or split the plan"


def check_size(plan_bytes: int, sealed: Mapping[str, Any]) -> None:
    """Refuse a plan of which the ledger would refuse the entry. Raises PlanInvalid with the numbers.

    plan_bytes: length of the canonical plan. sealed: the entry's sealed values, text or lists of text.
    """
    sizes = {name: len(_text(value)) for name, value in sealed.items()}
    for name, size in sizes.items():
        if size > MAX_SEALED_BYTES:
            raise PlanInvalid(
                f"the plan of {plan_bytes} bytes has a {name} of {size} bytes as a sealed text of its ledger entry;"
                f" at most {MAX_SEALED_BYTES} fit: {NEXT}",
                size=size,
                limit=MAX_SEALED_BYTES,
            )
    total = sum(sizes.values())
    if total > MAX_SUM_BYTES:
        raise PlanInvalid(
            f"the plan of {plan_bytes} bytes needs {total} bytes of sealed texts in its ledger entry;"
            f" at most {MAX_SUM_BYTES} fit: {NEXT}",
            size=total,
            limit=MAX_SUM_BYTES,
        )


def _text(value: Any) -> bytes:
    """Return the JSON text; canonical JSON escapes strings in the same way, but stops at its own limit."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
