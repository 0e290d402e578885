"""The review page: blind, offline, harmless, and votes come back to the right pair and the right answer."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from data_synth.records import make_record, write_records
from data_synth.video import write_mp4
from rlkit.errors import DataError
from rlkit.report import review

HOSTILE = "<script>window.ran = true</script><img src=x onerror='window.ran = true'> مرحبا </script>"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        {"source_id": f"{i}", "chosen": f"A red circle {i} spins. Then a blue bar grows.", "kind": "order_swap",
         "rejected": f"A blue bar grows. Then a red circle {i} spins."} for i in range(40)
    ]  # fmt: skip
    rows[3]["chosen"] = HOSTILE
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    review.write_review(path, folder / "review.html")
    return path


def page_data(page):
    text = page.read_text(encoding="utf-8")
    start = text.index('id="data"')
    return json.loads(text[text.index(">", start) + 1 : text.index("</script>", start)])


def joined(pieces):
    return "".join(text for text, _ in pieces)


def test_the_page_holds_both_answers_and_not_which_is_chosen(pairs):
    data = page_data(pairs.parent / "review.html")
    assert set(data["items"][0]) == {"id", "prompt", "left", "right", "picture"}
    answers = {item["id"]: {item["chosen"], item["rejected"]} for item in review.judgements(review.read_pairs(pairs))}
    assert {item["id"]: {joined(item["left"]), joined(item["right"])} for item in data["items"]} == answers


def test_the_chosen_answer_stands_left_about_half_of_the_time():
    sides = [review.chosen_side(f"pair {i}:0", seed=0) for i in range(2_000)]
    # Four standard deviations of a fair coin.
    assert abs(sides.count("left") - 1_000) < 4 * np.sqrt(2_000 / 4)


def test_same_arguments_same_page_and_another_seed_another_order(pairs, tmp_path):
    review.write_review(pairs, tmp_path / "a.html")
    review.write_review(pairs, tmp_path / "b.html", seed=1)
    assert (tmp_path / "a.html").read_bytes() == (pairs.parent / "review.html").read_bytes()
    orders = [[item["id"] for item in page_data(tmp_path / name)["items"]] for name in ("a.html", "b.html")]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_votes_are_turned_back_to_chosen_and_rejected(pairs, tmp_path):
    items = list(review.judgements(review.read_pairs(pairs)))[:4]
    right = [review.chosen_side(item["id"], 0) for item in items]
    wrong = {"left": "right", "right": "left"}
    given = [right[0], wrong[right[1]], "tie", "both_bad"]
    votes = [{"id": item["id"], "vote": vote, "seconds": 1.5} for item, vote in zip(items, given, strict=True)]
    (tmp_path / "votes.json").write_text(json.dumps({"name": "x", "seed": 0, "votes": votes}))
    resolved = review.resolve(tmp_path / "votes.json", pairs)
    assert [row["vote"] for row in resolved] == ["chosen", "rejected", "tie", "both_bad"]
    assert resolved[0] == {"id": items[0]["id"], "kind": "order_swap", "vote": "chosen", "seconds": 1.5}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "no votes.json"),
        ('{"seed": 0, "votes": [{"id": "absent:0", "vote": "left"}]}', "'absent:0', which"),
        ("{", "no votes.json"),
    ],
)
def test_wrong_votes_are_named(pairs, tmp_path, content, said):
    (tmp_path / "votes.json").write_text(content)
    with pytest.raises(DataError, match=said):
        review.resolve(tmp_path / "votes.json", pairs)


def test_our_parquet_gives_one_judgement_per_rejected_answer_with_its_film_strip(tmp_path):
    write_mp4(tmp_path / "a.mp4", np.zeros((8, 32, 32, 3), np.uint8), 8)
    record = make_record(
        "Describe the video.", "A, then B.", [("order_swap", "B, then A."), ("verbose", "A, then B. Nice.")],
        videos=[str(tmp_path / "a.mp4")],
    )  # fmt: skip
    write_records([record], tmp_path / "pairs")
    assert review.main([str(tmp_path / "pairs")]) == 0
    items = page_data(tmp_path / "pairs/review.html")["items"]
    assert len(items) == 2 and {item["prompt"] for item in items} == {"Describe the video."}
    assert all(item["picture"].startswith("data:image/jpeg;base64,") for item in items)


def strip(items):
    """The pictures of a page's items as arrays."""
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(item["picture"].partition(",")[2]))).convert("RGB")).astype(
            int
        )
        for item in items
    ]


def test_the_strip_is_of_the_piece_that_is_meant_and_a_picture_is_shown_as_one(tmp_path):
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    frames[10:, :, :, 2] = 255  # black for a second, then blue
    write_mp4(tmp_path / "a.mp4", frames, 10)
    Image.fromarray(np.full((30, 40, 3), (255, 0, 0), np.uint8)).save(tmp_path / "a.png")
    rejected = [("order_swap", "B, then A.")]
    rows = [
        make_record("Describe.", "First.", rejected, videos=["a.mp4"], start=0.0, end=0.8),
        make_record("Describe.", "Last.", rejected, videos=["a.mp4"], start=1.2, end=2.0),
        make_record("Describe.", "Picture.", rejected, images=["a.png"]),
    ]
    write_records(rows, tmp_path)
    assert review.main([str(tmp_path)]) == 0  # media lie beside the pairs
    items = page_data(tmp_path / "review.html")["items"]
    texts = [joined(item["left"]) + joined(item["right"]) for item in items]
    of = {name: picture for name in ("First", "Last", "Picture") for t, picture in zip(texts, strip(items), strict=True)
          if name in t}  # fmt: skip
    assert (of["Last"][:, :, 2] - of["Last"][:, :, 0] > 150).mean() > 0.3
    assert (of["First"][:, :, 2] - of["First"][:, :, 0] > 150).mean() < 0.01
    assert of["Picture"].shape == (30, 40, 3) and np.abs(of["Picture"].mean((0, 1)) - (254, 0, 0)).max() < 3


def test_a_line_that_is_no_pair_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"chosen": "a", "rejected": "b"}\n{"chosen": "a"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2: expected a JSON object with chosen and rejected"):
        review.write_review(tmp_path / "x.jsonl", tmp_path / "page.html")


@pytest.mark.browser
def test_judging_by_keys_survives_a_reload_and_gives_votes_that_resolve(pairs, browser, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    items = page_data(pairs.parent / "review.html")["items"]
    browser.get((pairs.parent / "review.html").resolve().as_uri())
    ActionChains(browser).send_keys(Keys.ARROW_LEFT, Keys.ARROW_RIGHT, "t", "b", "u", "s").perform()
    browser.refresh()
    assert browser.find_element("id", "place").text == "7 of 40 · 6 judged"
    ActionChains(browser).send_keys("z", Keys.ARROW_LEFT).perform()
    votes = json.loads(browser.execute_script("return result()"))
    assert [vote["vote"] for vote in votes["votes"]] == ["left", "right", "tie", "both_bad", "unsure", "left"]
    assert [vote["id"] for vote in votes["votes"]] == [item["id"] for item in items[:6]]
    (tmp_path / "votes.json").write_text(json.dumps(votes))
    resolved = review.resolve(tmp_path / "votes.json", pairs)
    assert resolved[0]["vote"] == ("chosen" if review.chosen_side(items[0]["id"], 0) == "left" else "rejected")
    browser.execute_script("localStorage.clear(); location.reload()")
    assert "0 judged" in browser.find_element("id", "place").text
    browser.find_element("id", "load").send_keys(str(tmp_path / "votes.json"))
    browser.implicitly_wait(5)
    assert browser.find_element("xpath", "//*[@id='message'][contains(., '6 votes loaded')]")
    assert browser.find_element("id", "place").text == "7 of 40 · 6 judged"


@pytest.mark.browser
def test_hostile_captions_are_shown_as_text_and_nothing_is_fetched(pairs, browser):
    browser.get((pairs.parent / "review.html").resolve().as_uri())
    seen = []
    for _ in range(40):
        seen.append(browser.find_element("class name", "sides").text)
        browser.execute_script("cast('skip')")
    assert any("<script>window.ran = true</script>" in text for text in seen)
    assert browser.execute_script("return window.ran") is None
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.find_element("id", "message").text.startswith("All judged")
