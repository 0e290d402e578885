"""The reward server in process: batches, deadlines, limits, the token, and errors that stay where they happen."""

import asyncio
import json
import math
import re
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import reward_models
from reward_models.serving import server, wire
from tests.reward_models.asgi import ask, score, score_later, scores


def length(*, prompts, completions, **columns):
    return [float(len(one)) for one in completions]


class Held:
    """A reward that says when it has begun, and goes on when told."""

    def __init__(self):
        self.began, self.release = threading.Event(), threading.Event()

    def __call__(self, *, prompts, completions):
        self.began.set()
        self.release.wait(10)
        return [1.0] * len(completions)

    async def has_begun(self):
        await asyncio.to_thread(self.began.wait, 10)


def app(reward=length, **options):
    return server.create_app({"length": reward}, **({"max_wait_ms": 0.0} | options))


def metrics(served):
    _, _, body = asyncio.run(ask(served, method="GET", path="/metrics"))
    return dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))


def test_scores_come_back_by_item_and_by_reward():
    status, answer = score(app(), "a", "bbb", reward="length")
    assert (status, scores(answer), answer["schema"]) == (200, [1.0, 3.0], 1)
    assert answer["rewards"] == {"length": answer["items"]}
    assert answer["items"][0] == {"score": 1.0, "error": None}


def test_a_reward_sees_pictures_and_columns():
    def bright(*, prompts, completions, frames, fps):
        return [np.asarray(one).mean() + f.mean() + n for one, f, n in zip(completions, frames, fps, strict=True)]

    columns = {"frames": np.full((2, 4, 4, 3), 7, np.uint8), "fps": 0.5}
    item = wire.encode_item("", Image.new("RGB", (4, 4), (30, 30, 30)), columns)
    assert scores(score(app(bright), item["completion"], columns=item["columns"])[1]) == [37.5]


def test_batches_form_across_requests():
    sizes = []

    def counting(*, prompts, completions):
        sizes.append(len(completions))
        return [float(len(one)) for one in completions]

    async def thirty_at_once():
        served = app(counting, max_wait_ms=500.0, max_batch=10)
        return await asyncio.gather(*(score_later(served, "x" * k) for k in range(1, 31)))

    answers = asyncio.run(thirty_at_once())
    assert [scores(answer) for _, answer in answers] == [[float(k)] for k in range(1, 31)]
    assert sizes == [10, 10, 10]


def test_a_request_larger_than_a_batch_is_cut_and_put_together():
    sizes = []

    def counting(*, prompts, completions):
        sizes.append(len(completions))
        return [float(len(one)) for one in completions]

    _, answer = score(app(counting, max_batch=4), *("x" * k for k in range(10)))
    assert scores(answer) == [float(k) for k in range(10)]
    assert sizes == [4, 4, 2]


def test_an_item_waits_for_others_no_longer_than_told():
    served = app(max_wait_ms=50.0)
    started = time.monotonic()
    score(served, "a")
    assert 0.05 <= time.monotonic() - started < 5


def test_a_bad_item_fails_alone_also_in_another_clients_batch():
    def picky(*, prompts, completions):
        if "bad" in completions:
            raise ValueError("will not read this")
        return [float(len(one)) for one in completions]

    async def two_clients():
        served = app(picky, max_wait_ms=300.0)
        return await asyncio.gather(score_later(served, "a", "bad", "ccc"), score_later(served, "dddd"))

    (_, first), (_, second) = asyncio.run(two_clients())
    assert scores(first) == [1.0, None, 3.0] and scores(second) == [4.0]
    assert first["items"][1]["error"] == "ValueError: will not read this"


@pytest.mark.parametrize("value", [math.nan, math.inf, "seven", None])
def test_what_is_no_number_is_null_and_says_why(value):
    status, answer = score(app(lambda **_: [value]), "a")
    item = answer["items"][0]
    assert status == 200 and item["score"] is None
    assert (item["error"] is None) == (value is None)  # a reward that says None has nothing to explain


def test_a_picture_that_cannot_be_read_fails_alone():
    _, answer = score(app(), "a", {"$media": "png", "data": "AAAA"}, "bb")
    assert scores(answer) == [1.0, None, 2.0]
    assert "no PNG" in answer["items"][1]["error"]


def test_an_item_past_its_deadline_gets_an_error_and_no_score():
    held = Held()

    async def run():
        served = app(held)
        late = await score_later(served, "a", headers={"x-deadline-ms": "80"})
        await held.has_begun()
        waiting = asyncio.create_task(score_later(served, "b"))
        queued = await score_later(served, "c", headers={"x-deadline-ms": "1"})  # its turn never came
        held.release.set()
        return late, queued, await waiting, served

    late, queued, waited, served = asyncio.run(run())
    for status, answer in (late, queued):
        assert status == 200 and scores(answer) == [None]
        assert "deadline" in answer["items"][0]["error"]
    assert scores(waited[1]) == [1.0]
    found = metrics(served)
    assert found['reward_items_total{reward="length",outcome="expired"}'] == "2"
    assert found['reward_items_total{reward="length",outcome="scored"}'] == "1"  # the late score of "a" counts nowhere


def test_a_score_that_is_there_before_the_deadline_but_told_after_it_is_none():
    scored = threading.Event()

    async def run():
        served = app(lambda **_: time.sleep(0.02) or scored.set() or [1.0])
        asked = asyncio.create_task(score_later(served, "a", headers={"x-deadline-ms": "300"}))
        await asyncio.sleep(0.005)
        time.sleep(0.5)  # the event loop is busy with something else
        return await asked

    _, answer = asyncio.run(run())
    assert scored.is_set() and scores(answer) == [None]


def test_a_client_cannot_ask_for_more_time_than_the_server_gives():
    started = time.monotonic()
    _, answer = score(app(lambda **_: time.sleep(1) or [1.0], deadline_s=0.05), "a", headers={"x-deadline-ms": "1e9"})
    assert scores(answer) == [None] and time.monotonic() - started < 0.9


@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf", "soon", ""])
def test_a_deadline_that_is_none_is_refused(value):
    status, answer = score(app(), "a", headers={"x-deadline-ms": value})
    assert status == 400 and "x-deadline-ms" in answer["detail"]


def test_every_reward_is_called_and_one_that_fails_leaves_the_others_alone():
    def broken(**_):
        raise RuntimeError("no GPU")

    served = server.create_app(
        {"length": length, "broken": broken, "half": lambda **given: [0.5] * len(given["completions"])},
        weights={"length": 2.0, "broken": 0.0},
        max_wait_ms=0.0,
    )
    _, answer = score(served, "abc", "d")
    assert {name: [one["score"] for one in items] for name, items in answer["rewards"].items()} == {
        "length": [3.0, 1.0],
        "broken": [None, None],
        "half": [0.5, 0.5],
    }
    assert scores(answer) == [6.5, 2.5]  # 2 x length + 1 x half, and 0 x broken


def test_a_sum_with_a_missing_part_is_missing():
    served = server.create_app({"length": length, "none": lambda **_: [None, 1.0]}, max_wait_ms=0.0)
    _, answer = score(served, "abc", "d")
    assert scores(answer) == [None, 2.0]
    assert answer["items"][0]["error"] == "none: no score"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer ", "Bearer wrong", "bearer secret", "Basic secret", "Bearer secret ", "Bearer \xff"]
)
def test_without_the_token_nothing_is_answered(header):
    called = []
    served = app(lambda **given: called.append(1) or [1.0], token="secret")
    given = {} if header is None else {"authorization": header}
    for status, answer in (score(served, "a", headers=given), score(served, "a", reward="absent", headers=given)):
        assert status == 401 and "token" in answer["detail"]
    for path in ("/metrics", "/openapi.json", "/docs", "/redoc"):
        assert asyncio.run(ask(served, headers=given, method="GET", path=path))[0] in (401, 404)
    assert not called
    assert score(served, "a", headers={"authorization": "Bearer secret"})[0] == 200
    assert asyncio.run(ask(served, method="GET", path="/health"))[0] == 200


@pytest.mark.parametrize("token", ["", " ", "a b", "secret\n", "schlüssel"])
def test_a_token_that_protects_nothing_or_cannot_be_sent_is_refused(token, tmp_path):
    with pytest.raises(ValueError, match="no header can carry it"):
        app(token=token)
    with pytest.raises(ValueError, match="no header can carry it"):
        reward_models.load("http", url="http://judge", token=token)


def test_the_token_is_compared_in_constant_time(monkeypatch):
    seen = []
    monkeypatch.setattr(server.hmac, "compare_digest", lambda one, two: seen.append((one, two)) or False)
    assert score(app(token="secret"), "a", headers={"authorization": "Bearer secret"})[0] == 401
    assert seen == [(b"Bearer secret", b"Bearer secret")]


def test_a_body_over_the_limit_is_refused_before_it_is_read():
    served, pieces = app(limits=wire.Limits(body_bytes=5000)), [b"x" * 1000] * 1000
    by_header, by_size = [], []
    said = asyncio.run(ask(served, headers={"content-length": "5001"}, chunks=pieces, taken=by_header))
    assert said[0] == 413 and not by_header
    found = asyncio.run(ask(served, chunks=pieces, taken=by_size))
    assert found[0] == 413 and len(by_size) == 6
    assert "over 5000 bytes" in json.loads(found[2])["detail"]


def test_a_body_that_trickles_in_is_given_up(monkeypatch):
    monkeypatch.setattr(server, "BODY_SECONDS", 0.05)

    class Slow:
        headers = {"content-type": "application/json"}  # noqa: RUF012

        async def receive(self):
            await asyncio.sleep(10)

    state = server._State({}, {}, wire.Limits(), None, 1.0)
    with pytest.raises(server._RefusedError, match="did not arrive"):
        asyncio.run(server._body(state, Slow()))


@pytest.mark.parametrize(
    ("limits", "completions", "status", "message"),
    [
        ({"items": 2}, ["a"] * 3, 413, "3 items, the limit is 2"),
        ({"waiting_items": 2}, ["a"] * 3, 503, "too many items wait"),
        ({"waiting_bytes": 10}, ["a"], 503, "too many requests"),
    ],
)
def test_limits_of_a_request(limits, completions, status, message):
    found, answer = score(app(limits=wire.Limits(**limits)), *completions)
    assert found == status and message in answer["detail"]


def test_limits_of_an_item_leave_its_neighbours_alone():
    served = app(limits=wire.Limits(text=5, pixels=15, depth=2))
    big = wire.encode(np.zeros((4, 4, 3), np.uint8))
    _, answer = score(served, "a", "x" * 6, big, [[["deep"]]], "bb")
    assert scores(answer) == [1.0, None, None, None, 2.0]
    for item, reason in zip(answer["items"][1:4], ("6 characters", "15 pixels", "inside one another"), strict=True):
        assert reason in item["error"]


def test_a_full_server_says_come_back_later_and_recovers():
    held = Held()

    async def run():
        served = app(held, limits=wire.Limits(waiting_items=2), max_batch=1)
        first = asyncio.create_task(score_later(served, "a"))
        await held.has_begun()
        queued = asyncio.create_task(score_later(served, "b", "c"))
        await asyncio.sleep(0.01)
        body = json.dumps({"schema": 1, "items": [{"completion": "d"}]}).encode()
        refused = await ask(served, body)
        held.release.set()
        return refused, await first, await queued, await score_later(served, "d")

    refused, *answered = asyncio.run(run())
    assert refused[0] == 503 and refused[1]["retry-after"] == "1"
    assert [scores(answer) for _, answer in answered] == [[1.0], [1.0, 1.0], [1.0]]


def test_the_same_request_twice_is_scored_once():
    calls = []

    def counting(*, prompts, completions):
        calls.append(len(completions))
        time.sleep(0.05)
        return [1.0] * len(completions)

    async def run():
        served, key = app(counting), {"idempotency-key": "k"}
        together = await asyncio.gather(*(score_later(served, "a", "b", headers=key) for _ in range(3)))
        later = await score_later(served, "a", "b", headers=key)
        return [*together, later], await score_later(served, "c", headers=key), served

    alike, other, served = asyncio.run(run())
    assert [scores(answer) for _, answer in alike] == [[1.0, 1.0]] * 4 and calls == [2]
    assert other[0] == 409
    assert metrics(served)['reward_items_total{reward="length",outcome="scored"}'] == "2"


def test_a_request_that_ran_out_of_time_is_scored_when_it_comes_again():
    pauses = iter([0.3, 0.0])

    def slow_once(*, prompts, completions):
        time.sleep(next(pauses))
        return [1.0]

    async def run():
        served = app(slow_once)
        late = await score_later(served, "a", headers={"idempotency-key": "k", "x-deadline-ms": "50"})
        return late, await score_later(served, "a", headers={"idempotency-key": "k"})

    late, again = asyncio.run(run())
    assert scores(late[1]) == [None] and scores(again[1]) == [1.0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/octet-stream"}, 415),
        ({"content-type": "application/x-pickle"}, 415),
        ({"content-type": "text/plain"}, 415),  # what a web page may send to localhost unasked
        ({"content-type": None}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-length": "-1"}, 400),
        ({"content-length": "9" * 5000}, 400),
        ({"idempotency-key": "k" * 201}, 400),
    ],
)
def test_headers(headers, status):
    assert score(app(), "a", headers=headers)[0] == status


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/score", 405), ("POST", "/nowhere", 404), ("POST", "/health", 405)]
)
def test_other_places_answer_in_json_too(method, path, status):
    found, _, body = asyncio.run(ask(app(), method=method, path=path))
    assert found == status and json.loads(body)["detail"]


def test_an_unknown_reward_says_what_there_is():
    assert score(app(), "a", reward="lenght") == (404, {"detail": "no reward 'lenght' here. There are: length."})


def test_the_schema_is_told():
    told = json.loads(asyncio.run(ask(app(), method="GET", path="/schema"))[2])
    assert told["schema"] == wire.SCHEMA and set(told["request"]["properties"]) == {"schema", "reward", "items"}


def test_health_and_metrics():
    served = app(lambda **given: [None, 1.0, math.nan])
    score(served, "a", "b", "c")
    score(served, "a", reward="absent")
    status, _, body = asyncio.run(ask(served, method="GET", path="/health"))
    assert (status, json.loads(body)) == (200, {"status": "ok", "schema": 1, "rewards": {"length": True}})
    found = metrics(served)
    for outcome, count in {"scored": "1", "abstained": "1", "failed": "1", "expired": "0"}.items():
        assert found[f'reward_items_total{{reward="length",outcome="{outcome}"}}'] == count
    assert (found['reward_requests_total{status="200"}'], found['reward_requests_total{status="404"}']) == ("1", "1")
    assert found['reward_batches_total{reward="length"}'] == "1"


def test_metrics_are_in_the_text_format_also_for_an_awkward_name():
    served = server.create_app({'a "b"\\\n': length}, max_wait_ms=0.0)
    score(served, "a")
    _, headers, body = asyncio.run(ask(served, method="GET", path="/metrics"))
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    label = r'[a-z]+="(\\["\\n]|[^"\\\n])*"'  # https://prometheus.io/docs/instrumenting/exposition_formats
    for line in body.decode().splitlines():
        assert re.fullmatch(rf"# TYPE \w+ (counter|gauge)|\w+\{{{label}(,{label})*\}} [0-9.e-]+", line), line


def test_closing_answers_what_waits():
    held = Held()

    async def run():
        served = app(held, max_batch=1)
        async with served.router.lifespan_context(served):
            first = asyncio.create_task(score_later(served, "a"))
            await held.has_begun()
            second = asyncio.create_task(score_later(served, "b"))
            await asyncio.sleep(0.01)
            threading.Timer(0.1, held.release.set).start()
        return await first, await second, await score_later(served, "c")

    first, second, after = asyncio.run(run())
    assert scores(first[1]) == [1.0]
    assert "shutting down" in second[1]["items"][0]["error"]
    assert after[0] == 503


def test_serving_others_without_a_token_must_be_meant(tmp_path):
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 can be reached by others and there is no token"):
        server.serve(tmp_path / "rewards.yaml", host="0.0.0.0")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ImportError, match=r"pip install 'rlkit\[serve\]'"):
        app()
