"""The cap on generated pictures: in every band, for every beginning, for any number of workers, with nothing lost."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data_synth import aigc_mixture
from data_synth.aigc_mixture import Tally, in_order, mix, plan, room
from data_synth.errors import DataError

CAPS = {"generated": 0.2, "unknown": 0.4}


def make_rows(number=600, seed=0):
    draw = random.Random(seed)
    return [
        {
            "id": f"{seed}-{k}",
            "quality": draw.random() if draw.random() < 0.9 else None,
            "bucket": draw.choice(["portrait", "general", None]),
            "verdict": draw.choices(["camera", "generated", "unknown"], [5, 4, 3])[0],
            "note": "passes by",
        }
        for k in range(number)
    ]


def write(folder, rows, shards):
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // shards)
    paths = [folder / f"{k}.jsonl" for k in range(shards)]
    for k, path in enumerate(paths):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[k * size : (k + 1) * size]))
    return paths


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_cap_holds_in_every_band_for_every_beginning(tmp_path):
    mix(write(tmp_path / "in", make_rows(), 3), tmp_path / "out", caps=CAPS)
    seen = Counter()
    for row in lines(tmp_path / "out/kept.jsonl"):
        seen[row["band"], row["verdict"]] += 1
        for verdict, cap in CAPS.items():
            capped, camera = seen[row["band"], verdict], seen[row["band"], "camera"]
            assert capped <= cap * (capped + camera) + 1e-9, (row["band"], verdict, capped, camera)
    assert len({band for band, _ in seen}) == 3 * 5


def test_as_many_as_fit_are_kept(tmp_path):
    rows = make_rows()
    mix(write(tmp_path / "in", rows, 2), tmp_path / "out", caps=CAPS)
    kept = Counter((row["band"], row["verdict"]) for row in lines(tmp_path / "out/kept.jsonl"))
    aside = Counter((row["band"], row["verdict"]) for row in lines(tmp_path / "out/set_aside.jsonl"))
    assert not any(verdict == "camera" for _, verdict in aside)
    for (band, verdict), number in aside.items():
        one_more, camera = kept[band, verdict] + 1, kept[band, "camera"]
        assert number == 0 or one_more > CAPS[verdict] * (one_more + camera), (band, verdict)


def test_nothing_is_lost_and_every_row_set_aside_has_a_reason(tmp_path):
    rows = [*make_rows(200), {"id": "x"}, {"id": "y", "verdict": "maybe"}, {"file_name": "none.png"}]
    rows += [{"id": "z", "verdict": "camera", "quality": 7}, {"id": "w", "verdict": "camera", "bucket": 3}]
    report = mix(write(tmp_path / "in", rows, 4), tmp_path / "out", caps=CAPS)
    kept, aside, rejected = (
        lines(tmp_path / "out" / name) for name in ("kept.jsonl", "set_aside.jsonl", "rejected_rows.jsonl")
    )
    assert len(rejected) == 5 and all(row["reasons"] for row in rejected)
    assert Counter(row["id"] for row in kept + aside) == Counter(row["id"] for row in rows[:200])
    assert all(row["band"] in row["reason"] and row["verdict"] in row["reason"] for row in aside)
    assert all(row["note"] == "passes by" for row in kept + aside)
    assert report["rows"] == {"kept": len(kept), "set_aside": len(aside), "rejected": 5}
    assert report == json.loads((tmp_path / "out/report.json").read_text())
    assert sum(band["kept"]["generated"] for band in report["bands"].values()) == sum(
        row["verdict"] == "generated" for row in kept
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["kept.jsonl", "set_aside.jsonl", "rejected_rows.jsonl", "report.json"]
    )


def test_four_workers_write_what_one_writes(tmp_path):
    shards = write(tmp_path / "in", make_rows(), 5)
    mix(shards, tmp_path / "one", caps=CAPS)
    mix(shards, tmp_path / "four", caps=CAPS, workers=4)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "four" / path.name).read_bytes(), path.name


def test_the_order_of_rows_and_files_does_not_decide_who_stays(tmp_path):
    rows = make_rows()
    mix(write(tmp_path / "a", rows, 2), tmp_path / "out_a", caps=CAPS)
    random.Random(1).shuffle(rows)
    mix(write(tmp_path / "b", rows, 7), tmp_path / "out_b", caps=CAPS)
    one, two = ({row["id"] for row in lines(tmp_path / out / "kept.jsonl")} for out in ("out_a", "out_b"))
    assert one == two and 0 < len(one) < len(rows)


def test_unknown_pictures_make_no_room_for_generated_ones(tmp_path):
    rows = [{"id": f"u{k}", "verdict": "unknown"} for k in range(50)]
    rows += [{"id": f"g{k}", "verdict": "generated"} for k in range(9)]
    report = mix(write(tmp_path / "in", rows, 1), tmp_path / "out", caps=CAPS)
    assert report["rows"] == {"kept": 0, "set_aside": 59, "rejected": 0}
    reasons = {row["reason"] for row in lines(tmp_path / "out/set_aside.jsonl")}
    assert any("none of 9 generated fits under the cap of 20%" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("camera", "cap", "most"), [(8, 0.2, 2), (7, 0.2, 1), (3, 0.25, 1), (10, 0.0, 0), (9, 0.1, 1), (1, 0.5, 1)]
)
def test_room_by_hand(camera, cap, most):
    assert room(camera, cap) == most
    assert most / (most + camera) <= cap < (most + 1) / (most + 1 + camera) + (cap == 0)


def test_copies_of_one_content_stay_or_go_together():
    tally = Tally()
    for content, number in (("0" * 64, 1), ("1" * 64, 3), ("f" * 64, 1)):
        for _ in range(number):
            tally.add({"band": "b", "verdict": "generated", "content": content})
    tally.counts["b", "camera"] = 8  # room for two
    chosen = plan(tally, CAPS)
    assert chosen.quotas["b", "generated"] == 1
    assert chosen.reason({"band": "b", "verdict": "generated", "content": "0" * 64}) is None
    assert "1 of 5 generated fit" in chosen.reason({"band": "b", "verdict": "generated", "content": "1" * 64})


def test_other_rows_than_planned_are_an_error():
    tally = Tally()
    rows = [{"band": "b", "verdict": v, "content": "0" * 64} for v in ("camera",) * 8 + ("generated",)]
    for row in rows:
        tally.add(row)
    assert len(list(in_order(rows, plan(tally, CAPS)))) == 9
    with pytest.raises(DataError, match="still wait"):
        list(in_order(rows[6:], plan(tally, CAPS)))


def test_verdicts_are_read_from_the_pictures(tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler a, Seed: 1")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "EOS R6"
    exif.get_ifd(0x8769).update({0x829A: (1, 250), 0x829D: (28, 10)})
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(5):
        image = Image.fromarray(np.random.default_rng(k).integers(0, 255, (32, 32, 3), dtype=np.uint8))
        image.save(folder / f"{k}.png", pnginfo=chunks if k == 0 else None, exif=exif if k else None)
    (folder / "5.png").write_text("broken")
    rows = [{"file_name": f"{k}.png", "quality": 1.0} for k in range(6)]
    report = mix(write(folder, rows, 1), tmp_path / "out", caps=CAPS)
    assert report["bands"]["0.75-1"]["kept"] == {"camera": 4, "generated": 1, "unknown": 0}
    assert report["rows"]["rejected"] == 1


def test_bands_include_both_ends():
    names = [aigc_mixture._band(quality, None, (0.25, 0.5)) for quality in (0.0, 0.24, 0.25, 0.5, 1.0, None)]
    assert names == ["0-0.25", "0-0.25", "0.25-0.5", "0.5-1", "0.5-1", "unrated"]


def test_wrong_arguments_and_a_finished_folder_are_refused(tmp_path):
    shards = write(tmp_path / "in", make_rows(10), 1)
    for caps in ({"generated": 0.2}, {"generated": 1.0, "unknown": 0.5}, {"generated": -0.1, "unknown": 0.5}):
        with pytest.raises(DataError, match="caps"):
            mix(shards, tmp_path / "out", caps=caps)
    with pytest.raises(DataError, match="edges"):
        mix(shards, tmp_path / "out", edges=(0.5, 0.2))
    mix(shards, tmp_path / "out")
    with pytest.raises(DataError, match="holds a mixture already"):
        mix(shards, tmp_path / "out")
