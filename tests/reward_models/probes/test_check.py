"""The check itself: its report, its errors, what it does to a reward, and items of one's own."""

import json
import math
import time

import numpy as np
import pytest
from PIL import Image

from reward_models.probes import PROBES, Items, check, embedded, read_items
from reward_models.probes.bench import Bench, differences, t_of
from reward_models.probes.items import copied, digest
from reward_models.probes.report import Finding, ProbeError, Report, at_most


def length_reward():
    return lambda *, prompts, completions, **_: [float(len(str(one))) for one in completions]


def items_of(scores):
    """Captions whose length is the score."""
    return Items("text", ["p"] * len(scores), ["x" * score for score in scores])


def test_a_report_prints_and_serialises():
    findings = [at_most(0.3, 0.1, "good", "bad", share=0.5), Finding("not applicable", "why", name="two")]
    report = Report("text", 9, [Finding(**{**vars(findings[0]), "name": "one"}), findings[1]])
    assert (report.failed, report.exit_code, report["one"].figure) == (["one"], 1, 0.3)
    told = json.loads(report.to_json())
    assert told["failed"] == ["one"]
    assert told["findings"][0]["details"] == {"share": 0.5}
    text = str(report)
    assert "9 items (text): 0 pass, 1 fail, 1 not applicable" in text
    assert "0.3 (at most 0.1)" in text
    assert Report("text", 9, findings[1:]).exit_code == 0
    with pytest.raises(KeyError):
        report["three"]


def test_json_has_no_nan_and_nan_never_passes():
    finding = at_most(math.nan, 1.0, "good", "bad")
    assert finding.verdict == "fail"
    assert json.loads(Report("text", 9, [finding]).to_json())["findings"][0]["figure"] is None


def test_names_are_unique_and_only_asks_the_named():
    names = [probe.name for probe in PROBES]
    assert len(set(names)) == len(names)
    report = check(length_reward, kind="text", only=["varies", "signature"])
    assert [finding.name for finding in report.findings] == ["signature", "varies"]
    assert all(finding.says for finding in report.findings)


def test_every_probe_says_something_about_some_kind():
    asked = {
        finding.name for kind in ("text", "image", "video") for finding in check(length_reward, kind=kind).findings
    }
    assert asked == {probe.name for probe in PROBES}


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match=r"no probe jpg; there are .*jpeg"):
        check(length_reward, kind="text", only=["jpg"])
    with pytest.raises(ValueError, match="found 3 items of kind text; expected text, and at least 8"):
        check(length_reward, kind="text", items=items_of([1, 2, 3]))
    with pytest.raises(ValueError, match="expected image"):
        check(length_reward, kind="image", items=items_of(range(9)))
    with pytest.raises(ValueError, match=r"found 2 prompts but \{'completions': 1, 'fps': 3\}"):
        Items("video", ["a", "b"], [None], {"fps": [1, 2, 3]})
    with pytest.raises(ValueError, match="kind is 'audio'"):
        Items("audio", [], [])


def test_what_load_raises_is_raised():
    def load():
        raise FileNotFoundError("no weights")

    with pytest.raises(FileNotFoundError, match="no weights"):
        check(load, kind="text")


def test_a_reward_that_cannot_score_fails_once():
    def load():
        def score(*, prompts, completions, **_):
            raise RuntimeError("out of memory")

        return score

    report = check(load, kind="text")
    assert report.failed == ["answers"]
    assert "RuntimeError: out of memory" in report["answers"].says


def test_a_reward_that_hangs_is_left_at_the_deadline():
    calls = []

    def load():
        def score(*, prompts, completions, **_):
            calls.append(len(completions))
            time.sleep(30)

        return score

    start = time.perf_counter()
    report = check(load, kind="text", deadline_s=0.2)
    assert time.perf_counter() - start < 10
    assert report.failed == ["deadline"]
    assert len(calls) == 1


def test_columns_a_reward_needs_and_nobody_gives_are_told():
    def load():
        return lambda *, prompts, completions, truth, **_: [1.0 for _ in truth]

    report = check(load, kind="text")
    assert "truth" in report["answers"].says


def test_the_spread_is_the_deviation_of_the_middle_and_no_outlier_hides_all():
    even = Bench(length_reward, items_of(range(100)), "auto", 9.0)
    assert even.spread == pytest.approx(np.std(np.clip(np.arange(100), 4.95, 94.05)))
    outlier = Bench(length_reward, items_of([*range(99), 100_000]), "auto", 9.0)
    assert outlier.spread == pytest.approx(even.spread, rel=0.05)
    assert Bench(length_reward, items_of([7] * 20), "auto", 9.0).spread == 0.0


def test_differences_are_in_spreads_and_a_lost_score_is_no_difference_of_0():
    nan = math.nan
    found = differences(np.array([1.0, nan, 3.0]), np.array([2.0, 5.0, 3.0]), 2.0)
    assert found.tolist() == [0.5, 0.0]
    with pytest.raises(ProbeError, match="1 of 2 items lose their score"):
        differences(np.array([1.0, 2.0]), np.array([1.0, nan]), 1.0)


def test_t_is_students():
    values = np.array([0.1, 0.4, 0.3, 0.2])
    assert t_of(values) == pytest.approx(0.25 / (np.std(values, ddof=1) / 2))
    assert (t_of(np.array([0.5, 0.5])), t_of(np.zeros(3))) == (math.inf, 0.0)


def test_a_check_leaves_the_items_alone_and_gives_each_call_its_own_copy():
    items = embedded("image")
    before = digest([list(items.prompts), list(items.completions)])

    def load():
        def score(*, prompts, completions, **_):
            for picture in filter(None, completions):
                picture.paste(0, (0, 0, picture.width, picture.height))
            prompts.clear()
            return [float(i) for i in range(len(completions))]

        return score

    check(load, kind="image")
    assert digest([list(items.prompts), list(items.completions)]) == before


def test_copies_share_nothing_and_digests_see_pixels():
    picture, frames = Image.new("RGB", (2, 2)), np.zeros((1, 2, 2, 3), np.uint8)
    given = [{"images": [picture], "videos": (frames, None), "text": "a"}]
    other = copied(given)
    assert digest(other) == digest(given)
    other[0]["images"][0].putpixel((0, 0), (1, 0, 0))
    assert digest(other) != digest(given)
    assert picture.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["text", "image", "video"])
def test_embedded_items_are_the_same_every_time(kind):
    first = embedded(kind)
    embedded.cache_clear()
    second = embedded(kind)
    assert digest(list(first.completions)) == digest(list(second.completions))
    assert len(first.best()) >= 16


def test_items_of_ones_own_from_lines(tmp_path):
    Image.new("RGB", (4, 3), (9, 8, 7)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.arange(40 * 12, dtype=np.uint8).reshape(40, 2, 2, 3))
    line = {
        "prompt": "p",
        "completion": "c",
        "image": "a.png",
        "video": "b.npy",
        "quality": 0.5,
        "events": [["x", "y"]],
    }
    (tmp_path / "items.jsonl").write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    items = read_items(tmp_path, "text")
    assert (items.completions, items.quality, items.columns["events"]) == (["c"], [0.5], [[["x", "y"]]])
    assert items.columns["images"][0].getpixel((0, 0)) == (9, 8, 7)
    assert items.columns["videos"][0].shape == (32, 2, 2, 3)
    assert read_items(tmp_path, "image").completions[0].size == (4, 3)
    video = read_items(tmp_path / "items.jsonl", "video")
    assert video.completions[0].shape == (32, 2, 2, 3)
    assert "videos" not in video.columns


def test_items_of_ones_own_from_a_folder(tmp_path):
    for name in ("b", "a"):
        Image.new("L", (4, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a grey card\n", encoding="utf-8")
    items = read_items(tmp_path, "image")
    assert items.prompts == ["a grey card", ""]
    assert items.completions[0].mode == "RGB"


def test_a_clip_file_brings_its_frame_rate(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=16)
        stream.width = stream.height = 32
        for level in range(64):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level * 3, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    items = read_items(tmp_path, "video")
    assert items.completions[0].shape == (32, 32, 32, 3)
    assert items.columns["fps"] == [8.0]  # 32 of 64 frames of 4 s


@pytest.mark.parametrize(
    ("line", "kind", "error", "told"),
    [
        ("{", "text", ValueError, r"items.jsonl:1: not JSON"),
        ('{"prompt": "p"}', "text", ValueError, r":1: found prompt; expected an object with prompt and completion"),
        ('{"prompt": "p", "image": "no.png"}', "image", FileNotFoundError, r":1: no file .*no.png"),
        ('{"prompt": "p", "image": "items.jsonl"}', "image", ValueError, r":1: .* cannot be read"),
        ("", "text", ValueError, "is empty"),
    ],
)
def test_lines_that_cannot_be_read_are_told_with_their_place(tmp_path, line, kind, error, told):
    (tmp_path / "items.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(error, match=told):
        read_items(tmp_path, kind)


def test_no_items_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected \.png"):
        read_items(tmp_path, "image")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_items(tmp_path / "absent", "image")
