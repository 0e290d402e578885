"""What pair making depends on, as plain values that travel to worker processes and into fingerprints."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_synth.records import content_id

RUBRIC_VERSION = "1"
"""Of the rules that say why a rejected answer is wrong and which tier a pair has; goes up when they change."""
LENGTH_KINDS = frozenset(["truncated", "verbose", "drop_event", "insert_event"])
"""Operators that change the length by design: no blind probe could be fitted that leaves any of them; they are made
neutral together, by matching."""


@dataclass(frozen=True)
class Operator:
    """One operator of data_synth/negatives, by name or by the path of a file, with its share and options."""

    name: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """All that the pairs depend on besides the captions."""

    operators: list[Operator]
    num_negatives: int = 4
    seed: int = 0
    questions: dict[str, str] = field(default_factory=lambda: {"en": "Describe the video.", "zh": "请描述视频。"})
    """What is asked about a clip, per language of its caption, where the row asks nothing itself."""
    parser: str = "rules"
    """What finds the events: rules, spacy or jieba."""
    balance: Literal["off", "blind", "length", "both"] = "both"
    """blind: thin each operator until blind probes fail; length: match longer and shorter rejected answers."""
    splits: dict[str, float] = field(default_factory=dict)
    """Name -> share, adding up to 1; empty: one set."""
    near_duplicate: float = 0.8
    """Jaccard overlap above which two captions go to the same split."""
    rows_per_shard: int = 5_000
    personal_data: Literal["keep", "mask", "mask_names"] = "keep"
    """See data_synth/personal.py."""
    licence: str | None = None
    consent: str | None = None
    """For rows that do not say their own."""

    @property
    def wanted(self) -> int:
        """Candidates per row: more than are kept, because balancing drops some."""
        return self.num_negatives if self.balance == "off" else -(-3 * self.num_negatives // 2)

    def making(self) -> dict[str, Any]:
        """The part that decides which candidates a row gets; others may change without making them anew."""
        names = ("seed", "parser", "personal_data")
        about = {name: value for name, value in asdict(self).items() if name in names}
        mirrored = self.balance in ("length", "both")
        return {**about, "operators": [asdict(o) for o in self.operators], "wanted": self.wanted, "mirrored": mirrored}

    def fingerprint(self) -> str:
        """Changes when any option does."""
        return content_id(asdict(self), RUBRIC_VERSION)
