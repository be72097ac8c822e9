"""How people name an entry: by its index, by its log and index where a log was continued, or by its event id."""

import re
from typing import Any

from counterseal.errors import InputInvalid
from counterseal.ids import is_id

METAVAR = "[SHARD/]INDEX|EVENT_ID"
_PLACE = re.compile(r"(?:([0-9]{1,6})/)?([0-9]{1,14})")


def parse_place(text: str) -> tuple[int | None, int]:
    """Return shard (None: the newest) and index of `17` or `0/17`. Raises InputInvalid."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise InputInvalid("a place is an index, such as 17, or shard/index, such as 0/17")
    return None if found[1] is None else int(found[1]), int(found[2])


def parse_entry_name(text: str) -> dict[str, Any]:
    """Return the fields of a request that name an entry: `index` and maybe `shard`, or `event_id`.

    Raises InputInvalid.
    """
    if is_id(text):
        return {"event_id": text}
    if _PLACE.fullmatch(text) is None:
        raise InputInvalid("an entry is named by its index (17), by shard/index (0/17) or by its event id")
    shard, index = parse_place(text)
    return {"index": index} if shard is None else {"index": index, "shard": shard}


def place_name(shard: int, index: int, *, several: bool = False) -> str:
    """Return how an entry is shown: its index, with its shard where the tenant is known to have several."""
    return f"{shard}/{index}" if several or shard else str(index)
