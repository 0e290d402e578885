"""The model's own captions of training clips, and who says which of them are wrong."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_synth.records import make_record
from data_synth.world.clips import events_of
from rlkit.caption import generate, reference, rows
from rlkit.caption.clips import Clips, Reader
from rlkit.models import Captioner
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.progress import Progress
from rlkit.running.tracking import write_jsonl

SAMPLES = Path("runs/own_samples")  # shared by all recipes, as clips and frames are
CHUNK = 256  # clips per file of samples: what a kill can lose
SEEN = ("num_frames", "fps", "frame_size", "decoder", "shuffle_frames")
"""Keys of `data` that decide what the model sees of a clip."""


class Drawn:
    """Drawn captions by clip id. One chunk is in memory: whoever asks in the order of the clips reads each once."""

    def __init__(self, chunks: Sequence[Path]) -> None:
        self.chunks, self.at = list(chunks), -1
        self._here: dict[str, list[str]] = {}

    def get(self, clip: str) -> list[str]:
        """The samples of a clip; none for one that was not sampled."""
        for _ in self.chunks:
            if clip in self._here:
                break
            self.at = (self.at + 1) % len(self.chunks)
            lines = self.chunks[self.at].read_text(encoding="utf-8").splitlines()
            self._here = {row["id"]: row["samples"] for row in map(json.loads, lines)}
        return self._here.get(clip, [])


def wanted(recipe: Recipe) -> bool:
    """Whether `negatives` of the recipe name the model's own samples."""
    return any(one.name == "own_samples" and one.weight > 0 for one in recipe.negatives)


def draw(captioner: Captioner, found: Clips, recipe: Recipe, question: str, progress: Progress) -> Drawn:
    """`sampling.num_samples` captions of each training clip.

    Kept in chunks below runs/own_samples, under a hash of the weights, the clips and the sampling: a killed run goes on
    where it was, and systems with the same start read the same chunks. Each process of the run draws its share of them.
    """
    settings = recipe.sampling
    seen = {name: getattr(recipe.data, name) for name in SEEN}
    key = reference.key(
        captioner,
        files_hash(found),
        {"sampling": vars(settings), "data": seen, "seed": recipe.seed, "question": question},
        len(found.train),
    )
    target = SAMPLES / hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=10).hexdigest()
    progress.stage(f"sampling {settings.num_samples} captions of {len(found.train):,} clips", total=len(found.train))
    return Drawn(draw_into(target, captioner, found.train, found.reader, recipe, question, recipe.seed, progress))


def draw_into(
    target: Path,
    captioner: Captioner,
    clips: Sequence[Mapping[str, Any]],
    reader: Reader,
    recipe: Recipe,
    question: str,
    seed: int,
    progress: Progress,
) -> list[Path]:
    """`sampling.num_samples` captions of each clip in files of CHUNK clips below `target`; what is there is kept. The
    first clip of a file and `seed` decide what is drawn."""
    settings = recipe.sampling
    starts = range(0, len(clips), CHUNK)
    for start in starts[ranks.number() :: ranks.count()]:
        path = _chunk(target, start)
        if not path.exists():
            some = [clips[at] for at in range(start, min(start + CHUNK, len(clips)))]
            texts = generate.captions(
                captioner,
                [_prompt(captioner, row, question, reader, recipe, start + at) for at, row in enumerate(some)],
                max_new_tokens=settings.max_completion_length,
                batch_size=recipe.evaluate.per_device_eval_batch_size,
                num_return_sequences=settings.num_samples,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=seed + start,
            )
            lines = [{"id": row["id"], "samples": one} for row, one in zip(some, texts, strict=True)]
            write_jsonl(path, lines)
        progress.step(min(start + CHUNK * ranks.count(), len(clips)))
    ranks.wait()
    return [_chunk(target, start) for start in starts]


def files_hash(found: Clips) -> str:
    """Hash of which pieces of which files the training clips are; a file that was written anew makes another."""
    digest = hashlib.blake2b(digest_size=20)
    for row in found.train:
        file = (found.reader.root / row["video"]).stat()
        about = [row["id"], row["video"], row.get("start"), row.get("end"), file.st_size, file.st_mtime_ns]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()


def _chunk(target: Path, start: int) -> Path:
    return target / f"{start // CHUNK:06d}.jsonl"


def _prompt(captioner: Captioner, row: Mapping[str, Any], question: str, reader: Reader, recipe: Recipe, index: int):
    """The prompt alone; the answer is a placeholder that generation does not read."""
    clip = reader.clip(row["video"], row.get("start"), row.get("end"))
    if recipe.data.shuffle_frames:
        clip = rows.shuffled(clip, seed=index)
    return rows.encode(captioner, make_record(question, "A", [], videos=[row["video"]]), clip)


def truth_test(recipe: Recipe) -> Callable[[Mapping[str, Any], str], bool]:
    """Whether a sample tells the clip's true events in order and nothing else; by text where events are not known."""

    def is_true(row: Mapping[str, Any], text: str) -> bool:
        if row.get("events") is None:
            return text.strip() == row["true_caption"].strip()
        told, extra = events_of(text)
        return extra == 0 and [list(event) for event in told] == [list(event) for event in row["events"]]

    return is_true
