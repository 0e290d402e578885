"""Captions to pick from: n of each clip, sampled by transformers' generate, each group from a seed of its own."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_synth.folder import VIDEO_SUFFIXES
from data_synth.jsonl import read_lines
from data_synth.records import Rejected, make_record, write_records
from data_synth.world.captions import PROMPTS
from data_synth.world.clips import events_of
from rlkit import models
from rlkit.caption import generate, pairs, rows
from rlkit.caption.clips import Reader
from rlkit.caption.judges import columns_of, wanted_columns
from rlkit.engine import seed_of
from rlkit.errors import DataError
from rlkit.generators.pairs import ranked
from rlkit.models import Captioner
from rlkit.pick.work import Made, claim, fingerprint, id_of, recipe_of, rewards_of, told
from rlkit.recipe import Model
from rlkit.running.folder import write_text
from rlkit.scoring import Rewards


@dataclass
class Captions:
    """A captioner and its rewards; see work.Source."""

    captioner: Captioner
    reader: Reader
    rows: Mapping[str, dict[str, Any]]
    """Id -> the clip: `video`, and where they are known `start`, `end`, `events`."""
    question: str
    job: dict[str, Any]
    batch_size: int
    rewards: Rewards
    held_out: Rewards

    @property
    def prompts(self) -> Mapping[str, str]:
        """The clips."""
        return {id_: row["video"] for id_, row in self.rows.items()}

    def make(self, id_: str) -> Made:
        """Sample and score one clip's captions."""
        row, count, seed = self.rows[id_], self.job["make"], self.job["seed"]
        record = make_record(self.question, "A", [], videos=[row["video"]])  # the answer is not read
        example = rows.encode(self.captioner, record, self.reader.clip(row["video"], row.get("start"), row.get("end")))
        texts: list[str] = []
        while len(texts) < count:
            texts += generate.captions(
                self.captioner,
                [example],
                max_new_tokens=self.job["max_new_tokens"],
                num_return_sequences=min(self.batch_size, count - len(texts)),
                temperature=self.job["temperature"],
                seed=seed_of(seed, "pick", id_, len(texts)) % 2**32,
            )[0]
        scores = self._scores(self.rewards, row, texts)
        values = ranked(scores, [0] * count, self.rewards.weights)
        named = dict(zip(self.rewards.names, scores.T, strict=True)) | {"reward": self.rewards.total(scores)}
        if len(self.held_out):
            named["held_out"] = self.held_out.total(self._scores(self.held_out, row, texts))

        def save_pair(path: Path) -> None:
            usable = [at for at, text in enumerate(texts) if pairs.readable(text)]
            known = sorted((values[at].item(), at) for at in usable if not values[at].isnan())
            made = None
            if len(known) > 1 and known[0][0] < known[-1][0] and texts[known[0][1]] != texts[known[-1][1]]:
                (low, worst), (high, best) = known[0], known[-1]
                rejected = [{"text": texts[worst], "kind": "own_sample", "edit": {}, "operator": "own_samples"}]
                clip = {**row, "id": row.get("id", id_)}
                made = pairs.record(clip, self.question, texts[best], rejected, seed, {"pick": [high, low]})
            write_text(path.with_suffix(".json"), json.dumps(made, ensure_ascii=False))

        return Made(values, named, [{"text": text} for text in texts], lambda at, path: None, save_pair)

    def write_pairs(self, paths: Sequence[Path], folder: Path) -> dict[str, int]:
        """pairs/pairs-00000.parquet in TRL's preference columns; clips without a better and a worse caption are ties.

        A caption that cannot stand in a record, an empty one for instance, is in no pair. Raises DataError where
        there is no pair at all.
        """
        found = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in paths]
        decided = [one for one in found if one is not None]
        if not decided:
            raise DataError(f"{folder}: no clip has a better and a worse caption; nothing was written.")
        written = write_records(decided, folder, overwrite=True)
        return {"pairs": written.kept, "ties": len(found) - len(decided), "quarantined": written.quarantined}

    def _scores(self, rewards: Rewards, row: Mapping[str, Any], texts: Sequence[str]) -> torch.Tensor:
        columns = columns_of([row], [len(texts)], self.reader, wanted_columns(rewards.scores))
        return rewards([self.question] * len(texts), texts, columns)


def open_source(given: argparse.Namespace) -> Captions:
    """The captioner, clips and rewards of a command line. Raises RlkitError or DataError for what cannot be had."""
    run = recipe_of(given.model)
    data = replace(run.data, num_frames=given.num_frames, fps=None) if given.num_frames else run.data
    path = Path(given.prompts)
    found = {id_of(json.dumps([row["video"], row.get("start"), row.get("end")])): row for row in clips_of(path)}
    rewards, held_out = rewards_of(given.rewards, "--rewards"), rewards_of(given.held_out, "--held-out")
    job = {
        "model": given.model,
        "weights": fingerprint(given.model),
        "make": given.make,
        "keep": given.keep,
        "rewards": told(rewards),
        "held_out": told(held_out),
        "frames": [data.num_frames, data.fps, data.frame_size],
        "temperature": given.temperature,
        "max_new_tokens": given.max_new_tokens,
        "seed": given.seed,
        "batch_size": given.batch_size,  # a text follows from its batch
    }
    claim(given.out, job)
    return Captions(
        models.load(Model(id=given.model)),
        Reader(data, path if path.is_dir() else path.parent),
        dict(list(found.items())[: given.limit]),
        PROMPTS[data.language],
        job,
        given.batch_size,
        Rewards(rewards, {"parse": events_of}),
        Rewards(held_out, {"parse": events_of}),
    )


def clips_of(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a .jsonl with `video`, from its folder on, or the video files of a folder. Raises DataError for none."""
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() in VIDEO_SUFFIXES)
        if not files:
            raise DataError(f"{path}: has no clips ({' '.join(sorted(VIDEO_SUFFIXES))}).")
        yield from ({"video": one.relative_to(path).as_posix()} for one in files)
        return
    for where, row in read_lines(path):
        if isinstance(row, Rejected):
            raise DataError(f"{where}: {' '.join(row.reasons)}")
        if not isinstance(row.get("video"), str):
            raise DataError(f"{where}: has no `video`; expected the path of a clip from {path.parent}.")
        yield row
