"""The client of a reward server: what failed is None, what can be repaired is asked again, every row counts once."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import uvicorn
from PIL import Image

import reward_models
from reward_models.serving import http_client, server, wire
from reward_models.serving.calling import Outcome, RewardUnusable


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(http_client, "LONGEST_PAUSE", 0.05)


@contextlib.contextmanager
def serving(app) -> Iterator[str]:
    """The address of an app that runs under uvicorn in a thread."""
    config = uvicorn.Config(app, port=0, log_level="error", ws="none")
    one = uvicorn.Server(config)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        while not one.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{one.servers[0].sockets[0].getsockname()[1]}"
    finally:
        one.should_exit = True
        thread.join()


@contextlib.contextmanager
def scripted(answer) -> Iterator[tuple[str, list]]:
    """A server that says what `answer(number, items, headers)` says: (status, body, headers), or None to hang up."""
    requests, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                requests.append((body, dict(self.headers)))
                number = len(requests) - 1
            told = answer(number, body["items"], self.headers)
            if told is None:
                return self.connection.close()
            status, content, headers = told
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    one = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=one.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{one.server_address[1]}", requests
    finally:
        one.shutdown()
        one.server_close()
        thread.join()


def lengths(items, **change):
    told = [{"score": float(len(item["completion"])), "error": None} for item in items]
    return 200, {"schema": 1, "items": told, "rewards": {}} | change, {}


def load(url, **options):
    return reward_models.load("http", url=url, **options)


def ask(score, *completions, **columns):
    return score(prompts=[""] * len(completions), completions=list(completions), **columns)


def test_a_served_reward_scores_as_at_home():
    def reward(*, prompts, completions, frames, events):
        return [
            float(np.asarray(image, float).mean() + f.sum() + len(e)) if p else None
            for p, image, f, e in zip(prompts, completions, frames, events, strict=True)
        ]

    rng = np.random.default_rng(0)
    given = {
        "prompts": ["p"] * 9 + [""],
        "completions": [Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)) for _ in range(10)],
        "frames": [rng.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8) for _ in range(10)],
        "events": [["a", "b"][: k % 3] for k in range(10)],
    }
    with serving(server.create_app({"mine": reward}, token="secret", max_wait_ms=1.0)) as url:
        score = load(url, reward="mine", token="secret", batch_size=3)
        assert score(**given) == reward(**given)
    assert score(**given)[-1] is None
    assert (score.stats.rows, score.stats.scored, score.stats.abstained, score.stats.failed) == (20, 9, 1, 10)


def test_order_is_kept_over_parallel_requests():
    def answer(number, items, headers):
        time.sleep(0.05 if number % 3 == 0 else 0)
        return lengths(items)

    with scripted(answer) as (url, requests):
        assert ask(load(url, batch_size=2), *("x" * k for k in range(25))) == [float(k) for k in range(25)]
    assert len(requests) == 13


@pytest.mark.parametrize("status", [429, 503, 502, 504, 408, None])
def test_what_can_pass_is_asked_again_as_the_same_request(status):
    def answer(number, items, headers):
        if number < 2:
            return None if status is None else (status, {"detail": "later"}, {})
        return lengths(items)

    with scripted(answer) as (url, requests):
        score = load(url)
        assert ask(score, "a", "bb") == [1.0, 2.0]
    assert (score.stats.rows, score.stats.scored, score.stats.retries) == (2, 2, 2)
    keys = [{k.lower(): v for k, v in headers.items()}["idempotency-key"] for _, headers in requests]
    assert len(requests) == 3 and len(set(keys)) == 1 and requests[0][0] == requests[2][0]


def test_nobody_at_home_is_none_and_never_zero():
    score = load("http://127.0.0.1:9", retries=2)
    assert ask(score, "a", "bb") == [None, None]
    assert (score.stats.failed, score.stats.masked, score.stats.retries) == (2, 2, 2)
    assert "after 3 attempts: ConnectError" in score.stats.last_error


def test_pauses_double_and_are_spread_and_heed_the_server(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(http_client, "LONGEST_PAUSE", 20.0)
    pauses, spread = [], []
    monkeypatch.setattr(http_client.random, "uniform", lambda low, high: spread.append((low, high)) or high)
    monkeypatch.setattr(http_client.threading.Event, "wait", lambda self, pause=None: pauses.append(pause))

    def client(answer):
        one = http_client.Client("http://x", None, None, 1.0, 6, None, 1, 1)
        monkeypatch.setattr(one, "_post", lambda body, key: answer)
        one._answer(b"", threading.Event())

    client("ConnectError: no")
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0] and set(spread) == {(0.5, 1.0)}
    pauses.clear()
    client(http_client.httpx.Response(503, headers={"retry-after": "3"}))
    assert pauses == [3.0, 3.0, 4.0, 8.0, 16.0, 20.0]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"401 .*no\"\}\. Give the server's token"),
        (403, "token"),
        (404, "404"),
        (422, "422"),
        (400, "400"),
        (307, "307"),
    ],
)
def test_what_no_row_is_to_blame_for_is_raised_at_once(status, message):
    with scripted(lambda number, items, headers: (status, {"detail": "no"}, {})) as (url, requests):
        score = load(url, concurrency=1)
        with pytest.raises(RewardUnusable, match=message):
            ask(score, "a")
    assert len(requests) == 1 and score.stats.rows == 0


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"detail": "broken"}, {}),
        (200, b"<html>Maintenance</html>", {}),
        (200, {"schema": 1, "items": [], "rewards": {}}, {}),
        (200, {"schema": 2, "items": [{"score": 1.0, "error": None}], "rewards": {}}, {}),
        (200, b'{"schema": 1, "items": [{"score": NaN, "error": null}], "rewards": {}}', {}),
        (200, {"schema": 1, "items": [{"score": "1.0", "error": None}] * 2, "rewards": {}}, {}),
    ],
)
def test_an_answer_that_is_none_masks_its_rows(answer):
    with scripted(lambda number, items, headers: answer) as (url, _):
        score = load(url)
        assert ask(score, "a") == [None]
    assert (score.stats.failed, score.stats.retries) == (1, 0) and score.stats.last_error.startswith(url)


def test_a_failed_row_leaves_the_others_alone_and_says_why():
    def answer(number, items, headers):
        told = [{"score": None if "bad" in i["completion"] else 1.0, "error": None} for i in items]
        told[-1] = {"score": None, "error": "out of memory"}
        return 200, {"schema": 1, "items": told, "rewards": {}}, {}

    with scripted(answer) as (url, _):
        score = load(url)
        found = score.outcomes(prompts=[""] * 4, completions=["a", "bad", "half \ud83d", "c"])
    assert found[:2] == [Outcome(1.0), Outcome()] and found[3] == Outcome(error="out of memory")
    assert "surrogates" in found[2].error  # never sent: JSON has no form for it
    assert (score.stats.scored, score.stats.abstained, score.stats.failed) == (1, 1, 2)


def test_too_large_a_request_is_halved():
    def answer(number, items, headers):
        return (413, {"detail": "too large"}, {}) if len(items) > 2 or "huge" in str(items) else lengths(items)

    with scripted(answer) as (url, _):
        score = load(url)
        assert ask(score, "a", "bb", "ccc", "huge", "eeeee") == [1.0, 2.0, 3.0, None, 5.0]
    assert (score.stats.rows, score.stats.failed) == (5, 1)


def test_a_real_server_that_refuses_a_large_body_unread_is_understood():
    # the refusal comes while the client still writes; taken for a broken connection it would be retried in vain
    app = server.create_app(
        {"mean": lambda *, prompts, completions: [float(one.mean()) for one in completions]},
        limits=wire.Limits(body_bytes=9 << 20),
    )
    frames = [np.full((2, 700, 700, 3), k, np.uint8) for k in range(7)]  # 4 MB each, and a third more as text
    with serving(app) as url:
        score = load(url, retries=1)
        assert ask(score, *frames) == [float(k) for k in range(7)]
        assert ask(score, np.zeros((8, 700, 700, 3), np.uint8)) == [None]
        assert "413" in score.stats.last_error
    assert score.stats.retries == 0


def test_a_slow_request_is_hedged_once_and_counted_once():
    release = threading.Event()

    def answer(number, items, headers):
        if number == 0:
            release.wait(10)
        return lengths(items)

    with scripted(answer) as (url, requests):
        score = load(url, hedge_after=0.05)
        assert ask(score, "a", "bb") == [1.0, 2.0]
        assert not release.is_set()
        release.set()
        assert ask(score, "ccc") == [3.0]
    assert (score.stats.rows, score.stats.scored, score.stats.hedges, score.stats.retries) == (3, 3, 1, 0)
    keys = [headers.get("Idempotency-Key") or headers.get("idempotency-key") for _, headers in requests]
    assert keys[0] == keys[1] != keys[2]


def test_a_hedge_that_fails_first_does_not_lose_the_answer():
    def answer(number, items, headers):
        time.sleep(0.3 if number == 0 else 0)
        return lengths(items) if number == 0 else (503, {"detail": "full"}, {})

    with scripted(answer) as (url, requests):
        score = load(url, hedge_after=0.05, retries=0)
        assert ask(score, "a") == [1.0]
    assert len(requests) == 2


def test_hedges_and_retries_are_one_request_for_the_server():
    calls = []

    def slow(*, prompts, completions):
        calls.append(len(completions))
        time.sleep(0.3)
        return [1.0] * len(completions)

    with serving(server.create_app({"slow": slow}, max_wait_ms=0.0)) as url:
        score = load(url, hedge_after=0.05)
        assert ask(score, "a", "b") == [1.0, 1.0]
    assert calls == [2] and score.stats.hedges == 1


def test_a_late_item_is_none():
    def slow(*, prompts, completions):
        time.sleep(0.5)
        return [1.0] * len(completions)

    with serving(server.create_app({"slow": slow}, max_wait_ms=0.0)) as url:
        score = load(url, timeout=0.1)
        assert ask(score, "a") == [None]
    assert "deadline" in score.stats.last_error


def test_columns_of_the_trainer_stay_here_and_others_can_be_chosen():
    with scripted(lambda number, items, headers: lengths(items)) as (url, requests):
        trl = {"completion_ids": [[1]], "trainer_state": object(), "log_extra": print, "log_metric": print}
        ask(load(url), "a", events=[["x"]], **trl)
        ask(load(url, columns=["events"]), "a", events=[["x"]], frames=[object()], later=object())
        assert [body["items"][0]["columns"] for body, _ in requests] == [{"events": ["x"]}] * 2
        with pytest.raises(ValueError, match=r"\['event'\] are to be sent, but there are only \['events'\]"):
            ask(load(url, columns=["event"]), "a", events=[["x"]])
        with pytest.raises(ValueError, match=r"fps: a float for 1 completions"):
            ask(load(url), "a", fps=2.0)
        with pytest.raises(ValueError, match=r"n: 2 values for 1 completions"):
            ask(load(url), "a", n=[1, 2])
        with pytest.raises(TypeError, match=r"completion is a object; expected text"):
            ask(load(url), object())


def test_the_token_comes_from_the_environment_and_is_shown_nowhere(monkeypatch):
    monkeypatch.setenv("RLKIT_REWARD_TOKEN", "hidden")
    with scripted(lambda number, items, headers: lengths(items)) as (url, requests):
        ask(load(url), "a")
    assert "Bearer hidden" in requests[0][1].values()
    assert "hidden" not in repr(http_client.Client(url, None, "hidden", 1.0, 1, None, 1, 1))


@pytest.mark.parametrize("url", ["judge:8000", "ftp://judge", "http://", ""])
def test_an_address_that_is_none(url):
    with pytest.raises(ValueError, match="expected http://host:port"):
        load(url)
    with pytest.raises(ValueError, match="batch_size is 0"):
        load("http://judge", batch_size=0)


def test_nothing_is_sent_for_nothing():
    assert ask(load("http://127.0.0.1:9")) == []


def test_a_trainer_masks_what_failed():
    # GRPO turns None into NaN and takes means that leave NaN out (trl 1.16, GRPOTrainer._calculate_rewards)
    told = [{"score": 1.0, "error": None}, {"score": None, "error": "late"}, {"score": 3.0, "error": None}]
    with scripted(lambda number, items, headers: (200, {"schema": 1, "items": told, "rewards": {}}, {})) as (url, _):
        score = load(url, reward="judge")
        found = ask(score, "a", "b", "c", completion_ids=[[1]] * 3, trainer_state=object())
    assert score.__name__ == "judge"  # what TRL logs it by
    assert np.nanmean([np.nan if one is None else one for one in found]) == 2.0  # were it 0: 4 / 3


def test_a_png_frame_array_and_a_raw_one_score_alike():
    frames = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    app = server.create_app({"mean": lambda *, prompts, completions: [float(one.mean()) for one in completions]})
    items = [{"completion": wire.encode_frames(frames, form)} for form in ("raw", "png")]
    with serving(app) as url:
        answer = http_client.httpx.post(f"{url}/score", json={"schema": 1, "items": items}).json()
    assert [item["score"] for item in answer["items"]] == [frames.mean()] * 2
