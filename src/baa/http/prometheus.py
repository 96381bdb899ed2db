"""Figures in Prometheus' text format. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its samples by their label's value; one without labels has the value ""."""

    name: str
    type: Literal["gauge", "counter"]
    help: str
    samples: Mapping[str, int]
    label: str = field(default="")


def text(told: tuple[Metric, ...]) -> str:
    """The page that Prometheus reads."""
    return "".join(f"{line}\n" for metric in told for line in _lines(metric))


def gauge(name: str, about: str, value: int) -> Metric:
    """A figure without labels."""
    return Metric(name, "gauge", about, {"": value})


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.type}"
    for of, value in metric.samples.items():
        labels = f'{{{metric.label}="{_escaped(of)}"}}' if metric.label else ""
        yield f"{metric.name}{labels} {value}"


def _escaped(text_: str) -> str:
    return text_.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
