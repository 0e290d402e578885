"""The keys of `pairs:` and `feedback:`, where preference data comes from; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlkit.recipe.marks import Between
from rlkit.recipe.units import Amount, Count, CountOrZero, Share


@dataclass(frozen=True)
class PairMaking:
    """For `algorithm: pairs`: how captions become preference pairs. `negatives`, `num_negatives` and `seed` apply."""

    balance: Literal["off", "blind", "length", "both"] = "both"
    """blind: thin the answers of each negative until text-only probes cannot tell them; length: keep only answers with
    a mirror image in length. A row may end with fewer than num_negatives, or none."""
    parser: Literal["rules", "spacy", "jieba"] = "rules"
    """What finds the events; spacy and jieba see more, at a tenth of the speed."""
    splits: dict[str, Share] = field(default_factory=dict)
    """Name -> share, adding up to 1, for example {train: 0.9, test: 0.1}; each becomes a folder. Near-duplicates and
    captions of one clip stay together. Needs `pip install 'rlkit[data]'`."""
    near_duplicate: Annotated[float, Between(0.01, 1)] = 0.8
    """Overlap (Jaccard, of four-word runs) above which two captions count as near-duplicates."""
    rows_per_shard: Count = 5000
    """Captions per parquet file: the unit of work, of resuming and of matching lengths."""
    workers: CountOrZero = 0
    """Processes on this machine; 0 works in the launched process. The pairs are the same for any number."""
    engine: Literal["local", "ray"] = "local"
    """ray runs the same functions as tasks on Ray; the run folder must lie on storage all machines share. Needs
    `pip install 'rlkit[ray]'`."""
    personal_data: Literal["keep", "mask", "mask_names"] = "keep"
    """mask replaces e-mail and IP addresses, links, phone and card numbers by their kind; mask_names also English names
    of persons, at spaCy's speed. Needs `pip install 'rlkit[personal]'`."""
    question: dict[Literal["en", "zh"], str] = field(
        default_factory=lambda: {"en": "Describe the video.", "zh": "请描述视频。"}
    )
    """What is asked about a clip, by the language of its caption, where the row asks nothing itself."""
    licence: str | None = None
    """Of rows that do not say their own."""
    consent: str | None = None
    """Of rows that do not say their own, for example `contract 2026-03`."""


@dataclass(frozen=True)
class Feedback:
    """For `algorithm: feedback`: how a log of clicks becomes rewards and pairs. `seed` is that of the simulated log."""

    metric: Literal["click", "conversion", "conversion_per_click", "continuation"] = "click"
    """What an item is worth: clicks or conversions per view at the first place, conversions per click, or the share of
    viewers who went on after it."""
    method: Literal["snips", "ips", "clipped", "dr"] = "snips"
    """How the logging policy's propensities are used. ips needs items that could be shown all along; dr also uses
    `context`; what is measured per click takes snips."""
    interval: Literal["wilson", "normal"] = "wilson"
    """Of each item's value. normal is too short for few clicks."""
    position: Literal["fitted", "randomised", "off"] = "fitted"
    """How likely each place is looked at: from items that came to several places, from the propensities, or all
    alike."""
    delay: Literal["exponential", "free", "off"] = "exponential"
    """Of conversions: exponential for all items, any shape (counting those within a window), or none: all have come."""
    min_ess: Annotated[float, Between(2, 1e9)] = 100.0
    """Items with a smaller effective sample size get no reward and no pair."""
    multiplicity: Literal["fdr", "familywise"] = "fdr"
    """error_rate is the expected share of wrong pairs, or the probability of a single wrong one; the latter makes
    fewer pairs."""
    error_rate: Annotated[float, Between(1e-6, 0.5)] = 0.05
    """How sure pairs must be, over all comparisons of the log together."""
    guards: dict[str, Literal["higher", "lower"]] = field(default_factory=dict)
    """Column of the log -> which end is good, for example {reported: lower}: what engages but is worse there makes no
    pair and its reward is capped."""
    guard_margin: Amount = 0.05
    """How much worse counts as as good, in the unit of the guarded column."""
    session_gap: Amount = 1800.0
    """Seconds without a further page after which a session is over, for `metric: continuation`."""
    rename: dict[str, str] = field(default_factory=dict)
    """Our column -> the log's, for example {propensity: propensity_score}."""
