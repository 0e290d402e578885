"""The keys of `algorithm: bootstrap` and `bootstrap_caption`; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from rlkit.recipe.marks import Between
from rlkit.recipe.units import Amount, Count, CountOrZero, Share


@dataclass(frozen=True)
class Bootstrap:
    """For `algorithm: bootstrap`: a LoRA of a few pictures that learns on from the best of its own samples."""

    rounds: Count = 3
    """Trainings of train.max_steps each; samples are drawn and judged after each."""
    restart: bool = False
    """Begin each round with a fresh adapter instead of going on: nothing is inherited but judged samples, and max_steps
    must teach everything anew."""
    num_samples: Annotated[int, Between(8, 10**7)] = 1000
    """Samples a round, over the training prompts but those of the originals."""
    keep_share: Annotated[float, Between(0.001, 1)] = 0.1
    """At most this share of the samples is kept and trained on in the next round."""
    clusters: Count = 8
    """Groups of alike samples, of each of which at most its share is kept: what the best of all would lack is
    variety."""
    bar: Share = 0.5
    """A sample is accepted whose reward lies above this share of the first round's; it stays where it is, so that the
    share of accepted samples can rise."""
    real_share: Share = 0.5
    """At least this share of the pictures in every batch are originals."""
    copy_distance: Share = 0.25
    """What lies nearer to an original, or to a better sample, than this share of the usual distance between originals
    is a copy and not kept. 0 turns it off."""
    likeness_weight: Amount = 1.0
    """Weight of the likeness to the originals beside `rewards`; each is divided by its spread in the first round."""
    trigger: str | None = "sks"
    """Word before the prompt that calls for the look; without it the model is to draw as before. Take one that the
    tokenizer leaves whole, since prompts that get too long are cut at their end. null: none."""
    instance_prompt: str = "a picture"
    """Caption of originals whose folder has no captions.jsonl."""
    num_class_images: CountOrZero = 64
    """Pictures of the base model under plain prompts: they keep it from changing without the trigger (DreamBooth's
    prior preservation), and are what the likeness tells originals from."""
    prior_loss_weight: Amount = 1.0
    """Weight of the loss on these; 0 leaves them out of training."""
    patience: Count = 1
    """Rounds without a rise of the held-out judge after which the loop ends; what is saved is the round it liked best,
    on prompts of guard.num_prompts that measure no result."""
    max_diversity_drop: Share = 0.3
    """A round with this much less diversity than the first ends the loop and is not saved."""
    naive: bool = True
    """Also run, from the same first round, the loop without all this: the best of all samples, no originals, no prior.
    It is what the results are compared with and costs as much again."""
    seeds: list[CountOrZero] = field(default_factory=list)
    """Seeds to repeat everything with, for intervals; the first one's LoRA is saved. Empty: the recipe's seed."""
    rows_per_shard: Count = 64
    """Samples drawn at once and written in one file: the unit of work that a stopped run does not lose."""

    @property
    def trainings(self) -> int:
        """How often train.max_steps are taken: the naive loop shares the first round."""
        return (self.rounds + (self.rounds - 1) * self.naive) * max(1, len(self.seeds))


@dataclass(frozen=True)
class BootstrapCaption:
    """For `algorithm: bootstrap_caption`: a captioner that learns on from its own judged captions. data.num_labelled
    clips have a corrected caption; of all others sampling.num_samples are drawn a round, and judged by sampling.judge,
    or by `rewards`."""

    rounds: Count = 3
    """Trainings of train.max_steps each; captions are drawn and judged after each."""
    restart: bool = False
    """Begin each round with model.id instead of going on: nothing is inherited but judged captions, and max_steps must
    teach everything anew."""
    keep_share: Annotated[float, Between(0.001, 1)] = 0.5
    """Captions of at most this share of the clips are kept and trained on in the next round, one a clip."""
    clusters: Count = 6
    """Captions that tell as many events are a cluster, this many or more counting as one. A cluster keeps at most the
    share that it had of the first round's samples: the best of all would be short ones."""
    bar: Share = 0.5
    """A caption is accepted whose reward lies above this share of the first round's; it stays where it is, so that the
    share of accepted captions can rise."""
    real_share: Share = 0.5
    """At least this share of the captions in every batch are corrected ones."""
    near_duplicate: Annotated[float, Between(0.01, 1)] = 0.8
    """Overlap (Jaccard, of four-word runs) with a corrected caption, or with a better one, above which a caption is not
    kept."""
    patience: Count = 1
    """Rounds without a rise of the held-out judge after which the loop ends; what is saved is the round it liked best.
    It is evaluate.held_out_rewards, or else the truth of sampling.gate_clips labelled clips that measure no result."""
    max_diversity_drop: Share = 0.3
    """A round with this much less diversity than the first (different four-word runs in the greedy captions of these
    clips) ends the loop and is not saved."""
    naive: bool = True
    """Also run, from the same first round, the loop without all this: the best captions of all, none corrected. It is
    what the results are compared with and costs as much again."""
    seeds: list[CountOrZero] = field(default_factory=list)
    """Seeds to repeat everything with, for intervals; the first one's captioner is saved. Empty: the recipe's seed."""

    @property
    def trainings(self) -> int:
        """How often train.max_steps are taken: the naive loop shares the first round."""
        return (self.rounds + (self.rounds - 1) * self.naive) * max(1, len(self.seeds))
