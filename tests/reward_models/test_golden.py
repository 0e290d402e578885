"""The golden vectors are well formed, seeded pictures never change, and the command compares, records and refuses."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from reward_models import golden
from tests.reward_models import tiny_checkpoints


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tiny_checkpoints.clip_score(folder)
    return str(folder)


def test_every_file_says_where_its_numbers_come_from():
    assert len(golden.names()) == 9
    for name in golden.names():
        vectors = json.loads((golden.VECTORS / f"{name}.json").read_text())
        assert vectors.keys() == {"reward", "options", "revision", "files", "cases"}
        assert "model" in vectors["options"]
        for case in vectors["cases"]:
            assert len(case["prompts"]) == len(case["pictures"])
            published = case["expected"] is not None
            assert (
                published
                == case["source"].startswith(("https://", "transformers, "))
                == (case["tolerance"] is not None)
            )
            assert published == any("file" in one for one in case["pictures"])  # nothing of ours is called published
            if published:
                assert len(case["expected"]) == (1 if case["of"] == "mean" else len(case["pictures"]))


def test_published_numbers_are_the_publishers():
    cases = json.loads((golden.VECTORS / "image_reward.json").read_text())["cases"]
    assert cases[0]["expected"] == [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]
    captions = json.loads((golden.VECTORS / "clip_score.json").read_text())["cases"]
    assert [case["expected"] for case in captions[:3]] == [[0.8584], [0.7153], [24.5701, 19.3049]]


def test_seeded_pictures_are_blocks_of_sha_256():
    image = np.asarray(golden.picture({"seed": 3, "width": 16, "height": 24}))
    assert image.shape == (24, 16, 3) and (image[:3, :2] == image[0, 0]).all()
    first = hashlib.sha256(b"3/0/0").digest()
    assert image[0, ::2].reshape(-1).tolist() == list(first[:24])
    clip = golden.picture({"seed": 3, "width": 16, "height": 24, "frames": 4})
    assert clip.shape == (4, 24, 16, 3) and clip.dtype == np.uint8 and (clip[0] == image).all()
    assert (clip[1] != clip[0]).any()


def test_nothing_to_compare_is_not_success(clip, capsys):
    assert golden.main(["clip_score", "--model", clip]) == 2
    said = capsys.readouterr().out
    assert "0 of 0 agree, 8 not compared" in said and "no example/images/image1.jpg; pass --files with a clone" in said
    assert said.count("no published score") == 4


def test_weights_that_are_not_there_are_one_line_without_a_traceback(capsys):
    assert golden.main(["pick_score", "--model", "nobody/nothing"]) == 2
    said = capsys.readouterr().err
    assert "nobody/nothing cannot be loaded" in said and "Traceback" not in said


def test_published_pictures_are_compared(clip, tmp_path, capsys):
    (tmp_path / "example" / "images").mkdir(parents=True)
    for index in (1, 2):
        tiny_checkpoints.picture(index).save(tmp_path / "example" / "images" / f"image{index}.jpg")
    assert golden.main(["clip_score", "--model", clip, "--files", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("DIFFERS") == 2  # random weights are not OpenAI's


def test_what_was_recorded_agrees_and_other_weights_do_not(clip, tmp_path, capsys):
    record = tmp_path / "mine.json"
    assert golden.main(["clip_score", "--model", clip, "--record", str(record)]) == 2
    told = json.loads(record.read_text())
    assert told["options"]["model"] == clip and len(told["cases"]) == 1  # the one whose pictures are here
    assert told["cases"][0]["source"].startswith("recorded with torch")
    assert list(tmp_path.iterdir()) == [record]
    assert golden.main(["clip_score", "--against", str(record), "--option", "batch_size=1"]) == 0
    assert "4 of 4 agree, 0 not compared" in capsys.readouterr().out
    other = tmp_path / "other"
    tiny_checkpoints.hf_clip(other, hidden_act="quick_gelu", seed=9)
    assert golden.main(["clip_score", "--against", str(record), "--model", str(other)]) == 1
    assert golden.main(["clip_score", "--against", str(record), "--option", "weight=2.6"]) == 1


def test_a_video_reward_is_recorded_with_its_frames_a_second(tmp_path):
    options = tiny_checkpoints.video_reward(tmp_path)
    vectors = json.loads((golden.VECTORS / "video_reward.json").read_text())
    small = [{"seed": 1, "width": 48, "height": 48, "frames": 8}, {"seed": 2, "width": 48, "height": 48, "frames": 8}]
    vectors["cases"][0] |= {"pictures": small}
    first = golden.check(vectors, options=options)
    assert [one.agrees for one in first] == [None, None] and all(one.found is not None for one in first)
    again = golden.check(golden.recorded(vectors, first, options))
    assert [one.agrees for one in again] == [True, True]
    assert golden.as_rows(again)[0]["agrees"] is True
    assert golden.as_rows(first)[0]["agrees"] is None


def test_a_missing_score_does_not_agree(clip, monkeypatch):
    told = {"seed": 1, "width": 16, "height": 16}
    case = {"name": "n", "prompts": [None], "pictures": [told], "of": "each", "expected": [1.0], "tolerance": 9.0}
    vectors = {"reward": "clip_score", "options": {"model": clip}, "files": "nothing", "cases": [case]}
    (verdict,) = golden.check(vectors)
    assert verdict.found is None and verdict.agrees is False
    assert isinstance(golden.picture(told), Image.Image)
