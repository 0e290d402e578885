"""What captions are alike: overlap of runs of four words, and how many events they tell.

A loop that learns from its best captions drifts to short ones, which have less to be wrong about, and to the same ones.
Clusters are captions that tell as many events, so that a quota each keeps the mix of lengths; overlap finds copies and
near-duplicates, and the number of different runs in the captions of the same clips is the diversity. It falls when
captions get alike and when they get short; a share of different runs would rise with shortness.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from data_synth.events import parse
from data_synth.lineage import shingles
from rlkit.bootstrap.choose import Decision, best_first


def overlap(one: set[str], other: set[str]) -> float:
    """Jaccard overlap of two sets of runs, 1 for the same."""
    return len(one & other) / len(one | other)


def diversity(captions: Sequence[str]) -> int:
    """The number of different runs of four words in captions of one set of clips; compare sets of one size alone."""
    return len(set().union(*map(shingles, captions)))


def told(text: str, most: int) -> int:
    """How many events a caption tells, `most` or more counting as `most`; 0 for none."""
    return min(len(parse(text).events), most) if text.strip() else 0


def likeness_of(texts: Sequence[str], originals: Sequence[str], *, near: float, clusters: int) -> list[Decision]:
    """Of each caption its cluster, and the nearest original; more overlap than `near` makes it a copy."""
    known, runs_of = [shingles(one) for one in originals], {text: shingles(text) for text in texts}
    found = {}
    for text, runs in runs_of.items():
        overlaps = [overlap(runs, one) for one in known]
        nearest = max(range(len(known)), key=lambda at: overlaps[at])
        found[text] = (told(text, clusters), nearest, 1 - overlaps[nearest], overlaps[nearest] >= near)
    return [Decision(*found[text]) for text in texts]


def shares(decisions: Sequence[Decision]) -> dict[int, float]:
    """The share of each cluster among all samples of a round."""
    counts = Counter(one.cluster for one in decisions)
    return {cluster: count / len(decisions) for cluster, count in counts.items()}


def one_a_clip(
    totals, clips: Sequence[str], texts: Sequence[str], near: float
) -> Callable[[int, Sequence[int]], str | None]:
    """What choose.accept asks: only the best caption of a clip counts, and none that overlaps with an accepted one by
    `near` or more. Runs are indexed, so that a caption is compared only with those it shares one with."""
    best: dict[str, int] = {}
    for at in best_first(totals):
        best.setdefault(clips[at], at)
    index: Mapping[str, list[int]] = defaultdict(list)
    sizes: dict[int, int] = {}

    def refused(at: int, accepted: Sequence[int]) -> str | None:
        if best[clips[at]] != at:
            return f"sample {best[clips[at]]} of its clip is better"
        for new in accepted[len(sizes) :]:
            runs = shingles(texts[new])
            sizes[new] = len(runs)
            for run in runs:
                index[run].append(new)
        mine = shingles(texts[at])
        shared = Counter(other for run in mine for other in index.get(run, ()))
        overlaps = {other: count / (len(mine) + sizes[other] - count) for other, count in shared.items()}
        twin = max(overlaps, key=lambda other: overlaps[other], default=None)
        return None if twin is None or overlaps[twin] < near else f"a near-duplicate of sample {twin}"

    return refused
