"""Pictures beside an algorithm: their weighed error, their passes, and what they follow from."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rlkit.errors import DataError
from rlkit.generators import replay as replays
from rlkit.generators.pool import Pool
from rlkit.generators.replay import Replay, replay
from rlkit.recipe import Recipe, Retain
from rlkit.recipe.schema import Generation
from rlkit.running.folder import RunFolder


@pytest.fixture
def make(monkeypatch):
    """(pool, weight) -> a Replay whose error of a picture is its mean pixel."""
    monkeypatch.setattr(replays.denoising, "errors", lambda _, x0, *__: x0.flatten(1).mean(1))
    family = SimpleNamespace(encode_images=lambda _, pixels: pixels)

    def build(pool, weight=0.5):
        return Replay(session_of(Retain(replay_weight=weight, replay_rows=3), family), pool)

    return build


def session_of(retain, family=None):
    generator = SimpleNamespace(device="cpu", family=family, pipe=None)
    recipe = Recipe(algorithm="nft", retain=retain, generation=Generation(resolution=8))
    return SimpleNamespace(recipe=recipe, generator=generator, embeddings=lambda prompts: {})


def flat(values):
    return Pool([np.full((4, 4, 3), value, np.uint8) for value in values], [str(value) for value in values])


def test_each_micro_batch_gets_the_weighed_error_and_its_passes_count(make):
    """Pixels of 51 are -0.6 as the model sees them."""
    trains = SimpleNamespace(forward_passes=7)
    trains.losses = lambda step: iter([(torch.tensor(1.0), {"reward": 2.0}), (torch.tensor(3.0), {})])
    (one, told), (two, _) = make(flat([51, 51])).beside(trains)(0)
    assert (one.item(), two.item()) == (pytest.approx(1.0 - 0.3), pytest.approx(3.0 - 0.3))
    assert told == {"reward": 2.0, "replay/loss": pytest.approx(-0.6)}
    assert trains.forward_passes == 7 + 2 * 2 * 3


def test_what_is_shown_follows_from_seed_step_and_part(make):
    one, other = make(flat(range(0, 200, 5))), make(flat(range(0, 200, 5)))
    shown = [one.errors(step, part) for step in range(3) for part in range(2)]
    assert torch.equal(other.errors(2, 1), shown[-1])
    assert len({tuple(each.tolist()) for each in shown}) == 6


def test_a_folder_is_read_and_too_few_pictures_are_refused(tmp_path):
    folder = RunFolder(tmp_path / "run", True)
    folder.path.mkdir()
    (tmp_path / "pictures").mkdir()
    for at in range(4):
        Image.new("RGB", (16, 12), (40 * at, 0, 0)).save(tmp_path / f"pictures/{at}.png")
    (tmp_path / "pictures/captions.jsonl").write_text(
        "".join(f'{{"image": "{at}.png", "caption": "red {at}"}}\n' for at in range(4))
    )
    retain = Retain(replay=str(tmp_path / "pictures"), replay_weight=1.0)
    found = replay(session_of(retain), folder)
    assert found.pool.prompts == ["red 0", "red 1", "red 2", "red 3"]
    assert found.pool.pictures[0].shape == (8, 8, 3)
    (tmp_path / "pictures/3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="holds 3 usable pictures"):
        replay(session_of(retain), folder)
    assert (folder.path / "rejected_rows.jsonl").is_file()


def test_nothing_is_replayed_unless_asked_for(tmp_path):
    assert replay(session_of(None), tmp_path) is replay(session_of(Retain()), tmp_path) is None
    assert len(replay(session_of(Retain(replay_weight=0.1)), tmp_path).pool) == replays.OF_THE_WORLD
