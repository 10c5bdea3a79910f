"""Plots as SVG without a library: lines, and bars on a logarithmic scale. Readable on light and on dark."""

import math
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 680, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 36, 46, 54
_BAR = 26
_NAME = 190
"""Pixels for the names beside bars."""
_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 15px }
.grid { stroke: #d0d7de; stroke-width: 1 } .fit { stroke-width: 1.5; stroke-dasharray: 5 4; fill: none }
.line { stroke-width: 2; fill: none }
.d0 { fill: #0969da } .l0 { stroke: #0969da } .d1 { fill: #9a6700 } .l1 { stroke: #9a6700 }
.d2 { fill: #8250df } .l2 { stroke: #8250df } .d3 { fill: #1a7f37 } .l3 { stroke: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .grid { stroke: #3d444d }
.d0 { fill: #58a6ff } .l0 { stroke: #58a6ff } .d1 { fill: #d29922 } .l1 { stroke: #d29922 }
.d2 { fill: #bc8cff } .l2 { stroke: #bc8cff } .d3 { fill: #3fb950 } .l3 { stroke: #3fb950 } }
</style>"""

Points = Sequence[tuple[float, float]]
Place = Callable[[float], float]
"""From a value to a pixel."""


def draw_lines(
    title: str,
    x: str,
    y: str,
    series: Mapping[str, Points],
    fits: Mapping[str, tuple[float, float]],
) -> str:
    """Return a plot of points joined by lines; a fit, slope and intercept, is drawn dashed."""
    right = max(place for points in series.values() for place, _ in points)
    top = max(value for points in series.values() for _, value in points)
    x_ticks, y_ticks = _ticks(right), _ticks(top)
    across = _scale(0, x_ticks[-1], _LEFT, WIDTH - _RIGHT)
    up = _scale(0, y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [_text(_LEFT, 22, title, "title"), _text(WIDTH / 2, HEIGHT - 12, x, anchor="middle")]
    parts.append(_text(_LEFT, 40, y))
    for value in y_ticks:
        parts.append(_line(_LEFT, up(value), WIDTH - _RIGHT, up(value)))
        parts.append(_text(_LEFT - 8, up(value) + 4, _format_value(value), anchor="end"))
    parts += [_text(across(value), HEIGHT - 34, _format_value(value), anchor="middle") for value in x_ticks]
    for number, (name, points) in enumerate(series.items()):
        parts += [*_draw_points(number, points, across, up), *_draw_legend(number, name)]
        if fitted := fits.get(name):
            begin, end = fitted[1], fitted[0] * x_ticks[-1] + fitted[1]
            ends = f"{across(0):.1f},{up(max(begin, 0)):.1f} {across(x_ticks[-1]):.1f},{up(min(end, y_ticks[-1])):.1f}"
            parts.append(f'<polyline class="fit l{number % 4}" points="{ends}"/>')
    return _document(HEIGHT, title, parts)


def _draw_points(number: int, points: Points, across: Place, up: Place) -> list[str]:
    places = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
    dots = [f'<circle class="d{number % 4}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4"/>' for x, y in points]
    return [f'<polyline class="line l{number % 4}" points="{places}"/>', *dots]


def _draw_legend(number: int, name: str) -> list[str]:
    x, y = WIDTH - _RIGHT - 4, 22 + 18 * number
    return [f'<circle class="d{number % 4}" cx="{x}" cy="{y - 4}" r="4"/>', _text(x - 12, y, name, anchor="end")]


def draw_bars(title: str, unit: str, bars: Mapping[str, float]) -> str:
    """Return a bar for each on a logarithmic scale, because they differ by orders of magnitude."""
    low = 10 ** math.floor(math.log10(min(bars.values())))
    high = 10 ** math.ceil(math.log10(max(bars.values())))
    across = _scale(math.log10(low), math.log10(high), _NAME, WIDTH - 90)
    height = _TOP + _BAR * len(bars) + 40
    parts = [_text(16, 24, f"{title}, {unit} (logarithmic)", "title")]
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        parts.append(_line(across(exponent), _TOP, across(exponent), height - 36))
        parts.append(_text(across(exponent), height - 18, f"{10.0**exponent:g}", anchor="middle"))
    for number, (name, value) in enumerate(bars.items()):
        top, end = _TOP + _BAR * number, across(math.log10(value))
        parts.append(f'<rect class="d0" x="{_NAME}" y="{top + 4}" width="{end - _NAME:.1f}" height="{_BAR - 8}"/>')
        parts.append(_text(_NAME - 8, top + 18, name, anchor="end"))
        parts.append(_text(end + 6, top + 18, f"{value:.3g}"))
    return _document(height, title, parts)


def _document(height: int, title: str, parts: Sequence[str]) -> str:
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
    return "\n".join([f'{opening} aria-label="{escape(title)}">', _STYLE, *parts, "</svg>\n"])


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _scale(low: float, high: float, start: float, end: float) -> Place:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(top: float) -> list[float]:
    """Return 0 and some round numbers up to the first that is not below `top`."""
    step = 10 ** math.floor(math.log10(top))
    step *= next(part for part in (0.2, 0.25, 0.5, 1, 2) if top / (step * part) <= 6)
    return [step * number for number in range(math.ceil(top / step) + 1)]


def _format_value(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:g}"
