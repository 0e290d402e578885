"""One round after the other: train, draw and judge captions, keep some, look at clips that nothing is trained on.

A round's folder holds its weights (final/), what was drawn and judged in files of own_samples.CHUNK clips, and what was
seen; each is written whole, and what is there is not made again. Decisions follow from these files alone and are taken
anew whenever a run goes on.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rlkit import models
from rlkit.bootstrap import choose, rounds
from rlkit.bootstrap.ledger import scores
from rlkit.bootstrap.scale import Scale
from rlkit.caption import generate, judge_gate, judges, own_samples, pairs, retain, trainer
from rlkit.caption.bootstrap import texts
from rlkit.caption.bootstrap.mixture import MixedTrainer
from rlkit.caption.bootstrap.start import Start
from rlkit.caption.dataset import training_examples
from rlkit.errors import GuardError
from rlkit.evaluate.caption_metrics import length_words
from rlkit.models import Captioner
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker, write_jsonl

TRAINED, LOOKED, DRAWN, JUDGED = "trained.json", "looked.json", "drawn", "judged"


@dataclass
class Round(rounds.Round):
    """`rows` are samples: `number clip seed text scores truth`, the last where the world knows it."""

    @property
    def acceptance(self) -> float:
        """Share of the clips of which a caption was accepted; at most one is."""
        return sum(one.accepted for one in self.decisions) / len({row["clip"] for row in self.rows})

    def told(self) -> dict[str, Any]:
        """Its numbers, for results.json and the curves; `truth` is what captions are worth in [0, 1]."""
        kept = [self.rows[at] for at in self.kept]
        return super().told() | {
            "kept_clips": len({row["clip"] for row in kept}),
            "kept_texts": len({row["text"] for row in kept}),
            "kept_length_words": _mean([length_words(row["text"]) for row in kept]),
            "kept_truth": _mean([row["truth"] for row in kept]),
            "drawn_truth": _mean([row["truth"] for row in self.rows]),
            "guard_length_words": self.looked["guard"]["length_words"],
        }


@dataclass
class Loop:
    """The rounds of one seed."""

    start: Start
    tracker: Tracker
    progress: Progress
    scale: Scale | None = None
    """Known after the first round, as are the shares of clusters."""
    shares: dict[int, float] = field(default_factory=dict)
    captioner: Captioner | None = None
    at: Path | None = None
    """The folder whose weights the captioner has."""

    def round(self, before: Round | None, title: str, folder: RunFolder, *, naive: bool) -> Round:
        """The round after `before`: train, draw and judge, look, decide; or read what is there of it."""
        number = 1 if before is None else before.number + 1
        trained = self._train(title, folder, before, naive=naive)
        rows = self._judged(number, title, folder)
        return self.decided(number, folder, rows, trained, self._look(title, folder), naive=naive)

    def decided(
        self,
        number: int,
        folder: RunFolder,
        rows: list[dict[str, Any]],
        trained: dict[str, Any],
        looked: dict[str, Any],
        *,
        naive: bool,
    ) -> Round:
        """The round with its decisions, of the loop with guards or the naive one."""
        start, own = self.start, self.start.recipe.bootstrap_caption
        found, weights = scores(rows), start.jury.weights
        said, clips = [row["text"] for row in rows], [row["clip"] for row in rows]
        decisions = texts.likeness_of(
            said, [one["true_caption"] for one in start.originals], near=own.near_duplicate, clusters=own.clusters
        )
        if self.scale is None:
            self.scale, self.shares = Scale.of(found, weights, own.bar), texts.shares(decisions)
        totals = self.scale.totals(found, weights)
        choose.accept(totals, decisions, self.scale.bar, texts.one_a_clip(totals, clips, said, own.near_duplicate))
        keep = max(1, round(own.keep_share * len(start.unlabelled)))
        if naive:
            choose.naive(totals, decisions, keep)
        else:
            choose.by_cluster(totals, decisions, keep, self.shares)
        return Round(number, folder, rows, totals, decisions, looked, trained)

    def use(self, folder: RunFolder) -> Captioner:
        """The captioner with a round's weights."""
        if self.captioner is None or self.at != folder.final:
            self.captioner, self.at = self.fresh(folder.final), folder.final
        return self.captioner

    def fresh(self, weights: Path | None) -> Captioner:
        """The recipe's model as it is, or with these weights."""
        unset_hf_deepspeed_config()  # of the training before: transformers would share weights out while it reads them
        set_seed(self.start.recipe.seed)  # of a fresh adapter
        captioner = models.load(self.start.recipe.model, seed=self.start.recipe.seed)
        if weights is not None:
            trainer.load_weights(captioner.model, weights)
        return captioner

    def _train(self, title: str, folder: RunFolder, before: Round | None, *, naive: bool) -> dict[str, Any]:
        """On corrected captions, and what the round before kept; without the former where it is `naive`."""
        start, recipe, path = self.start, self.start.recipe, folder.path
        own = recipe.bootstrap_caption
        if not (path / TRAINED).is_file():
            self.captioner = None  # one model in memory
            captioner = self.fresh(None if before is None or own.restart else before.folder.final)
            rows = {row["id"]: row for row in start.unlabelled} if before is not None else {}
            chosen = [before.rows[at] for at in before.kept] if before is not None else []
            records = [start.record(row, row["true_caption"]) for row in start.originals]
            records += [start.record(rows[one["clip"]], one["text"]) for one in chosen]
            examples = training_examples(captioner, records, start.found.reader, recipe)
            mixed = partial(MixedTrainer, real=len(start.originals), real_share=0.0 if naive else own.real_share)
            seconds = trainer.train(
                captioner, trainer.nll, recipe, examples, folder,
                self.tracker.part(title, folder), self.progress, stage=f"{title}: training on {len(records)} captions",
                build=mixed, replay=retain.replay(captioner, start.found, recipe),
            )  # fmt: skip
            self.captioner, self.at = captioner, folder.final
            folder.write_json(TRAINED, {"sha256": _hash(folder.final), "seconds": round(seconds, 1)})
            if folder.main:
                shutil.rmtree(folder.checkpoints, ignore_errors=True)
            ranks.wait()
        return json.loads((path / TRAINED).read_text(encoding="utf-8"))

    def _judged(self, number: int, title: str, folder: RunFolder) -> list[dict[str, Any]]:
        """Samples of the clips without a caption and their scores; every system draws from the same seeds."""
        start, recipe = self.start, self.start.recipe
        count, settings, seed = len(start.unlabelled), recipe.sampling, recipe.seed + number * 10**9
        names = [f"{at // own_samples.CHUNK:06d}.jsonl" for at in range(0, count, own_samples.CHUNK)]
        paths = [folder.path / JUDGED / name for name in names]
        if ranks.gathered(all(path.is_file() for path in paths))[0]:
            return [row for path in paths for row in _lines(path)]
        captioner = self.use(folder)
        if number == 1:
            judge_gate.check(
                captioner, start.jury.whole, start.watching, start.jury.gated, folder, start.question, self.progress
            )
        self.progress.stage(f"{title}: drawing {settings.num_samples} captions of {count:,} clips", count)
        drawn = own_samples.draw_into(
            folder.path / DRAWN, captioner, start.unlabelled, start.found.reader, recipe, start.question, seed,
            self.progress,
        )  # fmt: skip
        self.progress.stage(f"{title}: judging them", count)
        for at in range(ranks.number(), len(paths), ranks.count()):
            if not paths[at].is_file():
                write_jsonl(paths[at], self._scored(at * own_samples.CHUNK, drawn[at], seed))
            self.progress.step(min((at + 1) * own_samples.CHUNK, count))
        ranks.wait()
        return [row for path in paths for row in _lines(path)]

    def _scored(self, first: int, drawn: Path, seed: int) -> list[dict[str, Any]]:
        """The rows of one file; a text that comes twice of a clip is judged once, one that is unreadable never."""
        start, found = self.start, []
        clips = [(start.unlabelled[first + at], one["samples"]) for at, one in enumerate(_lines(drawn))]
        different = [[text for text in dict.fromkeys(said) if pairs.readable(text)] for _, said in clips]
        asked = [at for at, said in enumerate(different) if said]
        given: list[dict[str, list[Any]]] = [{} for _ in clips]
        told = start.jury([clips[at][0] for at in asked], [different[at] for at in asked], start.found.reader)
        for at, values in zip(asked, told, strict=True):
            given[at] = dict(zip(different[at], values, strict=True))
        missing = [None] * len(start.jury.names)
        for at, (row, said) in enumerate(clips):
            for place, text in enumerate(said):
                known = row.get("events") is not None
                found.append(
                    {
                        "number": (first + at) * len(said) + place,
                        "clip": row["id"],
                        "seed": seed + first,
                        "text": text,
                        "scores": given[at].get(text, missing),
                        "truth": judge_gate.truth_of(row, text) if known else None,
                    }
                )
        return found

    def _look(self, title: str, folder: RunFolder) -> dict[str, Any]:
        """Greedy captions of the clips that watch the loop, and what the held-out judge says of them."""
        start, path = self.start, folder.path / LOOKED
        if not path.is_file():
            captioner = self.use(folder)
            self.progress.stage(f"{title}: {len(start.watched)} clips by the held-out judge", len(start.watched))
            said = ranks.spread(partial(self._greedy, captioner), start.watched)
            values = start.held_out(start.watched, [[text] for text in said], start.watched_reader)
            held_out = _mean([value for (value,) in values])
            if held_out is None:
                raise GuardError(
                    f"{title}: the held-out judge gives no score for clips such as {start.watched[0]['video']}; give "
                    "evaluate.held_out_rewards that can judge them."
                )
            words = sum(map(length_words, said)) / len(said)
            guard = {"held_out": held_out, "diversity": texts.diversity(said), "length_words": words}
            folder.write_json(LOOKED, {"guard": guard})
            ranks.wait()
        return json.loads(path.read_text(encoding="utf-8"))

    def _greedy(self, captioner: Captioner, part: list[judges.Row]) -> list[str]:
        start, settings = self.start, self.start.recipe.evaluate
        shown = [
            judges.shown_to(captioner, row, judges.answered(row, ["A"], start.question), start.watched_reader)
            for row in part
        ]
        options = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.per_device_eval_batch_size}
        return [one[0] for one in generate.captions(captioner, shown, progress=self.progress, **options)]


def _hash(final: Path) -> str:
    """Of the weights in a folder."""
    digest = hashlib.sha256()
    for path in sorted(final.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _mean(values: list[float | None]) -> float | None:
    """Over what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
