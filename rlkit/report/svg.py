"""Small SVG pictures for reports: lines over steps, and values with intervals. Plain text in, escaped text out.

Colours are CSS variables with fallbacks (Okabe and Ito's colour-blind-safe set), so that a page can turn them dark;
a file written on its own brings its own style.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "", "6 3")
WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 26
# Half-life of the smoothed line, as a share of the points: long runs are smoothed more.
SMOOTHING = 0.04

STYLE = """
svg{font-family:ui-sans-serif,system-ui,sans-serif;background:#fff;color:#1b1f27}
@media (prefers-color-scheme:dark){svg{background:#12151b;color:#e6e9ef}}
"""


def ema(values: Sequence[float], half_life: float) -> list[float]:
    """Exponential moving average, its start corrected as in Adam (Kingma and Ba, 2015)."""
    decay = 0.5 ** (1 / half_life) if half_life > 0 else 0.0
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        out.append(mean / weight)
    return out


def line_chart(
    series: Mapping[str, Points], *, title: str, marks: Sequence[tuple[float, str]] = (), standalone: bool = False
) -> Markup:
    """Raw values (thin) and their moving average (thick) over steps; `marks` are (step, text), drawn as upright lines.

    Rare spikes that would flatten all else are drawn, and averaged, at the edge of the picture.
    """
    series = {name: kept for name, points in series.items() if (kept := _finite(points))}
    if not series:
        return Markup("")
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_low, x_high = min(xs), max(xs)
    ticks = nice_ticks(*_without_spikes(ys))
    y_low, y_high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(ticks, [x for x in nice_ticks(x_low, x_high, 5) if x_low <= x <= x_high], place)]
    for step, text in marks:
        if x_low <= step <= x_high:
            x, _ = place(step, y_low)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="var(--alarm,#d55e00)" '
                f'stroke-dasharray="2 3"><title>{escape(text)}</title></line>'
            )
    for index, (name, points) in enumerate(series.items()):
        parts.append(_line(name, [(x, min(max(y, y_low), y_high)) for x, y in points], index, place))
    style = f"<style>{STYLE}</style>" if standalone else ""
    legend = _legend(list(series)) if standalone else ""
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + (24 if standalone else 0)}" '
        f'role="img" aria-label="{escape(title)}" font-size="11">{style}{"".join(parts)}{legend}</svg>'
    )


def colour(index: int) -> str:
    """Stroke of the series with this index."""
    return f"var(--series-{index % len(COLOURS)},{COLOURS[index % len(COLOURS)]})"


def interval_chart(
    rows: Sequence[tuple[str, str, float, float | None, float | None]],
    *,
    title: str,
    emphasis: Sequence[str] = (),
    bounds: tuple[float, float] | None = None,
) -> Markup:
    """One line per row (label, printed value, value, low, high): a dot with its interval, on a shared axis.

    The axis stays inside `bounds`, the least and largest value that the quantity can have.
    """
    if not rows:
        return Markup("")
    numbers = [n for _, _, *values in rows for n in values if n is not None]
    ticks = nice_ticks(min(numbers), max(numbers), 5)
    if bounds is not None:
        ticks = nice_ticks(*bounds, 5) if min(numbers) == max(numbers) else ticks
        # Where a round number lies outside, the bound itself ends the axis.
        ticks = sorted({min(max(tick, bounds[0]), bounds[1]) for tick in ticks})
    width, label_width, line = 960, 210, 27
    height = line * len(rows) + 26

    def place(value: float) -> float:
        return label_width + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (width - label_width - 70)

    parts = []
    for tick in ticks:
        x = place(tick)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{height - 20}" stroke="currentColor" stroke-opacity=".12"/>'
            f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle" fill="currentColor" fill-opacity=".6">'
            f"{axis_number(tick)}</text>"
        )
    for index, (label, printed, value, low, high) in enumerate(rows):
        y = line * index + line / 2
        strong = label in emphasis
        stroke = colour(0) if strong else "var(--quiet,#7b8494)"
        if low is not None and high is not None:
            parts.append(
                f'<line x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{y}" y2="{y}" stroke="{stroke}" '
                'stroke-width="3" stroke-linecap="round" stroke-opacity=".45"/>'
            )
        weight = ' font-weight="600"' if strong else ""
        parts.append(
            f'<circle cx="{place(value):.1f}" cy="{y}" r="4.5" fill="{stroke}"/>'
            f'<text x="0" y="{y + 4}" fill="currentColor"{weight}>{escape(label)}</text>'
            f'<text x="{width}" y="{y + 4}" text-anchor="end" fill="currentColor"{weight}>{escape(printed)}</text>'
        )
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" font-size="13.5">{"".join(parts)}</svg>'
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that enclose [low, high], about `count` steps apart."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # alike but for rounding: ticks would round to one
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _without_spikes(values: Sequence[float]) -> tuple[float, float]:
    """The range to show: the whole one, unless a few spikes would flatten all else; those are cut at the edge."""
    ordered = sorted(values)
    if len(ordered) < 20:
        return ordered[0], ordered[-1]
    edge = len(ordered) // 50
    low, high = ordered[edge], ordered[-1 - edge]
    margin = 0.5 * (high - low)
    return max(ordered[0], low - margin), min(ordered[-1], high + margin)


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if y is not None and math.isfinite(y)]


def _axes(y_ticks: Sequence[float], x_ticks: Sequence[float], place: Place) -> str:
    parts = []
    for tick in y_ticks:
        _, y = place(0, tick)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity=".12"/><text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="currentColor" '
            f'fill-opacity=".6">{axis_number(tick)}</text>'
        )
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle" fill="currentColor" fill-opacity=".6">'
            f"{axis_number(tick)}</text>"
        )
    return "".join(parts)


def _line(name: str, points: list[tuple[float, float]], index: int, place: Place) -> str:
    smooth = ema([y for _, y in points], max(0.0, SMOOTHING * len(points)) if len(points) >= 20 else 0.0)
    smooth_points = [(x, y) for (x, _), y in zip(points, smooth, strict=True)]
    label = f"{escape(name)}: {axis_number(points[-1][1], 4)} at step {axis_number(points[-1][0])}"
    dash = f' stroke-dasharray="{DASHES[index % len(DASHES)]}"' if DASHES[index % len(DASHES)] else ""
    raw = ""
    if len(points) >= 20:
        raw = f'<path d="{_path(points, place)}" fill="none" stroke="{colour(index)}" stroke-opacity=".28"/>'
    dots = ""
    if len(points) < 20:
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour(index)}"/>'
            for x, y in (place(*point) for point in points)
        )
    return (
        f'{raw}<path d="{_path(smooth_points, place)}" fill="none" stroke="{colour(index)}" stroke-width="2"{dash} '
        f'stroke-linejoin="round"><title>{label}</title></path>{dots}'
    )


def _path(points: Points, place: Place) -> str:
    # A screen has some 400 columns here; more points than 600 only make the file large.
    step = max(1, len(points) // 600)
    kept = [*points[::step], points[-1]]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in kept))


def _legend(names: Sequence[str]) -> str:
    parts, x = [], LEFT
    for index, name in enumerate(names):
        parts.append(
            f'<line x1="{x}" x2="{x + 18}" y1="{HEIGHT + 10}" y2="{HEIGHT + 10}" stroke="{colour(index)}" '
            f'stroke-width="2"/><text x="{x + 23}" y="{HEIGHT + 14}" fill="currentColor">{escape(name)}</text>'
        )
        x += 36 + 7 * len(name)
    return "".join(parts)


def axis_number(value: float, digits: int = 3) -> str:
    """A number as an axis shows it: no noise digits, thousands as 10k."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 and float(value).is_integer():
        return f"{value / 1000:,.10g}k".replace("-", "\u2212")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "\u2212")
    return f"{value:.{digits}g}".replace("-", "\u2212")
