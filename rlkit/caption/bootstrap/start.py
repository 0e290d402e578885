"""What the rounds of one seed start from: corrected captions, clips without one, who judges, and who is asked last."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_synth.records import make_record
from data_synth.world.captions import PROMPTS
from data_synth.world.clips import events_of
from rlkit.caption import judge_gate, judges
from rlkit.caption.clips import Clips, Reader, Subset
from rlkit.caption.judges import Judge, Row
from rlkit.errors import DataError
from rlkit.recipe import Recipe
from rlkit.running.progress import Progress
from rlkit.scoring import Rewards


@dataclass(frozen=True)
class Jury:
    """What captions are chosen by."""

    names: list[str]
    weights: list[float]
    judges: list[Judge]
    """One for each name."""
    whole: Judge
    """All together, as the gate asks it about the captions of one clip."""
    gated: Recipe
    """The recipe as the gate reads it."""

    def __call__(self, clips: Sequence[Row], texts: Sequence[Sequence[str]], reader: Reader) -> list[list[list[Any]]]:
        """Per clip and caption the scores of all judges, None where one has none."""
        columns = [judge(clips, texts, reader) for judge in self.judges]
        return [[list(scores) for scores in zip(*of_clip, strict=True)] for of_clip in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Start:
    """Shared by all systems and seeds."""

    recipe: Recipe
    """With this seed."""
    found: Clips
    """Its held-out clips are those that results are measured on."""
    originals: list[Row]
    """Clips with a corrected caption, under `true_caption`."""
    unlabelled: Sequence[Row]
    watching: Clips
    """Held out are clips that let the judge through its gate and tell which round is best."""
    watched: list[Row]
    """These, labelled; no result is measured on them."""
    watched_reader: Reader
    jury: Jury
    held_out: Judge
    """By which no caption is chosen."""

    @property
    def question(self) -> str:
        """What all captions answer."""
        return PROMPTS[self.recipe.data.language]

    def seeded(self, seed: int) -> "Start":
        """The same with another seed."""
        return replace(self, recipe=replace(self.recipe, seed=seed))

    def record(self, row: Row, caption: str) -> dict[str, Any]:
        """A clip under a caption, to be trained on."""
        return make_record(
            self.question, caption, [], videos=[row["video"]], start=row.get("start"), end=row.get("end")
        )


def prepare(recipe: Recipe, found: Clips, progress: Progress) -> Start:
    """Sort the clips and load the judges. Raises DataError where there is no corrected caption or no other clip."""
    labelled = [bool(row.get("true_caption")) for row in found.train]
    originals = [found.train[at] for at, known in enumerate(labelled) if known]
    unlabelled = Subset(found.train, [at for at, known in enumerate(labelled) if not known])
    if not originals or not len(unlabelled):
        raise DataError(
            f"there are {len(originals)} clips with a corrected caption and {len(unlabelled)} without, expected "
            "both. data.num_labelled says how many of the first lines are right, data.num_clips how many are read."
        )
    if recipe.data.source == "folder":  # every other held-out clip watches the loop, the rest measure it
        places = range(len(found.held_out))
        watching = replace(found, held_out=Subset(found.held_out, places[::2]))
        found = replace(found, held_out=Subset(found.held_out, places[1::2]))
    else:
        watching = found
    watched, reader = judge_gate.labelled(watching, recipe, progress)
    if not watched or not len(found.held_out):
        raise DataError(
            "too few held-out clips: some tell which round is best, others measure it; raise data.num_clips or "
            "evaluate.num_clips"
        )
    return Start(recipe, found, originals, unlabelled, watching, watched, reader, jury(recipe), held_out_judge(recipe))


def jury(recipe: Recipe) -> Jury:
    """sampling.judge, or else `rewards` with their weights."""
    question = PROMPTS[recipe.data.language]
    if recipe.sampling.judge is not None:
        judge = judges.load(recipe)
        return Jury(["judge"], [1.0], [judge], judge, recipe)
    rewards = Rewards(recipe.rewards, {"parse": events_of})
    single = [judges.by_reward(score, question) for score in rewards.scores]
    gated = judge_gate.of_rewards(recipe, recipe.sampling.num_samples)
    return Jury(rewards.names, rewards.weights, single, judges.by_rewards(rewards, question), gated)


def held_out_judge(recipe: Recipe) -> Judge:
    """evaluate.held_out_rewards, or else the truth of labelled clips."""
    if recipe.evaluate.held_out_rewards:
        named = Rewards(recipe.evaluate.held_out_rewards, {"parse": events_of})
        return judges.by_rewards(named, PROMPTS[recipe.data.language])
    return truth


def truth(clips: Sequence[Row], texts: Sequence[Sequence[str]], reader: Reader) -> list[list[float | None]]:
    """How well captions tell what a clip's own says, in [0, 1]."""
    return [[judge_gate.truth_of(row, text) for text in said] for row, said in zip(clips, texts, strict=True)]
