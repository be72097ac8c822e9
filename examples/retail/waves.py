"""Which tasks can run side by side on one database: those whose customers are different people.

A task's footprint is every customer that it names: its own, and the owners of the orders it touches. Tasks of one
wave have disjoint footprints, so each changed row belongs to one of them; the data is put back between waves.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from examples.retail.workload import Shop, Task


def footprint(task: Task, shop: Shop) -> frozenset[str]:
    """Return every customer whose rows the task's calls name."""
    people = {task.user_id}
    for action in task.actions:
        if not isinstance(action.args, dict):
            continue
        order = shop.orders.get(str(action.args.get("order_id")))
        if order is not None:
            people.add(order["user_id"])
        if "user_id" in action.args:
            people.add(str(action.args["user_id"]))
    return frozenset(people)


def waves(tasks: Iterable[Task], shop: Shop, width: int) -> list[list[Task]]:
    """Return the tasks in waves of at most `width`, longest tasks first: a wave waits for its longest.

    Of equally long ones the order is kept as far as footprints allow.
    """
    found: list[tuple[list[Task], set[str]]] = []
    for task in sorted(tasks, key=lambda task: len(task.actions), reverse=True):
        people = footprint(task, shop)
        for wave, taken in found:
            if len(wave) < width and taken.isdisjoint(people):
                wave.append(task)
                taken.update(people)
                break
        else:
            found.append(([task], set(people)))
    return [wave for wave, _ in found]


def attribute(
    changed: Mapping[str, Mapping[str, Any]], wave: Sequence[Task], shop: Shop
) -> list[dict[str, dict[str, Any]]]:
    """Return each task's share of the changed rows, in the wave's order. A row of nobody's is charged to every task."""
    shares: list[dict[str, dict[str, Any]]] = [{"orders": {}, "users": {}} for _ in wave]
    people = [footprint(task, shop) for task in wave]
    for table, rows in changed.items():
        for key, row in rows.items():
            owner = key if table == "users" else row["user_id"]
            named = [share for share, names in zip(shares, people, strict=True) if owner in names]
            for share in named or shares:
                share[table][key] = row
    return shares
