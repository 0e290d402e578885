"""Blind probes: what can be told about a pair from the two texts alone, with nobody looking at the picture.

A probe turns a text into named numbers; the difference chosen - rejected feeds a linear classifier without
intercept, so
that swapping the two turns the sign and 0.5 means no leak. Folds are grouped by source: the same caption on both
sides of
a split tells the classifier the answer.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import scipy.sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression

from data_synth.events import detect_language, en, zh

Features = dict[str, float]
Probe = Callable[[str], Features]

_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|\d+(?:[.,]\d+)*|[\u3400-\u9fff]|[^\w\s]", re.UNICODE)
_SPACED_MARK = re.compile(r"\s[,.;:!?]")
_LOWER_AFTER_STOP = re.compile(r"[.!?]\s+[a-z]")
_STOPS = re.compile(r"[.!?。！？]+")
BUCKETS = 2**18


@lru_cache(maxsize=1024)
def words(text: str) -> list[str]:
    """Lower-case words, single Chinese characters and marks."""
    return _WORD.findall(text.lower())


def length(text: str) -> Features:
    """Characters, words, sentences."""
    sentences = len(_STOPS.findall(text))
    return {
        "chars": float(len(text)),
        "words": float(len(words(text))),
        "sentences": float(sentences),
        "log_chars": float(np.log1p(len(text))),
    }


def surface(text: str) -> Features:
    """How it is written, not what it says: punctuation, case, spacing, word shapes, and the length."""
    found = words(text)
    counts: Features = dict(length(text))
    chars = Counter(text)
    for mark in ",.;:!?\"'()-，。；：！？、":
        counts[f"mark {mark}"] = float(chars[mark])
    counts["double space"] = float(text.count("  "))
    counts["spaced mark"] = float(len(_SPACED_MARK.findall(text)))
    counts["upper"] = float(sum([number for char, number in chars.items() if char.isupper()]))
    counts["lower after stop"] = float(len(_LOWER_AFTER_STOP.findall(text)))
    counts["starts upper"] = float(text[:1].isupper())
    counts["ends stop"] = float(text.rstrip()[-1:] in ".!?。！？")
    counts["digits"] = float(sum([number for char, number in chars.items() if char.isdigit()]))
    counts["mean word"] = sum(map(len, found)) / max(len(found), 1)
    counts["distinct"] = len(set(found)) / max(len(found), 1)
    counts["repeated"] = float(sum([a == b for a, b in itertools.pairwise(found)]))
    return counts


def ngram(text: str) -> Features:
    """Counts of words and of pairs of neighbouring words (characters in Chinese)."""
    found = ["<s>", *words(text), "</s>"]
    counts = Counter(found[1:-1])
    counts.update(f"{a} {b}" for a, b in itertools.pairwise(found))
    return dict(counts)


def position(text: str) -> Features:
    """Words with the place of their sentence (or clause): from the front, from the back, on average, at its opening."""
    counts: Features = {}
    units = _units(text)
    for k in range(len(units)):
        _add_unit(counts, units, k, 1.0)
    return counts


def _add_unit(counts: Features, units: list[str], k: int, sign: float) -> None:
    """Add the features of one sentence, times `sign`."""
    found = words(units[k])
    if not found:
        return
    front, back = f"f{min(k, 3)} ", f"b{min(len(units) - 1 - k, 2)} "
    opening = "opens " + " ".join(found[:2])
    _add(counts, _follows(units, k), sign)
    get = counts.get
    for word in (*found, opening):
        name = front + word
        counts[name] = get(name, 0.0) + sign
        name = back + word
        counts[name] = get(name, 0.0) + sign
        name = "mean " + word
        counts[name] = get(name, 0.0) + sign * k


def _add(counts: Features, name: str, value: float) -> None:
    if name:
        counts[name] = counts.get(name, 0.0) + value


def _follows(units: list[str], k: int) -> str:
    """The feature that sentence k opens with its word after the opening word of the sentence before; "" without."""
    found = words(units[k])[:1]
    return f"after {''.join(words(units[k - 1])[:1] if k else [])} {found[0]}" if found else ""


def moved(chosen: str, rejected: str) -> Features:
    """position(chosen) - position(rejected) plus the same for single words; skips the sentences that both have in
    place."""
    counts: Features = {}
    left, right = _units(chosen), _units(rejected)
    same = len(left) == len(right)
    single: dict[str, float] = {}
    for sign, units, others in ((1.0, left, right), (-1.0, right, left)):
        for k in range(len(units)):
            if same and units[k] == others[k]:
                if k and units[k - 1] != others[k - 1]:
                    _add(counts, _follows(units, k), sign)
                continue
            _add_unit(counts, units, k, sign)
            for word in words(units[k]):
                single[word] = single.get(word, 0.0) + sign
    counts.update(("w " + word, value) for word, value in single.items() if value)
    return {name: value for name, value in counts.items() if value}


@lru_cache(maxsize=1024)
def _units(text: str) -> list[str]:
    """Sentences; clauses between marks when the text is a single sentence."""
    grammar = zh if detect_language(text) == "zh" else en
    units = [text[s:e] for s, e in grammar.split_sentences(text)]
    if len(units) > 1:
        return units
    return [u for u in re.split(r"[,;，；、]|\b(?:then|and|before|after|while)\b", text) if u.strip()]


PROBES: dict[str, Probe] = {"length": length, "surface": surface, "ngram": ngram, "position": position}


def contrast(probe: Probe, chosen: str, rejected: str) -> Features:
    """features(chosen) - features(rejected), zeros left out."""
    left, right = probe(chosen), probe(rejected)
    row = {k: v - right.get(k, 0.0) for k, v in left.items() if v != right.get(k, 0.0)}
    row.update((k, -v) for k, v in right.items() if k not in left and v)
    return row


def hashed(rows: Iterable[Features], buckets: int = BUCKETS) -> scipy.sparse.csr_matrix:
    """Named numbers as sparse rows, Float[n, buckets]; the hash is the same in every process."""
    return FeatureHasher(buckets, input_type="dict", alternate_sign=False).transform(rows)


def difference(probe: Probe, chosen: list[str], rejected: list[str]) -> scipy.sparse.csr_matrix:
    """Rows of features(chosen) - features(rejected), hashed and scaled, Float[n, BUCKETS]; empty rows are ties."""
    return scaled(hashed(contrast(probe, a, b) for a, b in zip(chosen, rejected, strict=True)))


def scaled(matrix: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Columns divided by their root mean square where it exceeds 1, so that character counts do not drown the rest."""
    squares = np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel()
    return (matrix @ scipy.sparse.diags(1.0 / np.sqrt(np.maximum(squares, 1.0)))).tocsr()


def folds(groups: list[str], number: int, seed: int = 0) -> np.ndarray:
    """Fold of each row, the same for all rows of a group, groups drawn by `seed`; Int[n]."""
    names, inverse = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % number)[inverse]


def margins(matrix: scipy.sparse.csr_matrix, fold: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Held-out margin of each pair, Float[n]: above 0 the probe picks the chosen text, 0 is a tie."""
    out = np.zeros(matrix.shape[0])
    matrix = matrix[:, np.unique(matrix.indices)]  # the solver walks over every column, also over empty ones
    for k in range(int(fold.max()) + 1):
        test = np.flatnonzero(fold == k)
        train = np.flatnonzero(fold != k)
        if not len(test) or len(train) < 2 or matrix[train].nnz == 0:
            continue
        flip = np.where(np.arange(len(train)) % 2 == 0, 1.0, -1.0)
        model = LogisticRegression(C=strength, solver="liblinear", fit_intercept=False, tol=1e-3)
        model.fit(scipy.sparse.diags(flip) @ matrix[train], flip)
        out[test] = matrix[test] @ model.coef_[0]
    return out


def hits(margin: np.ndarray) -> np.ndarray:
    """1 where the chosen text was picked, 0 where the rejected one, 0.5 for a tie."""
    return np.where(margin > 0, 1.0, np.where(margin < 0, 0.0, 0.5))
