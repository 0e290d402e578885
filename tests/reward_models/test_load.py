"""A reward by name, by file, and by the folder of a trained one."""

import json

import pytest

import reward_models


def test_by_name():
    score = reward_models.load("event_order", parse=lambda text: (text.split(), 0))
    assert score(prompts=["", ""], completions=["a b", "b a"], events=[["a", "b"], None]) == [1.0, None]


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "length.py").write_text(
        "def load(device='cpu', *, scale=1.0):\n"
        "    return lambda *, prompts, completions, **_: [scale * len(one) for one in completions]\n"
    )
    score = reward_models.load(tmp_path / "length.py", scale=2.0)
    assert score(prompts=[""], completions=["abc"]) == [6.0]
    assert score.__name__ == "length"  # TRL logs rewards by it: two of one name would share a curve


def test_a_folder_says_which_file_loads_it(tmp_path, monkeypatch):
    seen = {}
    module = type("Module", (), {"load": staticmethod(lambda device, **options: seen.update(options, device=device))})
    monkeypatch.setattr(
        reward_models.importlib, "import_module", lambda name: module if name.endswith(".judge") else 1 / 0
    )
    monkeypatch.setattr(reward_models, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "judge.py").touch()
    (tmp_path / reward_models.MANIFEST).write_text(json.dumps({"reward": "judge", "options": {"a": 1, "b": 1}}))
    reward_models.load(tmp_path, b=2)
    assert seen == {"a": 1, "b": 2, "model": str(tmp_path), "device": "cpu"}


def test_unknown_names_say_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reward 'event_ordr'.*event_order"):
        reward_models.load("event_ordr")
    with pytest.raises(FileNotFoundError, match="no file"):
        reward_models.load("./absent.py")
    (tmp_path / "empty.py").touch()
    with pytest.raises(ValueError, match="no function `load"):
        reward_models.load(tmp_path / "empty.py")
