"""The keys of `reward:`, heads on a vision encoder; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlkit.recipe.marks import Between, OnDisk
from rlkit.recipe.units import Amount, Count, CountOrZero


@dataclass(frozen=True)
class EncoderReward:
    """For `algorithm: reward`: heads on a vision encoder, which score pictures and frames without reading a prompt."""

    labels: Annotated[str | None, OnDisk("file")] = None
    """For `data.source: folder`: JSONL with one group of labelled pictures or videos a line. null: labels.jsonl in
    data.folder."""
    attributes: list[str] = field(
        default_factory=lambda: ["composition", "exposure", "colour", "sharpness", "artefacts"]
    )
    """Scores beside `overall`, which every model has and which pairs compare unless they name another."""
    vetoes: list[str] = field(default_factory=lambda: ["anatomy"])
    """Faults that are no matter of taste: a likely one lowers overall by about its logit, whatever the other scores."""
    bins: CountOrZero = 5
    """Ordered bins of the distribution of people's ratings; 0 has no such head."""
    levels: CountOrZero = 0
    """For `ratings: ordinal`: how many grades; they are 0, 1, ... in the labels."""
    experts: list[str] = field(default_factory=lambda: ["general", "portrait"])
    """Kinds of pictures with heads of their own; the second looks at the face. One alone has no router."""
    hidden: Count = 64
    """Width of the hidden layer in each expert's heads."""
    features: Literal["pooled", "statistics"] = "pooled"
    """What of the backbone is read: its own pooled output, or mean and spread of every stage, which show texture."""
    window: Annotated[int, Between(32, 4096)] = 64
    """Side in pixels of what an encoder from nothing (`model.init`) looks at; a loaded one has its own."""
    measures: bool = False
    """Also simple measures of the pixels: light, colour, edges, grain, lattices, banding, layout. Networks trained for
    what things are see little of these."""
    pooling: Literal["mean", "attention"] = "mean"
    """Over windows and frames. mean is blind to the order of frames; attention weighs them by content and time."""
    crops: CountOrZero = 4
    """Windows in native resolution per picture, each a pass of the backbone; 0 sees only the whole, scaled down."""
    train_crops: Count | None = None
    """How many of them in training, at random places that change with every epoch; null: as many as `crops`."""
    train_items: Annotated[int, Between(2, 10**9)] | None = None
    """Items of a group that a step looks at, drawn anew in every epoch; null: all. Few of many groups teach more."""
    photo_cuts: CountOrZero = 0
    """For `data.source: gallery`: pictures cut out of each photo and degraded beside the rendered ones. The photos are
    those that scikit-image and scikit-learn ship, and with data.folder also yours, which must be right as they are."""
    photo_folds: Annotated[int, Between(2, 100)] = 4
    """Parts of the photos' scenes. Each is scored by heads trained without it, one more training of `train:` a part;
    where `model.id` is a trained reward they go on from its heads, which may have learnt from it."""
    whole: bool = True
    """Also the whole picture, scaled to one window: composition is not seen in crops."""
    ratings: Literal["gaussian", "regression", "ordinal"] = "gaussian"
    """How ratings are fitted: with a learnt variance, by squared errors, or as grades (proportional odds)."""
    ties: Literal["none", "rao_kupper", "davidson"] = "rao_kupper"
    """Model of pairs that people call equal, its constant learnt per attribute; none is Bradley and Terry's."""
    terms: dict[Literal["pairs", "rankings", "ratings", "distribution", "veto", "route"], Amount] = field(
        default_factory=lambda: {
            "pairs": 1.0, "rankings": 1.0, "ratings": 1.0, "distribution": 1.0, "veto": 1.0, "route": 0.1,
        }
    )  # fmt: skip
    """Weights of the loss's terms; a term not named weighs 0, and one without labels is 0."""
