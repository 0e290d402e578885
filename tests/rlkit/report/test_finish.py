"""A run is finished once its report and cards are there, not before."""

import json
import runpy
from pathlib import Path

import pytest

from rlkit.report.finish import finish
from rlkit.running.folder import RunFolder

write_fake_run = runpy.run_path(str(Path(__file__).with_name("fake_run.py")))["write_fake_run"]


def test_a_kill_between_the_numbers_and_the_card_leaves_it_unfinished(tmp_path, monkeypatch):
    folder = RunFolder(write_fake_run(tmp_path / "dpo_caption"))
    results = json.loads((folder.path / "results.json").read_text())
    results.pop("complete")
    (folder.path / "results.json").unlink()

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rlkit.report.finish.write_cards", killed)
        finish(folder, results)
    assert folder.results()["systems"] == results["systems"] and not folder.finished
    finish(folder, results)
    assert folder.finished and (folder.path / "README.md").is_file() and (folder.path / "report.html").is_file()
