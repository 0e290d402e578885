"""The table of rounds: every round of every system and seed, which is reported, what is not known."""

import json

from rlkit.report import page, rounds

RESULTS = {
    "rounds": {
        "naive": {"0": [{"round": 1, "kept": 9, "acceptance": 0.5}, {"round": 2, "kept": 9, "acceptance": 0.25}]},
        "ours": {"0": [{"round": 1, "kept": 7, "acceptance": 0.5, "truth": None}], "4": [{"round": 1, "kept": 8}]},
    },
    "kept_round": {"naive": [2], "ours": [1, 1]},
    "stopped": {"naive": [None], "ours": ["round 1 kept no <sample>", None]},
}


def test_every_round_has_a_row_and_the_reported_one_says_so():
    found = rounds.table(RESULTS)
    assert [head for head, _ in found["heads"]] == ["kept", "acceptance"]  # truth is known of none
    titles = [title for title, _ in found["rows"]]
    assert titles == [
        "naive rounds, seed 0, round 1",
        "naive rounds, seed 0, round 2, reported",
        "rounds with guards, seed 0, round 1, reported",
        "rounds with guards, seed 4, round 1, reported",
    ]
    assert [cell.value for cell in found["rows"][1][1]] == ["9", "0.25"]
    assert found["rows"][3][1][1].value == "–"  # not known, not 0
    assert rounds.stops(RESULTS) == ["rounds with guards, seed 0: round 1 kept no <sample>."]


def test_a_run_without_rounds_has_no_table(tmp_path):
    assert rounds.table({})["rows"] == [] == rounds.stops({})
    for name, results in (("with", RESULTS), ("without", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        page.write_report(tmp_path / name)
    written = {name: (tmp_path / name / "report.html").read_text() for name in ("with", "without")}
    assert "<h2>Rounds</h2>" in written["with"] and "no &lt;sample&gt;" in written["with"]
    assert "<h2>Rounds</h2>" not in written["without"]
