"""Figures: what was measured, of how many, from which seed, and whether it is what it must be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """`value` in `unit`, of `n` that were tried; `must` is what it has to be, None if nothing is promised."""

    name: str
    value: float
    unit: str
    n: int
    seed: int = 0
    must: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it is what it must be; of nothing tried nothing holds."""
        return self.must is None or (self.value == self.must and self.n > 0)

    def __str__(self) -> str:
        verdict = "" if self.holds else f"  <- must be {self.must:g} of at least one"
        return f"{self.name} {self.value:g} {self.unit} {self.n} {self.seed}{verdict}"


def told(figures: Iterable[Figure], *, as_json: bool) -> str:
    """One figure a line (`name value unit n seed`), or all of them as a JSON list."""
    if not as_json:
        return "\n".join(map(str, figures))
    return json.dumps(
        [{**asdict(figure), "holds": figure.holds} for figure in figures],
        indent=1,
    )


def percentile(values: list[float], share: float) -> float:
    """The smallest of the values that `share` of them do not exceed; 0.0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
