"""The end of a run: its results, its report, its cards, and the last screen."""

from collections.abc import Mapping
from typing import Any

from rlkit.report.card import write_cards
from rlkit.report.page import write_report
from rlkit.running.folder import RunFolder
from rlkit.running.progress import last_screen


def finish(folder: RunFolder, results: Mapping[str, Any], *, cards: bool = True) -> None:
    """Write results.json, what is made from it, and say what changed; `cards` are for runs that trained a model. The
    run is finished last: what a kill kept from being made is made by the next start."""
    folder.write_json("results.json", {"complete": False, **results})
    if folder.main:
        write_report(folder.path)
        if cards:
            write_cards(folder.path)
    folder.finish(results)
    last_screen(results, folder.path)
