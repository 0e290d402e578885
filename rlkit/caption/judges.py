"""Who says which of a model's own captions is best: the world's truth (`world`), the folder of a judge that
`algorithm: reward` trained, the likelihood under another captioner (its folder), or any reward by name or path."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import reward_models
from data_synth.world.captions import PROMPTS
from data_synth.world.clips import events_of
from reward_models import event_order
from rlkit import models
from rlkit.caption import one_row, pairs, rows, verdict
from rlkit.caption.clips import Reader
from rlkit.errors import RecipeError
from rlkit.models import Captioner
from rlkit.recipe import Model, Recipe
from rlkit.running import ranks

Row = Mapping[str, Any]
Judge = Callable[[Sequence[Row], Sequence[Sequence[str]], Reader], list[list[float | None]]]
"""(clips, captions of each, reader of the clips) -> a score for every caption, None where there is none."""
MANIFEST = "verdict.json"
"""In the folder of a trained judge of captions: its question and the tokens of its answer."""


def load(recipe: Recipe) -> Judge | None:
    """The judge that `sampling.judge` names; None for none. Raises RecipeError for a name that nothing has."""
    name = recipe.sampling.judge
    if name is None:
        return None
    if name == "world":
        return by_reward(event_order.load(parse=events_of))
    if (Path(name) / MANIFEST).is_file() or (Path(name) / "config.json").is_file():
        return captioner_judge(recipe, Path(name))
    try:
        return by_reward(reward_models.load(name, device=str(ranks.device())))
    except (FileNotFoundError, ValueError) as error:
        raise RecipeError(f"sampling.judge: {error} `world` is the truth of rendered clips") from None


def by_reward(score: reward_models.Score) -> Judge:
    """A reward as a judge; it gets the columns `events` and `video` where the clips have them, and `videos` (frames,
    uint8 [T, H, W, 3]) where its signature names them."""
    wants_frames = "videos" in inspect.signature(score).parameters

    def judge(clips: Sequence[Row], texts: Sequence[Sequence[str]], reader: Reader) -> list[list[float | None]]:
        found = []
        for row, answers in zip(clips, texts, strict=True):
            columns = {key: [row[key]] * len(answers) for key in ("events", "video") if key in row}
            if wants_frames:
                columns["videos"] = [reader.clip(row["video"], row.get("start"), row.get("end")).frames] * len(answers)
            found.append(score(prompts=[""] * len(answers), completions=list(answers), **columns))
        return found

    return judge


def captioner_judge(recipe: Recipe, folder: Path) -> Judge:
    """The captioner in a folder as a judge, all captions of a clip in one row.

    It judges by its verdict (rlkit/caption/verdict.py) where `algorithm: reward` trained it, else by the log-likelihood
    of the caption, a sum over its tokens in nats. A captioner that knows more than the policy is a judge without being
    trained to judge; the policy's own likelihood is none.
    """
    captioner = models.load(Model(id=str(folder)))
    told = folder / MANIFEST
    question = PROMPTS[recipe.data.language]
    if told.is_file():
        question = json.loads(told.read_text(encoding="utf-8"))["question"]
    score = verdict.scores if told.is_file() else likelihood
    size = recipe.evaluate.per_device_eval_batch_size

    @torch.no_grad()
    def judge(clips: Sequence[Row], texts: Sequence[Sequence[str]], reader: Reader) -> list[list[float | None]]:
        captioner.model.eval()
        found: list[list[float | None]] = []
        for start in range(0, len(clips), size):
            shown = zip(clips[start : start + size], texts[start : start + size], strict=True)
            examples = [asked(captioner, row, answers, question, reader) for row, answers in shown]
            scores = score(captioner, rows.batch_of(captioner, examples)).tolist()
            found += [one[: len(example.answers)] for one, example in zip(scores, examples, strict=True)]
        return found

    return judge


def likelihood(captioner: Captioner, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(caption) of all answers of a batch of rows, [B, A], in nats: a sum over tokens."""
    return one_row.log_probs(captioner, batch)[0].sum(-1)


def asked(captioner: Captioner, row: Row, answers: Sequence[str], question: str, reader: Reader) -> rows.Example:
    """A clip with all the captions to be judged as the answers of one row."""
    rejected = [{"text": text, "kind": "own_sample", "edit": {}, "operator": "own_samples"} for text in answers[1:]]
    record = pairs.record(row, question, answers[0], rejected, 0, {})
    return rows.encode(captioner, record, reader.clip(row["video"], row.get("start"), row.get("end")))
