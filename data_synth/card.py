"""The card of a folder of pairs: a README.md that the Hugging Face hub reads and that says what is in the data."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_synth.records import REJECTED_NAME, Rejected, read_records, shards_of, text_of
from data_synth.whole import whole

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LINEAGE = (
    ("pair_id", "depends on prompt, media and answers alone, so the same pair has the same id everywhere"),
    ("source_id", "the clip or caption row it was made from"),
    ("parent_id", "depends on that row's content, so that an edited caption is noticed"),
    ("operator, options, seed", "what made it, with which options"),
    ("rejected_kind, edit", "what is wrong with each rejected answer, and where"),
    ("tier, scores, rubric_version", "how far it can be trusted, and what rewards said of it"),
    ("licence, consent", "of the source"),
)


@dataclass
class Counts:
    """What is in a folder of pairs."""

    pairs: int = 0
    answers: int = 0
    """Rejected answers of all pairs."""
    sources: int = 0
    chosen_characters: int = 0
    rejected_characters: int = 0
    kinds: Counter = field(default_factory=Counter)
    operators: Counter = field(default_factory=Counter)
    licences: Counter = field(default_factory=Counter)
    tiers: Counter = field(default_factory=Counter)
    media: Counter = field(default_factory=Counter)
    languages: Counter = field(default_factory=Counter)
    quarantined: Counter = field(default_factory=Counter)
    """Quarantined rows by the field that was wrong."""
    quarantined_rows: int = 0

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of another part of the folder, as `vars` gives them."""
        for name, value in other.items():
            if isinstance(value, Mapping):
                vars(self)[name].update(value)
            else:
                vars(self)[name] += value

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Count one record; its source is the caller's to count."""
        self.pairs += 1
        self.answers += len(row["rejected"])
        chosen = text_of(row["chosen"])
        self.chosen_characters += len(chosen)
        self.rejected_characters += sum(len(text_of(messages)) for messages in row["rejected"])
        self.kinds.update(row["rejected_kind"])
        self.operators.update((row["operator"] or "not said").split("+"))
        self.licences[row["licence"] or "not said"] += 1
        self.tiers[row["tier"] or "none"] += 1
        self.media["video" if row["videos"] else "image" if row["images"] else "text"] += 1
        self.languages["zh" if any("\u4e00" <= c <= "\u9fff" for c in chosen) else "en"] += 1

    def add_rejected(self, path: Path) -> None:
        """Count the rows of a quarantine file, if it is there."""
        if path.exists():
            with path.open(encoding="ascii") as file:
                for line in file:
                    about = json.loads(line)
                    self.quarantined_rows += 1
                    self.quarantined.update(Rejected(about["where"], about["reasons"]).fields())


def count(folder: str | Path) -> Counts:
    """Count a folder of pairs in one pass over its rows."""
    folder, counts, sources = Path(folder), Counts(), set()
    for row in read_records(folder):
        counts.add_row(row)
        sources.add(row["source_id"])
    counts.sources = len(sources - {None})
    counts.add_rejected(folder / REJECTED_NAME)
    return counts


def splits_of(folder: Path) -> list[str]:
    """Names of the splits of a folder of pairs; empty where it is one set."""
    return sorted({path.parent.name for path in shards_of(folder) if path.parent != folder})


def write_card(folder: str | Path, *, name: str | None = None, audit: Mapping[str, Any] | None = None) -> Path:
    """Write README.md into a folder of pairs. audit: what `rlkit audit --json` gives for it, to be shown;
    by default audit.json of the folder, where there is one."""
    folder = Path(folder)
    if audit is None and (folder / "audit.json").is_file():
        audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    text = card(count(folder), name or folder.resolve().name, audit, splits_of(folder))
    with whole(folder / "README.md", "w") as file:
        file.write(text)
    return folder / "README.md"


def card(counts: Counts, name: str, audit: Mapping[str, Any] | None = None, splits: Sequence[str] = ()) -> str:
    """The text of the card."""
    answers = max(counts.answers, 1)
    lengths = (counts.chosen_characters / max(counts.pairs, 1), counts.rejected_characters / answers)
    sources = f" from {counts.sources:,} sources" if counts.sources else ""
    files = "*/pairs-*.parquet" if splits else "pairs-*.parquet"
    lines = [
        _metadata(counts, name, splits),
        f"# {name}",
        "",
        f"{counts.pairs:,} preference pairs with {counts.answers:,} rejected answers{sources} ({_mix(counts.media)}). "
        f"Chosen answers have {lengths[0]:.0f} characters on average, rejected ones {lengths[1]:.0f}.",
        "",
        "```python",
        f'load_dataset("parquet", data_files="{files}")  # prompt, videos | images, chosen, rejected (a list)',
        "```",
        "`rlkit data export` writes TRL, ms-swift and LLaMA-Factory rows, one per rejected answer.",
        "",
        *_table("What is wrong with the rejected answers", "kind", counts.kinds, answers),
        *_table("What made the pairs", "operator", counts.operators, max(counts.pairs, 1)),
        *_table("Licences of the sources", "licence", counts.licences, max(counts.pairs, 1)),
    ]
    if set(counts.tiers) != {"none"}:
        lines += _table("Tiers", "tier", counts.tiers, max(counts.pairs, 1))
    if audit is not None:
        lines += _audit(audit)
    lines += _quarantine(counts)
    lines += ["## Lineage", ""] + [f"- `{columns}`: {meaning}." for columns, meaning in LINEAGE] + [""]
    return "\n".join(lines)


def _metadata(counts: Counts, name: str, splits: Sequence[str]) -> str:
    size = next((label for limit, label in SIZES if counts.pairs < limit), "n>1M")
    licences = sorted(licence.lower() for licence in counts.licences if licence != "not said")
    kinds = [kind for kind in ("video", "image") if counts.media[kind]]
    task = {"video": "video-text-to-text", "image": "image-text-to-text"}
    lines = ["---", f"pretty_name: {json.dumps(name, ensure_ascii=False)}"]
    if licences and "not said" not in counts.licences:
        lines += ["license:"] + [f"- {json.dumps(licence)}" for licence in licences]
    lines += ["language:"] + [f"- {language}" for language in sorted(counts.languages)] if counts.languages else []
    lines += ["task_categories:"] + [f"- {task[kind]}" for kind in kinds] if kinds else []
    lines += ["size_categories:", f"- {size}", "tags:", "- preference", "- synthetic", "- dpo", "- trl", "- rlkit"]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: {split}/pairs-*.parquet"]
    lines += [] if splits else ["  - split: train", "    path: pairs-*.parquet"]
    return "\n".join([*lines, "---", ""])


def _mix(counter: Counter) -> str:
    return ", ".join(f"{number:,} with {name}" for name, number in counter.most_common()) or "empty"


def _table(title: str, column: str, counter: Counter, total: int) -> list[str]:
    rows = [f"| {name} | {number:,} | {100 * number / total:.1f} % |" for name, number in counter.most_common()]
    return [f"## {title}", "", f"| {column} | number | share |", "|---|---|---|", *rows, ""]


def _audit(audit: Mapping[str, Any]) -> list[str]:
    """Accuracies of probes that see the two texts only; 0.5 means that they cannot tell."""
    probes = [name for name in audit["overall"] if name != "n"]
    rows = [
        f"| {operator} | " + " | ".join(_number(scores.get(probe)) for probe in probes) + " |"
        for operator, scores in [*audit["operators"].items(), ("overall", audit["overall"])]
    ]
    head = "| operator | " + " | ".join(probes) + " |"
    intro = "Share of pairs that a probe gets right without the clip; 0.50 means that it cannot tell."
    return ["## Blind audit", "", intro, "", head, "|---" * (len(probes) + 1) + "|", *rows, ""]


def _number(value: Any) -> str:
    value = value.get("value") if isinstance(value, Mapping) else value
    return f"{value:.2f}" if isinstance(value, int | float) else "-"


def _quarantine(counts: Counts) -> list[str]:
    if not counts.quarantined_rows:
        return []
    fields = ", ".join(f"{name} {number:,}" for name, number in counts.quarantined.most_common())
    return ["## Left out", "", f"{counts.quarantined_rows:,} rows stand in {REJECTED_NAME} ({fields}).", ""]
