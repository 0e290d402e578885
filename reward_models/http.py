"""A reward that lives on another machine: asks a reward server (server.py), and says None for what it could not get.

    score = load(url="http://judge:8000", reward="aesthetic")
    score(prompts=[..], completions=[..])    # a reward like any other, also in TRL's reward_funcs=[score]
    score.stats                              # Stats(rows=.., scored=.., abstained=.., failed=.., ..)

A row that failed is None, never 0: trainers mask it. What no row is to blame for (a refused token, an unknown reward)
raises RewardUnusable, since going on would mask everything. Needs `rlkit[serve]`: httpx and pydantic.
"""

import os
from collections.abc import Callable, Sequence, Sized
from typing import Any
from urllib.parse import urlsplit

from reward_models.serving.calling import Outcome, Row

TOKEN_VARIABLE = "RLKIT_REWARD_TOKEN"
OF_THE_TRAINER = frozenset({"completion_ids", "trainer_state", "log_extra", "log_metric", "environments"})
"""What TRL gives to every reward beside the columns of the data."""


def load(
    device: str = "cpu",
    *,
    url: str,
    reward: str | None = None,
    token: str | None = None,
    timeout: float = 60.0,
    retries: int = 10,
    hedge_after: float | None = None,
    batch_size: int = 16,
    concurrency: int = 4,
    columns: list[str] | None = None,
) -> Callable[..., list[float | None]]:
    """The reward function. `device` is the server's affair and not used here.

    url: of the server, without /score. reward: its name there; without, the weighted sum of all. token: by default the
    environment variable RLKIT_REWARD_TOKEN. timeout: seconds an item may take; later it is None. retries: of a request
    without an answer, or with 408, 429, 502, 503 or 504; pauses double from 0.25 to 20 s (10 retries: a minute or more,
    in which a server can start again). hedge_after: seconds after which an unanswered request is sent once more, the
    first answer counting; of use where several servers share the address. batch_size: rows per request. concurrency:
    requests under way. columns: names of the columns to send; by default all.

    score.stats counts rows; score.outcomes, called like score, gives an Outcome with the reason of each None. Both are
    safe to call from several threads. Raises ImportError without httpx, ValueError for an option that cannot be.
    """
    try:
        from reward_models.serving import wire
        from reward_models.serving.http_client import Client
    except ImportError as error:
        raise ImportError(f"asking a reward server needs {error.name}: pip install 'rlkit[serve]'") from None
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"url is {url!r}; expected http://host:port or https://host.")
    for name, value in (("timeout", timeout), ("batch_size", batch_size), ("concurrency", concurrency)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; expected more than 0.")
    if (token := os.environ.get(TOKEN_VARIABLE) if token is None else token) is not None:
        wire.token_bytes(token)
    client = Client(url.rstrip("/"), reward, token, timeout, retries, hedge_after, batch_size, concurrency)

    def outcomes(*, prompts: Sequence[Any], completions: Sequence[Any], **given: Any) -> list[Outcome]:
        return client.outcomes(_rows(prompts, completions, _chosen(given, columns)))

    def score(*, prompts: Sequence[Any], completions: Sequence[Any], **given: Any) -> list[float | None]:
        return [one.score for one in outcomes(prompts=prompts, completions=completions, **given)]

    score.__name__ = reward or "http"  # TRL logs a reward by it
    score.stats, score.outcomes = client.stats, outcomes
    return score


def _chosen(given: dict[str, Any], columns: list[str] | None) -> dict[str, Any]:
    if columns is None:
        return {name: values for name, values in given.items() if name not in OF_THE_TRAINER}
    if missing := [name for name in columns if name not in given]:
        raise ValueError(f"the columns {missing} are to be sent, but there are only {sorted(given)}.")
    return {name: given[name] for name in columns}


def _rows(prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any]) -> list[Row]:
    for name, values in {"prompts": prompts, **columns}.items():
        sized = isinstance(values, Sized) and not isinstance(values, str)
        if not sized or len(values) != len(completions):
            found = f"{len(values)} values" if sized else f"a {type(values).__name__}"
            raise ValueError(f"{name}: {found} for {len(completions)} completions; choose by columns=[..].")
    return [
        Row(prompt, completion, {name: values[k] for name, values in columns.items()})
        for k, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
