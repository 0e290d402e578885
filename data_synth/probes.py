"""Blind probes: what can be told about a pair from the two texts alone, with nobody looking at the picture.

A probe turns a text into named numbers; the difference chosen - rejected feeds a linear classifier without
intercept, so
that swapping the two turns the sign and 0.5 means no leak. Folds are grouped by source: the same caption on both
sides of
a split tells the classifier the answer.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import scipy.sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression

from data_synth.events import detect_language, en, zh
from data_synth.events.en_tokens import plain_words

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
    plain = plain_words(text)
    return _WORD.findall(text.lower()) if plain is None else plain


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
        _add_unit(counts, units, k)
    return counts


def _add_unit(counts: Features, units: list[str], k: int) -> None:
    """Add the features of one sentence."""
    found = words(units[k])
    if not found:
        return
    front, back = f"f{min(k, 3)} ", f"b{min(len(units) - 1 - k, 2)} "
    opening = "opens " + " ".join(found[:2])
    get = counts.get
    name = _follows(units, k)
    counts[name] = get(name, 0.0) + 1.0
    for word in (*found, opening):
        name = front + word
        counts[name] = get(name, 0.0) + 1.0
        name = back + word
        counts[name] = get(name, 0.0) + 1.0
        name = "mean " + word
        counts[name] = get(name, 0.0) + k


def _follows(units: list[str], k: int) -> str:
    """The feature that sentence k opens with its word after the opening word of the sentence before."""
    return f"after {''.join(words(units[k - 1])[:1] if k else [])} {words(units[k])[0]}"


_SLOTS = ("f0 ", "f1 ", "f2 ", "f3 ", "b0 ", "b1 ", "b2 ", "mean ", "w ", "")
_BACK, _MEAN, _SINGLE, _PLAIN = 4, 7, 8, 9


def moved(pairs: Iterable[tuple[str, str]], buckets: int = BUCKETS) -> scipy.sparse.csr_matrix:
    """position(chosen) - position(rejected) plus the same for single words, hashed, Float[n, buckets].

    Sentences that both have in place are skipped. Words are numbered and their features counted in arrays: thousands of
    pairs share the same few names.
    """
    known: dict[str, int] = defaultdict(lambda: len(known))
    units, held, follows, row = [], [], [], -1
    for row, (chosen, rejected) in enumerate(pairs):
        left, right = _units(chosen), _units(rejected)
        same = len(left) == len(right)
        for sign, told, others in ((1.0, left, right), (-1.0, right, left)):
            for k, unit in enumerate(told):
                stays = same and unit == others[k]
                if stays and (not k or told[k - 1] == others[k - 1]):
                    continue
                found = words(unit)
                if found:
                    follows.append((row, sign, known[_follows(told, k)]))
                if found and not stays:
                    units.append((row, sign, k, min(k, 3), min(len(told) - 1 - k, 2), len(found)))
                    held += map(known.__getitem__, found)
                    held.append(known["opens " + " ".join(found[:2])])
    return _hashed_places(known, units, held, follows, (row + 1, buckets))


def _hashed_places(known: dict[str, int], units: list, held: list, follows: list, shape: tuple[int, int]):
    """Rows of the counts of `moved`: `units` are (row, sign, place, from the front, from the back, words), `held` the
    numbers of their words, each list closed by its opening, `follows` further (row, sign, number of a name)."""
    table = np.array(units, dtype=int).reshape(-1, 6)
    ends = np.cumsum(table[:, 5] + 1) - 1
    row, sign, place, front, back, _ = np.repeat(table, table[:, 5] + 1, axis=0).T
    word = np.array(held, dtype=int) * len(_SLOTS)
    single = np.ones(len(word), bool)
    single[ends] = False
    other = np.array(follows, dtype=int).reshape(-1, 3)
    rows = np.concatenate([row, row, row, row[single], other[:, 0]])
    plain = other[:, 2] * len(_SLOTS) + _PLAIN
    keys = np.concatenate([word + front, word + _BACK + back, word + _MEAN, word[single] + _SINGLE, plain])
    values = np.concatenate([sign, sign, sign * place, sign[single], other[:, 1]])
    columns = np.zeros(len(known) * len(_SLOTS), dtype=int)
    columns[keys] = 1
    used, texts = np.flatnonzero(columns), list(known)
    names = (((_SLOTS[key % len(_SLOTS)] + texts[key // len(_SLOTS)], 1.0),) for key in used.tolist())
    columns[used] = FeatureHasher(shape[1], input_type="pair", alternate_sign=False).transform(names).indices
    matrix = scipy.sparse.coo_matrix((values.astype(float), (rows, columns[keys])), shape=shape).tocsr()
    matrix.eliminate_zeros()
    return matrix


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


def margins(
    matrix: scipy.sparse.csr_matrix, fold: np.ndarray, strength: float = 1.0, solver: str = "liblinear"
) -> np.ndarray:
    """Held-out margin of each pair, Float[n]: above 0 the probe picks the chosen text, 0 is a tie.

    `solver` as in scikit-learn: "newton-cg" takes half the time on counts; the audit's columns differ too much in size.
    """
    out = np.zeros(matrix.shape[0])
    matrix = matrix[:, np.unique(matrix.indices)]  # the solver walks over every column, also over empty ones
    for k in range(int(fold.max()) + 1):
        test = np.flatnonzero(fold == k)
        train = np.flatnonzero(fold != k)
        if not len(test) or len(train) < 2 or matrix[train].nnz == 0:
            continue
        flip = np.where(np.arange(len(train)) % 2 == 0, 1.0, -1.0).astype(matrix.dtype)
        model = LogisticRegression(C=strength, solver=solver, fit_intercept=False, tol=1e-3)
        model.fit(flipped(matrix[train], flip), flip)
        out[test] = matrix[test] @ model.coef_[0]
    return out


def flipped(matrix: scipy.sparse.csr_matrix, sign: np.ndarray) -> scipy.sparse.csr_matrix:
    """Each row times its sign, so that a classifier sees both classes."""
    data = matrix.data * np.repeat(sign, np.diff(matrix.indptr))
    return scipy.sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def hits(margin: np.ndarray) -> np.ndarray:
    """1 where the chosen text was picked, 0 where the rejected one, 0.5 for a tie."""
    return np.where(margin > 0, 1.0, np.where(margin < 0, 0.0, 0.5))
