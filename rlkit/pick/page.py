"""The page of a folder of picks: the curve over n, and the kept samples of the first prompts; one file, no script."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from rlkit.evaluate.names import describe, interval_text, number
from rlkit.report.svg import line_chart
from rlkit.running.folder import write_text


def write_page(out: Path, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """page.html and curve.svg; the pictures stay in pictures/."""
    curve, names = results["curve"], [name for name in ("reward", "held_out") if name in results["curve"][0]]
    gains = {
        f"gain in {describe(name).title}": [
            (math.sqrt(point["kl"]), point["gain"][name]["value"])
            for point in curve
            if point["gain"][name]["value"] is not None
        ]
        for name in names
    }
    title = "gain over one sample, by the square root of the KL in nats"
    write_text(out / "curve.svg", str(line_chart(gains, title=title, standalone=True)))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    cells = [
        [f"{point['n']}", f"{point['kl']:.2f}"]
        + [f"{number(point[k]['value'], describe(k))} ({interval_text(point[k], describe(k))})" for k in names]
        for point in curve
    ]
    html = environment.get_template("page.html.j2").render(
        results=results,
        heads=["n", "KL, nats", *(describe(name).title for name in names)],
        cells=cells,
        chart_title=title,
        prompts=[{"prompt": row["prompt"], "kept": _kept(row)} for row in rows],
    )
    write_text(out / "page.html", html)
    return out / "page.html"


def _kept(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for at, file in zip(row["kept"], row["files"], strict=True):
        scores = [f"{describe(k).title} {number(v[at], describe(k))}" for k, v in row["scores"].items()]
        found.append({"file": file, "text": row["samples"][at].get("text", ""), "scores": ", ".join(scores)})
    return found
