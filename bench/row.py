"""A figure as it is told: what each contender took, beside the target."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

MARKS = {True: "yes", False: "NO", None: "-"}


class Spread(Struct, frozen=True):
    """Several measurements of one thing."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Their median, smallest and largest."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1], len(found))

    def __str__(self) -> str:
        if self.n == 1:
            return _short(self.median)
        return f"{_short(self.median)} ({_short(self.min)}-{_short(self.max)})"


class Row(Struct, frozen=True, kw_only=True):
    """One figure. `figure` is what is held against `target`: a ratio, a difference or codexd's own.

    `of` says how it comes from the columns; `met` is null where there is no target.
    """

    name: str
    unit: str
    columns: dict[str, Spread]
    of: str = ""
    figure: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


def row(
    name: str,
    unit: str,
    columns: Mapping[str, Sequence[float]],
    *,
    of: str = "",
    figure: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Row:
    """A row whose `figure` is held against one bound, where it has one."""
    met: bool | None = None
    target = ""
    if figure is not None and at_least is not None:
        met, target = figure >= at_least, f">= {at_least:g}"
    elif figure is not None and at_most is not None:
        met, target = figure <= at_most, f"<= {at_most:g}"
    spreads = {who: Spread.of(values) for who, values in columns.items() if values}
    return Row(name=name, unit=unit, columns=spreads, of=of, figure=figure, target=target, met=met, note=note)


def table(rows: Sequence[Row], contenders: Sequence[str]) -> str:
    """All of them as one Markdown table; a second one holds what has columns of its own."""
    lines = [
        "| figure | unit | " + " | ".join(contenders) + " | what is held | figure | target | met |",
        "|---|---|" + "---|" * (len(contenders) + 4),
    ]
    for each in rows:
        cells = [str(each.columns[who]) if who in each.columns else "" for who in contenders]
        others = [f"{who}: {spread}" for who, spread in each.columns.items() if who not in contenders]
        name = each.name + (f" ({'; '.join(others)})" if others else "")
        held = "" if each.figure is None else _short(each.figure)
        lines.append(
            f"| {name} | {each.unit} | "
            + " | ".join(cells)
            + f" | {each.of} | {held} | {each.target} | {MARKS[each.met]} |"
        )
    return "\n".join(lines)


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
