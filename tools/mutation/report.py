"""docs/evidence/mutation.md: what was changed, what was noticed, and why the rest changes nothing."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True)
class Row:
    """One source. survivors: what was changed, and the reason why it cannot matter ("" when none is listed)."""

    source: str
    count: int
    survivors: list[tuple[str, str]]

    @property
    def unexplained(self) -> int:
        """How many survivors have no reason."""
        return sum(not reason for _, reason in self.survivors)


def page(rows: Sequence[Row], *, resumed: bool) -> str:
    """Return the report as Markdown. resumed: what earlier runs killed was not run again."""
    count, survived = sum(row.count for row in rows), sum(len(row.survivors) for row in rows)
    unexplained = sum(row.unexplained for row in rows)
    return "\n".join(
        [
            "# Mutation run",
            "",
            "Written by `make mutation`: in the code that verdicts and signatures rest on, every comparison, operator,",
            "constant, boolean, condition, `raise` and bare call is changed, one at a time; the unit tests beside it",
            "must fail. The vectors of `../shared` are not at hand then: what kills a mutant is in this repository.",
            "",
            f"**{count} mutants, {count - survived} killed, {survived} survived, {unexplained} without a reason.**",
            f"Python {platform.python_version()}, pytest {version('pytest')}, hypothesis {version('hypothesis')}.",
            *(["Put together from several runs (`--resume`): what one killed, the next left out."] if resumed else []),
            "",
            "| source | mutants | killed | survived | without a reason |",
            "|---|---|---|---|---|",
            *(
                f"| `{row.source}` | {row.count} | {row.count - len(row.survivors)} | {len(row.survivors)} "
                f"| {row.unexplained} |"
                for row in rows
            ),
            "",
            "Survivors, and why none of them changes a verdict (`tools/mutation/equivalent.toml`):",
            "",
            "| source | change | reason |",
            "|---|---|---|",
            *(
                f"| `{row.source}` | {_code(what)} | {reason or '**none**'} |"
                for row in rows
                for what, reason in row.survivors
            ),
            "",
        ]
    )


def _code(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`` {escaped} ``" if "`" in text else f"`{escaped}`"
