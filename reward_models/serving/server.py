"""Serve rewards over HTTP: FastAPI, typed JSON (wire.py), batches across requests, deadlines, a token, metrics.

    rlkit reward serve rewards.yaml --port 8000

    POST /score    see wire.py. Every answer is JSON; a failed item has its own error and harms no other
    GET  /schema   JSON schema of both
    GET  /health   200 while every reward can be called
    GET  /metrics  Prometheus's text format

With a token, /score and /metrics ask for `Authorization: Bearer <token>`. No answer is a 500 for what a client sent.
Needs `rlkit[serve]`: fastapi and uvicorn. With httptools and uvloop installed, which uvicorn then uses by itself, a
small request takes about half the CPU time.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reward_models import Score
from reward_models.serving import wire
from reward_models.serving.batching import Batcher, FullError, Pending
from reward_models.serving.calling import Outcome

REMEMBERED = 4096  # answers kept for requests that come twice
BODY_SECONDS = 30.0  # a client that sends its request slower than this is cut off


class _RefusedError(Exception):
    """An answer other than 200: status and the sentence that says why."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass
class _Work:
    """The scores of one request, done or under way."""

    pending: dict[str, Pending]
    digest: bytes


@dataclass
class _State:
    """All that the endpoints share."""

    batchers: dict[str, Batcher]
    weights: dict[str, float]
    limits: wire.Limits
    token: bytes | None
    deadline_s: float
    answers: dict[int, int] = field(default_factory=dict)
    recent: OrderedDict[str, _Work] = field(default_factory=OrderedDict)
    held: int = 0
    """Bytes of the requests at hand."""


def create_app(
    rewards: Mapping[str, Score],
    *,
    weights: Mapping[str, float] | None = None,
    token: str | None = None,
    limits: wire.Limits | None = None,
    max_batch: int = 32,
    max_wait_ms: float = 5.0,
    deadline_s: float = 60.0,
) -> Any:
    """The FastAPI app that serves `rewards`, by name; each has a thread of its own.

    weights: of the sum that answers a request which names no reward; 1 where left out. token: what clients must send.
    max_batch: items the reward is called with at most. max_wait_ms: how long a first item waits for others.
    deadline_s: the longest an item may take; a client may ask for less. Raises ImportError without FastAPI, ValueError
    for a token that no header can carry.
    """
    try:
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, PlainTextResponse, Response
    except ImportError:
        raise ImportError("serving rewards needs FastAPI and uvicorn: pip install 'rlkit[serve]'") from None
    limits = limits or wire.Limits()
    batchers = {name: Batcher(score, limits, max_batch, max_wait_ms) for name, score in rewards.items()}
    weighed = dict.fromkeys(rewards, 1.0) | dict(weights or {})
    state = _State(batchers, weighed, limits, None if token is None else wire.token_bytes(token), deadline_s)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any):
        yield
        await asyncio.gather(*(batcher.close() for batcher in batchers.values()))

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    async def score(request: Request) -> Response:
        try:
            answer, status = await _score(state, request), 200
        except _RefusedError as error:
            answer, status = json.dumps({"detail": error.detail}), error.status
        state.answers[status] = state.answers.get(status, 0) + 1
        headers = {"Retry-After": "1"} if status == 503 else {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return Response(answer, status, headers, "application/json")

    app.add_route("/score", score, methods=["POST"])  # @app.post takes twice as long to get here

    @app.get("/schema")
    async def schema() -> Response:
        told = {"request": wire.Request.model_json_schema(), "reply": wire.Reply.model_json_schema()}
        return JSONResponse({"schema": wire.SCHEMA, **told})

    @app.get("/health")
    async def health() -> Response:
        alive = {name: batcher.alive for name, batcher in batchers.items()}
        status = "ok" if all(alive.values()) else "a reward's thread has ended; restart the server"
        content = {"status": status, "schema": wire.SCHEMA, "rewards": alive}
        return JSONResponse(content, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        try:
            _check_token(state, request)
        except _RefusedError as error:
            return JSONResponse({"detail": error.detail}, error.status, {"WWW-Authenticate": "Bearer"})
        return PlainTextResponse(_metrics(state), media_type="text/plain; version=0.0.4")

    return app


def serve(
    config: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    open_to_all: bool = False,
    paths: bool = False,
    max_batch: int = 32,
    max_wait_ms: float = 5.0,
    deadline_s: float = 60.0,
) -> None:
    """Load the rewards of a rewards.yaml (rewards_file.py) and serve them until SIGTERM or SIGINT; requests at hand are
    answered first.

    open_to_all: serve without a token on an address that others can reach. paths: wire.Limits.paths.
    Raises ValueError for a wrong file, or where a token is missing; ImportError without FastAPI and uvicorn.
    """
    from reward_models.serving.rewards_file import load_rewards, read_rewards

    if token is None and not open_to_all and host not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"{host} can be reached by others and there is no token; give one, or say that it is meant.")
    if token is not None:
        wire.token_bytes(token)  # before the rewards are loaded, which may take minutes
    try:
        import uvicorn
    except ImportError:
        raise ImportError("serving rewards needs FastAPI and uvicorn: pip install 'rlkit[serve]'") from None
    entries = read_rewards(config)
    app = create_app(
        load_rewards(entries),
        weights={name: entry.weight for name, entry in entries.items()},
        token=token,
        limits=wire.Limits(paths=paths),
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        deadline_s=deadline_s,
    )
    print(f"serving {', '.join(entries)} on http://{host}:{port}", flush=True)
    uvicorn.run(
        app, host=host, port=port, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=30
    )


async def _score(state: _State, request: Any) -> str:
    """The body of a 200 answer. Raises _RefusedError for every other."""
    arrived = time.monotonic()
    _check_token(state, request)
    deadline = arrived + _seconds(state, request.headers.get("x-deadline-ms"))
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > 200:
        raise _RefusedError(400, f"idempotency-key has {len(key)} characters; expected at most 200.")
    held = _expected_bytes(state, request)
    if state.held + held > state.limits.waiting_bytes:
        raise _RefusedError(503, "too many requests are under way; come back later.")
    state.held += held
    try:
        body = await _body(state, request)
        work = _known(state, key, body) or _begin(state, key, body, deadline)
        for one in work.pending.values():
            await asyncio.shield(one.done)  # another request may wait for the same
        return _answer(state, work)
    finally:
        state.held -= held


def _check_token(state: _State, request: Any) -> None:
    if state.token is not None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode("latin-1"), b"Bearer " + state.token):
            raise _RefusedError(401, "expected the header Authorization: Bearer <the server's token>.")


def _seconds(state: _State, header: str | None) -> float:
    if header is None:
        return state.deadline_s
    try:
        seconds = float(header) / 1000
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise _RefusedError(400, f"x-deadline-ms is {header[:40]!r}; expected milliseconds above 0.")
    return min(seconds, state.deadline_s)


def _expected_bytes(state: _State, request: Any) -> int:
    """What the request says it has, or may have at most."""
    limit, header = state.limits.body_bytes, request.headers
    if header.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _RefusedError(415, "expected content-type application/json.")
    if header.get("content-encoding", "identity") != "identity":
        raise _RefusedError(415, "expected no content-encoding.")
    length = header.get("content-length")
    if length is None:
        return limit
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise _RefusedError(400, "content-length is no number.")
    if int(length) > limit:
        raise _RefusedError(413, f"the request has {length} bytes, the limit is {limit}; send fewer items at once.")
    return int(length)


async def _body(state: _State, request: Any) -> bytes:
    """The body, given up as soon as it is larger or slower than allowed."""
    import anyio  # Starlette stands on it

    try:
        with anyio.fail_after(BODY_SECONDS):
            return await _received(state, request)
    except TimeoutError:
        raise _RefusedError(408, f"the request did not arrive within {BODY_SECONDS:g} s.") from None


async def _received(state: _State, request: Any) -> bytes:
    chunks, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError(400, "the client went away.")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > state.limits.body_bytes:
            raise _RefusedError(413, f"the request has over {state.limits.body_bytes} bytes; send fewer items at once.")
        if not message.get("more_body", False):
            return b"".join(chunks)


def _known(state: _State, key: str | None, body: bytes) -> _Work | None:
    """The work of the same request, where it came before: a retry, or a hedge."""
    work = state.recent.get(key) if key else None
    if work is None or any(one.expired for one in work.pending.values()):
        return None
    if work.digest != hashlib.blake2b(body, digest_size=16).digest():
        raise _RefusedError(409, "another request came with this idempotency-key.")
    return work


def _begin(state: _State, key: str | None, body: bytes, deadline: float) -> _Work:
    try:
        request = wire.read_request(body)
    except wire.WireError as error:
        raise _RefusedError(422, str(error)) from None
    if len(request.items) > state.limits.items:
        raise _RefusedError(413, f"{len(request.items)} items, the limit is {state.limits.items}; send fewer at once.")
    if request.reward is not None and request.reward not in state.batchers:
        there = ", ".join(state.batchers)
        raise _RefusedError(404, f"no reward {request.reward[:80]!r} here. There are: {there}.")
    names = list(state.batchers) if request.reward is None else [request.reward]
    if any(state.batchers[name].full(len(request.items)) for name in names):
        raise _RefusedError(503, "too many items wait; come back later.")
    try:
        pending = {name: state.batchers[name].submit(request.items, deadline, len(body)) for name in names}
    except FullError:
        raise _RefusedError(503, "the server is shutting down.") from None
    work = _Work(pending, hashlib.blake2b(body, digest_size=16).digest() if key else b"")
    if key:
        state.recent[key] = work
        while len(state.recent) > REMEMBERED:
            state.recent.popitem(last=False)
    return work


def _answer(state: _State, work: _Work) -> str:
    rewards = {name: [_told(one) for one in pending.outcomes] for name, pending in work.pending.items()}
    items = next(iter(rewards.values())) if len(rewards) == 1 else _summed(state, work)
    return json.dumps({"schema": wire.SCHEMA, "items": items, "rewards": rewards}, allow_nan=False)


def _told(outcome: Outcome) -> dict[str, Any]:
    return {"score": outcome.score, "error": outcome.error}


def _summed(state: _State, work: _Work) -> list[dict[str, Any]]:
    """Weighted sum over rewards; none where one of them has no score, since a sum of fewer is another quantity."""
    weights = [state.weights[name] for name in work.pending]
    items = []
    for outcomes in zip(*(pending.outcomes for pending in work.pending.values()), strict=True):
        counted = [(name, one, w) for name, one, w in zip(work.pending, outcomes, weights, strict=True) if w]
        missing = [f"{name}: {one.error or 'no score'}" for name, one, _ in counted if one.score is None]
        total = None if missing else math.fsum(one.score * w for _, one, w in counted)
        if total is not None and not math.isfinite(total):
            total, missing = None, ["the weighted sum is too large"]
        items.append({"score": total, "error": "; ".join(missing) or None})
    return items


def _metrics(state: _State) -> str:
    lines = ["# TYPE reward_requests_total counter"]
    lines += [f'reward_requests_total{{status="{status}"}} {n}' for status, n in sorted(state.answers.items())]
    now = time.monotonic()
    rows: dict[str, list[str]] = {}
    for name, batcher in state.batchers.items():
        label = name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        counts = asdict(batcher.counts)
        for outcome in ("scored", "abstained", "failed", "expired"):
            line = f'reward_items_total{{reward="{label}",outcome="{outcome}"}} {counts[outcome]}'
            rows.setdefault("reward_items_total counter", []).append(line)
        busy = 0.0 if batcher.busy_since is None else now - batcher.busy_since
        for metric, value in {
            "reward_batches_total counter": counts["batches"],
            "reward_batched_items_total counter": counts["batched"],
            "reward_seconds_total counter": round(counts["seconds"], 6),
            "reward_waiting_items gauge": batcher.waiting,
            "reward_busy_seconds gauge": round(busy, 3),
        }.items():
            rows.setdefault(metric, []).append(f'{metric.split()[0]}{{reward="{label}"}} {value}')
    for metric, samples in rows.items():
        lines += [f"# TYPE {metric}", *samples]
    return "\n".join(lines) + "\n"
