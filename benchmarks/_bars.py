"""Bars as SVG: a name, a bar and a figure on each line."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_ROW, _NAMES, _BARS, _FIGURES = 24, 440, 300, 100


def bars(figures: Mapping[str, float], *, unit: str) -> str:
    """One bar for each figure; the longest is the largest."""
    most = max(figures.values())
    rows = "".join(
        _row(number * _ROW, name, max(0.0, figure) / most * _BARS, f"{figure:,.0f} {unit}")
        for number, (name, figure) in enumerate(figures.items())
    )
    size = f'width="{_NAMES + _BARS + _FIGURES}" height="{len(figures) * _ROW}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">{rows}</svg>\n'


def _row(top: int, name: str, width: float, figure: str) -> str:
    return (
        f'<text x="{_NAMES - 8}" y="{top + 16}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{_NAMES}" y="{top + 4}" width="{width:.0f}" height="16" fill="#4a7c59"/>'
        f'<text x="{_NAMES + width + 6:.0f}" y="{top + 16}">{escape(figure)}</text>'
    )
