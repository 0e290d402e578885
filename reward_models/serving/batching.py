"""Items of many requests as batches of one reward: a queue, a thread that scores, and counts of what became of items.

The event loop submits and settles; only the thread calls the reward. An item is settled once, by its score or by its
deadline, whichever comes first, so that counts add up: once all is answered, submitted = scored + abstained + failed
+ expired.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from reward_models import Score
from reward_models.serving import wire
from reward_models.serving.calling import Outcome, RewardUnusable, Row, outcomes

EXPIRED = Outcome(error="the deadline passed before there was a score.")
CLOSED = Outcome(error="the server is shutting down.")
HEAVY = 64 << 10  # bytes of a request; above, its pictures are decoded on several threads


class FullError(Exception):
    """Too many items wait; come back later."""


class Pending:
    """The outcomes of one request's items from one reward, as they arrive."""

    def __init__(self, count: int, deadline: float, loop: asyncio.AbstractEventLoop):
        self.outcomes: list[Outcome | None] = [None] * count
        self.deadline, self.missing = deadline, count
        self.done: asyncio.Future[None] = loop.create_future()

    @property
    def expired(self) -> bool:
        """Whether some item has no score because time ran out; asking again may help."""
        return any(one is EXPIRED or one is CLOSED for one in self.outcomes)


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class _Job:
    pending: Pending
    place: int
    item: wire.Item
    heavy: bool


@dataclass
class Counts:
    """What became of items, since the start; seconds the reward ran."""

    submitted: int = 0
    scored: int = 0
    abstained: int = 0
    failed: int = 0
    expired: int = 0
    batches: int = 0
    batched: int = 0
    seconds: float = 0.0


@dataclass
class Batcher:
    """One reward behind a queue. Everything but `_work` runs on the event loop."""

    score: Score
    limits: wire.Limits = field(default_factory=wire.Limits)
    max_batch: int = 32
    max_wait_ms: float = 5.0
    """How long an item waits for others to share its batch, where the reward is idle. A busy reward gathers by itself.
    """
    counts: Counts = field(default_factory=Counts)
    taken: int = 0
    """Items the thread has taken from the queue; written by the thread alone."""
    busy_since: float | None = None
    """When the batch at hand began, by time.monotonic()."""
    _jobs: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None
    _loop: Any = None
    _closing: bool = False

    def submit(self, items: Sequence[wire.Item], deadline: float, size: int) -> Pending:
        """Queue items; `deadline` by time.monotonic(), `size` of their request in bytes. Raises FullError."""
        if self.full(len(items)):
            raise FullError
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="reward", daemon=True)  # a hung one must not stay
            self._thread.start()
        pending = Pending(len(items), deadline, self._loop)
        timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, pending)
        pending.done.add_done_callback(lambda _: timer.cancel())
        self.counts.submitted += len(items)
        self._jobs.put([_Job(pending, place, item, size > HEAVY) for place, item in enumerate(items)])
        return pending

    def full(self, more: int) -> bool:
        """Whether `more` items are too many now; so they are, in the end, where the reward hangs."""
        return self._closing or self.waiting + more > self.limits.waiting_items

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return self.counts.submitted - self.taken

    @property
    def alive(self) -> bool:
        """Whether the thread runs, or will once there is something to do."""
        return self._thread is None or self._thread.is_alive()

    async def close(self, patience: float = 5.0) -> None:
        """Answer what waits with an error, and end the thread; one that hangs in its reward is left behind."""
        self._closing = True
        self._jobs.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, patience)

    def _expire(self, pending: Pending) -> None:
        for place in range(len(pending.outcomes)):
            self._settle(pending, place, EXPIRED)

    def _settle(self, pending: Pending, place: int, outcome: Outcome) -> None:
        if pending.outcomes[place] is not None:
            return  # it expired while the reward was at it
        if outcome is not EXPIRED and time.monotonic() > pending.deadline:
            outcome = EXPIRED
        pending.outcomes[place] = outcome
        pending.missing -= 1
        counts = self.counts
        if outcome is EXPIRED:
            counts.expired += 1
        elif outcome.score is not None:
            counts.scored += 1
        elif outcome.error is None:
            counts.abstained += 1
        else:
            counts.failed += 1
        if not pending.missing and not pending.done.done():
            pending.done.set_result(None)

    def _finish(self, batch: list[_Job], found: list[Outcome], seconds: float) -> None:
        self.counts.batches += 1
        self.counts.batched += len(batch)
        self.counts.seconds += seconds
        for job, outcome in zip(batch, found, strict=True):
            self._settle(job.pending, job.place, outcome)

    def _work(self) -> None:
        ready: deque[_Job] = deque()
        with ThreadPoolExecutor(4, thread_name_prefix="decode") as decoders:
            while self._gather(ready):
                batch = [ready.popleft() for _ in range(min(self.max_batch, len(ready)))]
                self.taken += len(batch)
                self.busy_since = started = time.monotonic()
                found = [CLOSED] * len(batch) if self._closing else self._score(batch, decoders)
                self.busy_since = None
                if self._loop.is_closed():
                    return
                self._loop.call_soon_threadsafe(self._finish, batch, found, time.monotonic() - started)

    def _gather(self, ready: deque[_Job]) -> bool:
        """Wait for an item, then a little for others; False at the end."""
        until = time.monotonic() if ready else None  # what is left of the last batch has waited enough
        while len(ready) < self.max_batch:
            try:
                jobs = self._jobs.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if jobs is None:
                self._jobs.put(None)  # the end stays the end, also after the items at hand
                break
            ready += jobs
            until = until or time.monotonic() + (0.0 if self._closing else self.max_wait_ms / 1000)
        return bool(ready)

    def _score(self, batch: list[_Job], decoders: ThreadPoolExecutor) -> list[Outcome]:
        now = time.monotonic()
        late = [job.pending.deadline <= now for job in batch]
        jobs = [job for job, is_late in zip(batch, late, strict=True) if not is_late]
        read = decoders.map if any(job.heavy for job in jobs) else map
        rows = list(read(self._row, jobs))
        good = [row for row in rows if isinstance(row, Row)]
        try:
            scored = iter(outcomes(self.score, good))
        except RewardUnusable as error:
            scored = iter([Outcome(error=str(error))] * len(good))
        told = iter([next(scored) if isinstance(row, Row) else row for row in rows])
        return [EXPIRED if is_late else next(told) for is_late in late]

    def _row(self, job: _Job) -> Row | Outcome:
        try:
            return Row(*wire.decode_item(job.item, self.limits))
        except wire.WireError as error:
            return Outcome(error=str(error))
        except MemoryError:
            return Outcome(error="the pictures do not fit into memory.")
