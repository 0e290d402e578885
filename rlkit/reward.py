"""`rlkit reward VERB`: what is done with a reward model once there is one; one small function per verb."""

import argparse
import json
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from data_synth.errors import DataError
from rlkit.errors import ModelError
from rlkit.running import ranks

HELP = """\
rlkit reward check runs/reward_consistency/final --kind text   can it be trusted? probes, exit code 1 if one fails
rlkit reward score runs/reward_aesthetic/final images/ --out scores.parquet   a folder of pictures or clips
rlkit reward score pick_score rows.jsonl --out scores.parquet   rows with prompt, completion, image, video, ..
torchrun --nproc-per-node 8 --no-python rlkit reward score pick_score rows.jsonl --out scores.parquet   shared out
rlkit reward score pick_score rows.jsonl --out scores.parquet --engine ray    on the cluster of RAY_ADDRESS
rlkit reward score http://judge:8000 rows.parquet --out scores.parquet --option reward=aesthetic   by a server
rlkit reward serve rewards.yaml --port 8000         rewards over HTTP, for `rewards: {http: {url: ..}}` elsewhere

rewards.yaml has a section per reward:
  aesthetic:
    reward: runs/reward_aesthetic/final    # a name, a .py file or a folder; also options, device and weight
The token of a server is read from RLKIT_REWARD_TOKEN, by the server and by those who ask it."""

TOKEN = "RLKIT_REWARD_TOKEN"
OF_THE_CONNECTION = ("url", "timeout", "retries", "hedge_after", "batch_size", "concurrency")
"""Options of a served reward that change how it is asked, not what it says."""


def main(argv: Sequence[str]) -> int:
    """Entry of `rlkit reward`; the exit code."""
    given = _parser().parse_args(list(argv))
    return VERBS[given.verb](given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlkit reward", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    score = verbs.add_parser("score", help="scores of pictures, clips or texts, as a parquet file; resumes")
    score.add_argument("model", help="a reward's name, .py file or folder, or the address of a server")
    score.add_argument("items", type=Path, help="a folder of pictures or clips, or a .jsonl or .parquet file")
    score.add_argument("--out", type=Path, required=True, help="the parquet file to write: id, score, error")
    score.add_argument("--device", default="cpu")
    score.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the reward; repeatable")
    score.add_argument("--batch-size", type=int, default=32, help="items read and scored at once")
    score.add_argument("--frames", type=int, default=16, help="frames of a clip, evenly in time")
    score.add_argument("--retry-masked", action="store_true", help="score again what has no score yet")
    score.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: batches as tasks on Ray")
    check = verbs.add_parser("check", help="probes of its contract, its evidence, and what it can be hacked with")
    check.add_argument("model", help="a reward's name, .py file or folder")
    check.add_argument("--kind", choices=("text", "image", "video"), required=True, help="of the completions it scores")
    check.add_argument("--data", type=Path, help="items.jsonl or a folder; without it the project renders its own")
    check.add_argument("--conditional", choices=("auto", "yes", "no"), default="auto", help="must it read the prompt?")
    check.add_argument("--only", action="append", metavar="PROBE", help="this probe alone; repeatable")
    check.add_argument("--deadline", type=float, default=300.0, help="seconds one call may take")
    check.add_argument("--json", action="store_true", help="the report as JSON")
    check.add_argument("--device", default="cpu")
    check.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the reward; repeatable")
    serve = verbs.add_parser("serve", help="rewards over HTTP")
    serve.add_argument("config", type=Path, help="rewards.yaml")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines, and needs a token")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--max-batch", type=int, default=32, help="items a reward is called with at most")
    serve.add_argument("--max-wait-ms", type=float, default=5.0, help="how long an item waits for others to join it")
    serve.add_argument("--deadline", type=float, default=60.0, help="seconds an item may take at most")
    serve.add_argument("--no-token", action="store_true", help="serve other machines without a token all the same")
    serve.add_argument("--allow-paths", action="store_true", help="clients may name files here for rewards to open")
    return parser


def _score(given: argparse.Namespace) -> int:
    """Write the scores; print what they come to as JSON. 1 where nothing at all could be scored."""
    from reward_models.serving.calling import RewardUnusable
    from reward_models.serving.scoring_job import score_file
    from rlkit.reward_items import read_items

    options, name = _options(given.option), given.model
    if name.startswith(("http://", "https://")):
        options, name = {"url": name} | options, "http"
    lasting = {key: value for key, value in options.items() if key not in OF_THE_CONNECTION}
    job = {"reward": name, "options": lasting, "items": str(given.items), "frames": given.frames}
    items, on_ray = read_items(given.items, given.frames), given.engine == "ray"
    if on_ray and ranks.count() > 1:
        raise DataError("--engine ray hands out the work itself; start it once, without torchrun.")
    try:
        found = score_file(
            None if on_ray else _load(name, given.device, options),
            items,
            given.out,
            job=job,
            batch_size=given.batch_size,
            retry_masked=given.retry_masked,
            rank=ranks.number(),
            world=ranks.count(),
            wait=ranks.wait,
            spread=partial(_on_ray, name, given.device, options) if on_ray else None,
        )
    except RewardUnusable as error:
        raise ModelError(f"{given.model}: {error}") from None
    except ValueError as error:
        raise DataError(str(error)) from None
    if found is None:
        return 0  # the main process tells
    mean = None if found.mean != found.mean else round(found.mean, 6)
    told = {"rows": found.rows, "scored": found.scored, "masked": found.masked, "added": found.added, "mean": mean}
    print(json.dumps({**told, "seconds": round(found.seconds, 2), "reasons": found.reasons}, ensure_ascii=False))
    return int(found.scored == 0)


def _on_ray(name: str, device: str, options: dict[str, Any], batches: Any) -> Any:
    """Score batches as tasks on Ray, each with a GPU of its own unless they are for the CPU."""
    from data_synth import ray_tasks

    there = partial(_score_there, name, device, json.dumps(options, sort_keys=True))
    return ray_tasks.results(there, batches, gpus=0 if device == "cpu" else 1)


def _score_there(name: str, device: str, options: str, batch: list[Any]) -> Any:
    """Outcomes of a batch, in whatever process; the reward stays loaded there."""
    from reward_models.serving.scoring_job import score_batch

    return score_batch(_kept(name, device, options), batch)


@lru_cache(maxsize=1)
def _kept(name: str, device: str, options: str) -> Any:
    return _load(name, device, json.loads(options))


def _check(given: argparse.Namespace) -> int:
    """Print the report; 1 where a probe fails."""
    import reward_models
    from reward_models import probes

    options, only = _options(given.option), given.only
    _load(given.model, given.device, options)  # what is wrong with the reward's name is told before any probe
    conditional = {"auto": "auto", "yes": True, "no": False}[given.conditional]
    try:
        items = probes.read_items(given.data, given.kind) if given.data else None
        load = partial(reward_models.load, given.model, device=given.device, **options)
        report = probes.check(
            load, kind=given.kind, items=items, conditional=conditional, deadline_s=given.deadline, only=only
        )
    except (ValueError, FileNotFoundError) as error:
        raise DataError(str(error)) from None
    print(report.to_json() if given.json else report)
    return report.exit_code


def _serve(given: argparse.Namespace) -> int:
    from reward_models.serving.server import serve

    try:
        serve(
            given.config,
            host=given.host,
            port=given.port,
            token=os.environ.get(TOKEN),
            open_to_all=given.no_token,
            paths=given.allow_paths,
            max_batch=given.max_batch,
            max_wait_ms=given.max_wait_ms,
            deadline_s=given.deadline,
        )
    except (ValueError, ImportError) as error:
        raise ModelError(f"rlkit reward serve: {error}") from None
    return 0


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    import yaml

    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise DataError(f"--option {pair}: expected key=value, for example --option batch_size=8.")
        options[key] = yaml.safe_load(value)
    return options


def _load(name: str, device: str, options: dict[str, Any]) -> Any:
    import reward_models

    try:
        return reward_models.load(name, device=device, **options)
    except Exception as error:  # `load` of a reward is anybody's code
        raise ModelError(f"{name}: cannot be loaded ({type(error).__name__}: {error})") from error


VERBS = {"check": _check, "score": _score, "serve": _serve}
