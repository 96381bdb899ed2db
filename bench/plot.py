"""A line as SVG: measured points on logarithmic sizes, so that a bend is seen. Nothing but text."""

from __future__ import annotations

import math
from html import escape

from bench.growth import Series

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 44


def svg(series: Series) -> str:
    """The picture of one series; the y axis begins at 0."""
    xs = [math.log10(max(x, 1)) for x, _ in series.points]
    ys = [y for _, y in series.points]
    low, high = min(xs), max(*xs, min(xs) + 1)
    top = max(ys) * 1.15 or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    places = [at(x, y) for x, y in zip(xs, ys, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    floor = HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="13">{escape(series.name)}, {escape(series.unit)}</text>',
        f'<path d="M{LEFT},{TOP} V{floor} H{WIDTH - RIGHT}" fill="none" stroke="#888"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(series.x)}</text>',
    ]
    for share in (0.5, 1.0):
        _, y = at(low, top * share)
        parts.append(f'<path d="M{LEFT},{y:.1f} H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * share:.3g}</text>')
    parts.append(f'<polyline points="{path}" fill="none" stroke="#2563eb" stroke-width="2"/>')
    for (size, value), (x, y) in zip(series.points, places, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#2563eb"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{size:,.0f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle">{value:.3g}</text>')
    return "\n".join([*parts, "</svg>", ""])
