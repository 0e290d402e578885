"""Pick-a-Pic's columns are read from parquet and JSON lines; ties and rows without a label are left out and counted."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rlkit.errors import DataError
from rlkit.generators import pair_table


def png(level, size=(6, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def level_of(cell, folder=None):
    return int(pair_table.decode(cell, "here", **({"folder": folder} if folder else {}))[0, 0, 0, 0])


ROWS = [  # Pick-a-Pic v2's columns, as its parquet files have them
    {"caption": "a", "jpg_0": png(1), "jpg_1": png(2), "label_0": 1.0, "label_1": 0.0, "has_label": True},
    {"caption": "b", "jpg_0": png(3), "jpg_1": png(4), "label_0": 0.0, "label_1": 1.0, "has_label": True},
    {"caption": "c", "jpg_0": png(5), "jpg_1": png(6), "label_0": 0.5, "label_1": 0.5, "has_label": True},
    {"caption": "d", "jpg_0": png(7), "jpg_1": png(8), "label_0": 1.0, "label_1": 0.0, "has_label": False},
    {"caption": "e", "jpg_0": png(9), "jpg_1": png(9), "label_0": None, "label_1": None, "has_label": True},
]


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "pick.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def test_labels_of_pick_a_pic_from_parquet(parquet):
    table = pair_table.read_table(parquet)
    assert [table.rows[row]["caption"] for row in table.used] == ["a", "b"]
    better = [table.rows[row][f"jpg_{side}"] for row, side in zip(table.used, table.labels, strict=True)]
    assert [level_of(one) for one in better] == [1, 4]
    assert table.counts == {"rows": 5, "ties": 1, "unlabelled": 2, "below_margin": 0, "held_out": 0, "pairs": 2}
    assert table.columns("seed_0", "label_0") == [(None, 1.0), (None, 0.0)]


def test_json_lines_hold_paths_or_base64(tmp_path):
    (tmp_path / "one.png").write_bytes(png(40))
    rows = [{"caption": "a", "jpg_0": "one.png", "jpg_1": base64.b64encode(png(50)).decode(), "label_0": 0}]
    path = tmp_path / "pick.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    table = pair_table.read_table(path)
    row = table.rows[table.used[0]]
    assert table.labels == [1]  # label_1 is 1 - label_0 where it is not given
    assert level_of(row["jpg_0"], tmp_path) == 40 and level_of(row["jpg_1"], tmp_path) == 50


def test_prompts_that_are_measured_and_small_margins_are_left_out(tmp_path):
    rows = [{**row, "margin": margin} for row, margin in zip(ROWS, (0.5, 0.1, 0.0, None, None), strict=True)]
    path = tmp_path / "pick.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert pair_table.read_table(path, without=["a"]).counts["held_out"] == 1
    assert pair_table.read_table(path, min_margin=0.1).counts["below_margin"] == 1
    with pytest.raises(DataError, match="no row of 5 can be learnt from"):
        pair_table.read_table(path, min_margin=0.1, without=["a"])


def test_rated_pictures(tmp_path):
    path = tmp_path / "rated.parquet"
    rows = [{"caption": "a", "jpg": png(1), "label": value} for value in (1, 0, None, 1)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    table = pair_table.read_table(path, rated=True)
    assert (table.rated, table.used, table.labels, table.counts["unlabelled"]) == (True, [0, 1, 3], [1, 0, 1], 1)
    with pytest.raises(DataError, match="jpg_0, jpg_1, label_0"):
        pair_table.read_table(path)


@pytest.mark.parametrize("content", ["{}\n{", '{"caption": "a"}\n', "", "[1]\n"])
def test_bad_json_lines_are_one_error(tmp_path, content):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        pair_table.read_table(path)


@pytest.mark.parametrize("cell", [b"no picture", png(1)[:40], None, "absent.png", {"bytes": None, "path": None}, 3])
def test_what_is_no_picture_says_where(cell):
    with pytest.raises(DataError, match=r"row 7.*not a picture"):
        pair_table.decode(cell, "row 7")


def test_frames_lie_one_below_the_other_and_come_back():
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    assert np.array_equal(pair_table.decode(pair_table.encode(frames), "here", num_frames=5), frames)
    assert Image.open(io.BytesIO(pair_table.encode(frames))).size == (6, 20)
    with pytest.raises(DataError, match="not 3 frames"):
        pair_table.decode(pair_table.encode(frames), "here", num_frames=3)
    assert level_of({"bytes": png(9), "path": None}) == level_of(Image.new("RGB", (2, 2), (9, 0, 0))) == 9


def test_the_same_rows_are_the_same_bytes(tmp_path):
    row = dict.fromkeys(pair_table.COLUMNS.names) | {"caption": "a", "jpg_0": png(1), "rewards_0": [0.5, None]}
    for name in ("a", "b"):
        pair_table.write_shard(tmp_path / f"{name}.parquet", [row])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a.parquet").to_pylist()[0]["rewards_0"] == [0.5, None]
