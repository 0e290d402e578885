"""The client's half of wire.py: requests in parallel, sent again after a pause, hedged once, every row counted once."""

import os
import random
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import ValidationError

from reward_models.serving import wire
from reward_models.serving.calling import Outcome, RewardUnusable, Row

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 20.0  # seconds between attempts; doubles from one to the other
RETRIED = frozenset({408, 429, 502, 503, 504})
GRACE = 5.0  # seconds beyond the deadline in which the server may still tell what it has


@dataclass
class Stats:
    """Rows since the start: rows = scored + abstained + failed. A row that is asked for twice counts once."""

    rows: int = 0
    scored: int = 0
    abstained: int = 0
    """The reward ran and gives no score."""
    failed: int = 0
    """No answer in time, or an error of this row."""
    retries: int = 0
    """Requests sent again after a failure."""
    hedges: int = 0
    """Requests sent a second time because the first was slow."""
    last_error: str | None = None

    @property
    def masked(self) -> int:
        """Rows that got None."""
        return self.abstained + self.failed


@dataclass
class Client:
    """Options as in http.load. Connections are made in the process that uses them, also after a fork."""

    url: str
    reward: str | None
    token: str | None = field(repr=False)
    timeout: float
    retries: int
    hedge_after: float | None
    batch_size: int
    concurrency: int
    stats: Stats = field(default_factory=Stats)
    _lock: Any = field(default_factory=threading.Lock, repr=False)
    _made: dict[int, tuple[httpx.Client, ThreadPoolExecutor]] = field(default_factory=dict, repr=False)

    def outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        """One outcome per row, in order. Raises TypeError for a value that cannot travel, RewardUnusable."""
        chunks = [rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)]
        stop, found = threading.Event(), []
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="reward") as pool:
            answers = [pool.submit(self._chunk, chunk, stop) for chunk in chunks]
            try:
                for answer in answers:
                    found += answer.result()
            except BaseException:  # also Ctrl-C: nobody waits for what the others retry
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._count(found)
        return found

    def _count(self, found: list[Outcome]) -> None:
        errors = [one.error for one in found if one.error is not None]
        scored = sum(one.score is not None for one in found)
        with self._lock:
            self.stats.rows += len(found)
            self.stats.scored += scored
            self.stats.failed += len(errors)
            self.stats.abstained += len(found) - scored - len(errors)
            self.stats.last_error = errors[-1] if errors else self.stats.last_error

    def _chunk(self, rows: Sequence[Row], stop: threading.Event) -> list[Outcome]:
        found: list[Outcome | None] = [None] * len(rows)
        items = []
        for place, row in enumerate(rows):
            try:
                items.append((place, wire.encode_item(row.prompt, row.completion, row.columns)))
            except wire.WireError as error:
                found[place] = Outcome(error=str(error))
        if items:
            places, encoded = zip(*items, strict=True)
            for place, outcome in zip(places, self._ask(encoded, stop), strict=True):
                found[place] = outcome
        return found

    def _ask(self, items: Sequence[dict[str, Any]], stop: threading.Event) -> list[Outcome]:
        answer = self._answer(wire.write_request(items, self.reward), stop)
        if isinstance(answer, httpx.Response) and answer.status_code == 413 and len(items) > 1:
            half = len(items) // 2
            return self._ask(items[:half], stop) + self._ask(items[half:], stop)
        told = self._read(answer, len(items)) if isinstance(answer, httpx.Response) else answer
        return [Outcome(error=told)] * len(items) if isinstance(told, str) else told

    def _answer(self, body: bytes, stop: threading.Event) -> httpx.Response | str:
        """The first answer that is no call to come back later, or the reason why there is none."""
        key, reason = uuid.uuid4().hex, ""
        for attempt in range(self.retries + 1):
            answer = self._hedged(body, key)
            if isinstance(answer, httpx.Response) and answer.status_code not in RETRIED:
                return answer
            reason = answer if isinstance(answer, str) else f"{answer.status_code} {answer.text[:200]}"
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.0)  # jitter: not all at once
            asked = answer.headers.get("retry-after", "") if isinstance(answer, httpx.Response) else ""
            pause = max(pause, min(float(asked), LONGEST_PAUSE)) if asked.isdecimal() else pause
            if attempt == self.retries or stop.wait(pause):
                break
            with self._lock:
                self.stats.retries += 1
        return f"no answer from {self.url} after {attempt + 1} attempts: {reason}"

    def _hedged(self, body: bytes, key: str) -> httpx.Response | str:
        if self.hedge_after is None:
            return self._post(body, key)
        pool = self._own()[1]
        asked = {pool.submit(self._post, body, key)}
        done, _ = wait(asked, self.hedge_after)
        if not done:
            with self._lock:
                self.stats.hedges += 1
            asked.add(pool.submit(self._post, body, key))
        while asked:
            done, asked = wait(asked, return_when=FIRST_COMPLETED)
            for answer in (one.result() for one in done):
                if isinstance(answer, httpx.Response) and answer.status_code not in RETRIED:
                    return answer  # the other one goes on to its end and counts for nothing
        return answer

    def _post(self, body: bytes, key: str) -> httpx.Response | str:
        headers = {
            "content-type": "application/json",
            "idempotency-key": key,
            "x-deadline-ms": str(max(1, round(self.timeout * 1000))),
        }
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        try:
            return self._own()[0].post(f"{self.url}/score", content=body, headers=headers)
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {error}"

    def _read(self, answer: httpx.Response, count: int) -> list[Outcome] | str:
        status = answer.status_code
        if 300 <= status < 500 and status != 413:
            advice = " Give the server's token: token=.. or RLKIT_REWARD_TOKEN." if status in (401, 403) else ""
            raise RewardUnusable(f"{self.url}: {status} {answer.text[:500]}.{advice}")
        if status != 200:
            return f"{self.url}: {status} {answer.text[:200]}"
        try:
            reply = wire.Reply.model_validate_json(answer.content)
        except ValidationError as error:
            return f"{self.url}: the answer is none of a reward server ({error.errors()[0]['msg']})"
        if len(reply.items) != count:
            return f"{self.url}: {len(reply.items)} scores for {count} rows"
        return [Outcome(one.score, one.error) for one in reply.items]

    def _own(self) -> tuple[httpx.Client, ThreadPoolExecutor]:
        """Connections, and threads for hedges, of this process."""
        with self._lock:
            if os.getpid() not in self._made:
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=2 * self.concurrency)
                timeout = httpx.Timeout(self.timeout + GRACE, connect=10.0, pool=None)
                pool = ThreadPoolExecutor(2 * self.concurrency, thread_name_prefix="hedge")
                self._made[os.getpid()] = httpx.Client(timeout=timeout, limits=limits), pool
            return self._made[os.getpid()]
