"""Who says which of a model's own captions is best: the world's truth (`world`), the folder of a judge that
`algorithm: reward` trained, the likelihood under another captioner (its folder), or any reward by name or path."""

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import reward_models
from data_synth.world.captions import PROMPTS
from data_synth.world.clips import events_of
from reward_models import event_order
from rlkit import models
from rlkit.caption import information, pairs, rows
from rlkit.caption.clips import Reader
from rlkit.errors import RecipeError
from rlkit.models import Captioner
from rlkit.recipe import Model, Recipe
from rlkit.running import ranks
from rlkit.scoring import Rewards

Row = Mapping[str, Any]
Judge = Callable[[Sequence[Row], Sequence[Sequence[str]], Reader], list[list[float | None]]]
"""(clips, captions of each, reader of the clips) -> a score for every caption, None where there is none."""
MANIFEST = "judge.json"
"""In the folder of a trained judge of captions: the question that its captions answer."""


def load(recipe: Recipe) -> Judge | None:
    """The judge that `sampling.judge` names; None for none. Raises RecipeError for a name that nothing has."""
    name, question = recipe.sampling.judge, PROMPTS[recipe.data.language]
    if name is None:
        return None
    if name == "world":
        return by_reward(event_order.load(parse=events_of), question)
    if (Path(name) / MANIFEST).is_file() or (Path(name) / "config.json").is_file():
        return captioner_judge(recipe, Path(name))
    try:
        return by_reward(reward_models.load(name, device=str(ranks.device())), question)
    except (FileNotFoundError, ValueError) as error:
        raise RecipeError(f"sampling.judge: {error} `world` is the truth of rendered clips") from None


def by_reward(score: reward_models.Score, question: str) -> Judge:
    """A reward as a judge of answers to `question`; it gets the columns `events` and `video` where the clips have them,
    and `videos` (frames, uint8 [T, H, W, 3]) where its signature names them."""
    wanted = wanted_columns([score])

    def judge(clips: Sequence[Row], texts: Sequence[Sequence[str]], reader: Reader) -> list[list[float | None]]:
        found = []
        for row, answers in zip(clips, texts, strict=True):
            columns = columns_of([row], [len(answers)], reader, wanted)
            found.append(score(prompts=[question] * len(answers), completions=list(answers), **columns))
        return found

    return judge


def wanted_columns(scores: Sequence[reward_models.Score]) -> frozenset[str]:
    """The columns that any of these rewards names."""
    return frozenset(name for score in scores for name in inspect.signature(score).parameters)


def columns_of(
    clips: Sequence[Row], counts: Sequence[int], reader: Reader, wanted: frozenset[str]
) -> dict[str, list[Any]]:
    """The columns of `counts[i]` captions of clip i, clip by clip: `events` and `video`, None for a clip that has none;
    and where they are wanted `videos` (frames, uint8 [T, H, W, 3]) with their `timestamps` in seconds."""
    given = {key for row in clips for key in row} | wanted
    columns: dict[str, list[Any]] = {key: [] for key in ("events", "video") if key in given}
    columns |= {key: [] for key in ("videos", "timestamps") if "videos" in wanted}
    for row, count in zip(clips, counts, strict=True):
        known: dict[str, Any] = dict(row)
        if "videos" in columns:
            shown = reader.clip(row["video"], row.get("start"), row.get("end"))
            known |= {"videos": shown.frames, "timestamps": shown.timestamps}
        for key, values in columns.items():
            values += [known.get(key)] * count
    return columns


def by_rewards(rewards: Rewards, question: str) -> Judge:
    """The weighted mean of several rewards as a judge of answers to `question`; None where one of them has none."""
    wanted = wanted_columns(rewards.scores)

    def judge(clips: Sequence[Row], texts: Sequence[Sequence[str]], reader: Reader) -> list[list[float | None]]:
        counts = [len(answers) for answers in texts]
        flat = [text for answers in texts for text in answers]
        scores = rewards([question] * len(flat), flat, columns_of(clips, counts, reader, wanted))
        total = iter(rewards.total(scores).tolist())
        given = [[next(total) for _ in range(count)] for count in counts]
        return [[None if math.isnan(value) else value for value in one] for one in given]

    return judge


def captioner_judge(recipe: Recipe, folder: Path) -> Judge:
    """The captioner in a folder as a judge, all captions of a clip in one row.

    Where `algorithm: reward` trained it, the score is what the clip adds to a caption (rlkit/caption/information.py);
    else it is the caption's log-likelihood. A captioner that knows more than the policy is a judge without being
    trained to judge; the policy's own likelihood is none.
    """
    captioner = models.load(Model(id=str(folder)))
    told = folder / MANIFEST
    question = PROMPTS[recipe.data.language]
    if told.is_file():
        question = json.loads(told.read_text(encoding="utf-8"))["question"]
    size = recipe.evaluate.per_device_eval_batch_size

    @torch.no_grad()
    def judge(clips: Sequence[Row], texts: Sequence[Sequence[str]], reader: Reader) -> list[list[float | None]]:
        captioner.model.eval()
        found: list[list[float | None]] = []
        for start in range(0, len(clips), size):
            some = list(zip(clips[start : start + size], texts[start : start + size], strict=True))
            records = [answered(row, answers, question) for row, answers in some]
            shown = [shown_to(captioner, row, record, reader) for (row, _), record in zip(some, records, strict=True)]
            scores = information.likelihood(captioner, rows.batch_of(captioner, shown))
            if told.is_file():
                scores = scores - information.prior(captioner, records)
            found += [one[: len(answers)] for one, (_, answers) in zip(scores.tolist(), some, strict=True)]
        return found

    return judge


def answered(row: Row, answers: Sequence[str], question: str) -> dict[str, Any]:
    """The record of a clip with all the captions to be judged as its answers."""
    rejected = [{"text": text, "kind": "own_sample", "edit": {}, "operator": "own_samples"} for text in answers[1:]]
    return pairs.record(row, question, answers[0], rejected, 0, {})


def shown_to(captioner: Captioner, row: Row, record: dict[str, Any], reader: Reader) -> rows.Example:
    """The record and its clip as one row of tensors."""
    return rows.encode(captioner, record, reader.clip(row["video"], row.get("start"), row.get("end")))
