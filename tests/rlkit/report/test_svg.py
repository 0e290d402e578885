"""Curves: the moving average's formula, round ticks, escaped names, no invented points."""

import itertools
import math
from xml.dom import minidom

import pytest

from rlkit.report.svg import axis_number, ema, interval_chart, line_chart, nice_ticks


def test_ema_halves_a_weight_every_half_life():
    weights = [0.5 ** ((9 - i) / 3) for i in range(10)]
    values = [math.sin(i) for i in range(10)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert ema(values, 3)[-1] == pytest.approx(expected)
    assert ema([5.0, 5.0, 5.0], 3) == pytest.approx([5, 5, 5])


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 7.9), (1e-6, 3e-6), (12, 12), (0, 0), (-5e4, 5e4), (1, 1 + 2e-16)]
)
def test_ticks_enclose_the_values_and_are_few(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    steps = {round(b - a, 15) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1 or max(steps) == pytest.approx(min(steps))


def test_chart_is_valid_xml_with_hostile_names():
    hostile = '<script>alert(1)</script>"&'
    svg = line_chart({hostile: [(0, 1), (1, 2)]}, title=hostile, marks=[(0.5, hostile)], standalone=True)
    document = minidom.parseString(svg)
    assert not document.getElementsByTagName("script")
    assert hostile in document.documentElement.getAttribute("aria-label")


def test_nan_points_are_left_out_and_nothing_gives_nothing():
    assert "nan" not in line_chart({"loss": [(0, 1.0), (1, math.nan), (2, 2.0)]}, title="loss")
    assert line_chart({"loss": [(0, math.nan)]}, title="loss") == ""
    assert line_chart({}, title="loss") == "" and interval_chart([], title="x") == ""


def test_a_spike_does_not_flatten_the_rest():
    quiet = [(i, 1 + (i % 3)) for i in range(100)]
    svg = line_chart({"grad_norm": [*quiet, (100, 1e6)]}, title="grad_norm")
    assert ">3<" in svg and "k<" not in svg


def test_all_values_show_when_there_are_few():
    assert ">100<" in line_chart({"x": [(0, 0.0), (1, 1.0), (2, 100.0)]}, title="x")


def test_interval_chart_prints_values_and_whiskers():
    svg = interval_chart([("base", "52.8", 52.8, 50.0, 55.0), ("dpo", "91", 91.0, None, None)], title="order")
    document = minidom.parseString(svg)
    assert len(document.getElementsByTagName("circle")) == 2
    thick = [line for line in document.getElementsByTagName("line") if line.getAttribute("stroke-width") == "3"]
    assert len(thick) == 1


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (12_000, "12k"), (0.25, "0.25"), (-1500, "−1,500")])
def test_axis_numbers(value, text):
    assert axis_number(value) == text


@pytest.mark.parametrize("values", [[0.0, 0.0], [99.0, 100.0], [3.0, 97.0], [99.2, 99.4]])
def test_interval_axis_of_a_percentage_stays_in_0_to_100(values):
    rows = [(str(value), str(value), value, None, None) for value in values]
    document = minidom.parseString(interval_chart(rows, title="x", bounds=(0, 100)))
    texts = [
        text.firstChild.data for text in document.getElementsByTagName("text") if text.hasAttribute("fill-opacity")
    ]
    assert all(0 <= float(text) <= 100 for text in texts)
    circles = [float(circle.getAttribute("cx")) for circle in document.getElementsByTagName("circle")]
    assert all(200 < x <= 900 for x in circles)
