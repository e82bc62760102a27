"""A paper's claims against the numbers of a run, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its outcome."""

    claim: str
    measured: str
    verdict: str
    """``reproduced``, ``partly``, ``not reproduced``, or ``undecided`` where the runs are too few to tell."""
    picture: str


def verdict(holds: bool, partly: bool = False) -> str:
    """The verdict; ``partly`` counts if it does not hold."""
    return "reproduced" if holds else "partly" if partly else "not reproduced"


def results_page(title: str, source: str, claims: Sequence[Claim], tables: Sequence[str] = ()) -> str:
    """RESULTS.md: the claims as a table, then other tables, then the figures.

    Args:
        title: of the page.
        source: the paper, the command that wrote the page, and over how many seeds.
        claims: of the paper.
        tables: lines of further tables.
    """
    lines = [
        f"# {title}: results",
        "",
        source,
        "",
        "| claim | measured | verdict | figure |",
        "|---|---|---|---|",
        *(f"| {c.claim} | {c.measured} | {c.verdict} | [{c.picture}]({c.picture}) |" for c in claims),
        "",
        *tables,
        *(f"![{picture}]({picture})" for picture in dict.fromkeys(c.picture for c in claims)),
        "",
    ]
    return "\n".join(lines)


def listed(values: Sequence[float], places: Sequence[float]) -> str:
    """Values with their places."""
    return ", ".join(f"{v:.3f}" for v in values) + " at " + ", ".join(map(str, places))
