"""Near-duplicates find each other; what merely resembles does not."""

import numpy as np
import pytest

from data_synth.lineage import shingles
from data_synth.making import split

pytest.importorskip("datasketch", reason="the optional package datasketch is not installed")


def jaccard(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def text(start: int, count: int = 60) -> str:
    return " ".join(f"w{k}" for k in range(start, start + count))


def test_the_overlap_is_estimated_from_low_bytes():
    texts = [text(0), text(0), text(10), text(30), text(500)]
    _, low = split.sketches(texts, list("abcde"), 0.8)
    first, second = np.zeros(4, int), np.arange(1, 5)
    expected = [jaccard(texts[0], other) for other in texts[1:]]
    # The estimate is a share of 128 independent hashes: four standard deviations.
    assert np.abs(split.overlap(low, first, second) - expected).max() < 4 * np.sqrt(0.25 / 128)


def test_groups_are_of_near_duplicates_and_of_clips():
    texts = [text(0), text(500), text(1), text(30), text(900), text(2)]
    columns, low = split.sketches(texts, ["a", "b", "c", "d", "b", "f"], 0.8)
    found = split.groups(columns.T, lambda a, b: split.overlap(low, a, b) >= 0.75)
    assert jaccard(texts[0], texts[2]) > 0.9 and jaccard(texts[0], texts[3]) < 0.4
    assert found.tolist() == [0, 1, 0, 3, 1, 0]


def test_case_punctuation_and_chinese_do_not_hide_near_duplicates():
    long = "a man in a red coat walks along the beach with his dog and throws a yellow ball far into the water"
    texts = [
        ("a", long),
        ("b", "two children build a tower of blocks on the kitchen floor and then knock it over laughing loudly"),
        ("c", long.upper() + "!"),
        ("d", long + " again"),
        ("e", "一只灰色的大兔子先从洞里爬出来，然后站起身，最后向上伸展双臂。"),
        ("f", "一只灰色的大兔子先从洞里爬出来，然后站起身，最后向上伸展双臂"),
    ]
    columns, low = split.sketches([text for _, text in texts], [name for name, _ in texts], 0.8)
    found = split.groups(columns.T, lambda a, b: split.overlap(low, a, b) >= 0.8 - split.SLACK)
    assert found.tolist() == [0, 1, 0, 0, 4, 4]


def test_no_rows_no_groups():
    assert split.groups([], lambda a, b: a == b).tolist() == []


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_bands_find_at_least_95_percent_at_the_threshold(threshold):
    height = split.rows_per_band(threshold)
    assert 1 - (1 - threshold**height) ** (128 // height) >= 0.95
