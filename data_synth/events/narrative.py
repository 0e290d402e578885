"""Do two neighbouring sentences of an English description follow each other in time, or overlap? From the text alone.

Sentences written one after the other are no proof of order: in ActivityNet Captions the intervals of one neighbouring
pair in four overlap. What speaks for an overlap: an opening sentence that sums the clip up, an activity without an end
(playing, dancing, riding), crowds and bystanders, a new participant introduced by "a", places in the background. What
speaks for a sequence: connectives, a pronoun that carries the story on, cuts and titles, verbs that end (put, throw,
open). The weights are multiples of 0.05 set by hand while looking at logistic fits on captions with known timestamps.
"""

import re
from collections.abc import Sequence
from functools import lru_cache, reduce
from itertools import accumulate, pairwise
from math import inf
from operator import or_

from data_synth.events.nouns import same_referent, subject_of, words_of

ATELIC = (
    r"play\w*|danc\w+|perform\w*|rides?|riding|wash\w*|practic\w+|exercis\w+|swim\w*|skat\w+|ski\w*|surf\w*|work\w*"
)
CROWD = "people|group|several|many|crowd|men|women|kids|children|boys|girls|players|team"
SHOT = "screen|titles?|logo|text|words|credits|intro|scene|shots?|clips?|appears?"
TELIC = (
    "puts?|picks?|takes?|throws?|pours?|adds?|jumps?|falls?|stops?|opens?|closes?|grabs?|gets?|lands?|removes?|"
    "turns?|places?|walks?|runs?"
)
LOOKS = "wears|wearing|shirt|dressed"
POSTURE = "sits|sitting|stands|standing|lies|lying|holds|holding"
TALKS = r"talk\w*|speak\w*|explain\w*|demonstrat\w*|shows|showing|describ\w*|interview\w*"

# (weight, pattern): above 0 speaks for an overlap. WORD patterns match one word anywhere, OPENING ones the first word,
# PHRASE ones any stretch of the sentence, looked for where it holds one of the words behind. Once per sentence.
FIRST_WORD = (
    (0.50, ATELIC + "|routine|game|match"),
    (0.30, CROWD),
    (0.15, "sits|sitting|stands|standing|wears|wearing|lies|lying|behind"),
    (0.40, "various|demonstrates?"),
    (-0.40, "shows|begins?|outside"),
    (-0.55, SHOT),
    (-0.15, TELIC),
)
FIRST_OPENING = ((-0.20, "he|she|they|it|we"), (-0.15, "a|an|two|three|several|some|many|there"))
FIRST_PHRASE = (
    (0.25, r"\b(?:is|are) (?:\w+ly )?(?!seen|shown)\w+ing\b", "is are"),
    (0.15, r"\b(?:as well as|clips of|while the)\b", "well clips while"),
    (-0.55, r"\b(?:is|are) (?:seen|shown)\b", "seen shown"),
    (-0.30, r"\bthere (?:is|are)\b", "there"),
    (-0.20, r"\bfollowed by\b", "followed"),
)
SECOND_WORD = (
    (0.55, "first"),
    (0.45, "camera"),
    (0.40, r"watch\w*|look\w*|cheer\w*|crowd|audience|spectators|background|behind|sides?|beside|nearby"),
    (0.25, r"continu\w*|keeps?|still"),
    (-0.30, "again"),
    (0.30, POSTURE + "|" + LOOKS),
    (0.45, "walking|moving|towards"),
    (-0.20, "and"),
    (0.20, "them|him|his|her"),
    (0.20, "around"),
    (-0.40, TALKS),
    (-0.45, "then|next|after|afterwards|later"),
    (-0.40, r"finally|before|ends?|finish\w*"),
    (-0.20, "various|different|more|other|another"),
    (-0.20, ATELIC),
    (-0.10, "begins?|starts?"),
)
SECOND_OPENING = (
    (0.45, "a|an|another|two|three|several|some|many|there|one|other"),
    (-0.45, "he|she|they|it|we"),
)
SECOND_PHRASE = (
    (0.85, r"\bnext to\b", "next"),  # 0.45 of it takes back the connective "next"
    (0.25, r"\bas well\b|\bthe (?:right|left)\b", "well right left"),
    (-0.50, r"\b(?:is|are) (?:seen|shown)\b", "seen shown"),
)

OPENING, AFTER_OPENING, CLOSING, TWO, THREE = 0.60, 0.45, -0.10, 0.45, 0.0
ALONG, MANY, STRANGER = -0.60, -0.30, 0.30
"""From the opening to the end of the caption; more than eight sentences, each then a short stretch of the
clip; a second sentence about another known participant ("the dog")."""
WORDS_FIRST, WORDS_SECOND = -0.15, -0.40
"""Per ten words, up to thirty: a long sentence tells a stretch of the story, a short one glosses another."""

PAUSE = -0.45
"""A second sentence with a comma or semicolon inside."""

_LETTERS = re.compile(r"[a-z]+")
_PAUSE = re.compile(r"\w[,;] ")
_ROWS = tuple(re.compile("|".join(row[-1].split())) for row in FIRST_WORD + SECOND_WORD + FIRST_PHRASE + SECOND_PHRASE)
"""The words that each row of the tables waits for; the rows are the bits of what `_cues` finds."""
_ANY = re.compile("|".join(row.pattern for row in _ROWS))
_ENDS = list(accumulate(map(len, (FIRST_WORD, SECOND_WORD, FIRST_PHRASE, SECOND_PHRASE)), initial=0))
_FIRST, _SECOND, _FIRST_PHRASES, _SECOND_PHRASES = ((1 << high) - (1 << low) for low, high in pairwise(_ENDS))
"""Which bits of `_cues` are whose."""
_WEIGHTS = [row[0] for row in FIRST_WORD + SECOND_WORD + FIRST_PHRASE + SECOND_PHRASE]
_PHRASES = [
    None if len(row) == 2 else re.compile(row[1]) for row in FIRST_WORD + SECOND_WORD + FIRST_PHRASE + SECOND_PHRASE
]
_OPENINGS = tuple(
    tuple((weight, re.compile(pattern)) for weight, pattern in table) for table in (FIRST_OPENING, SECOND_OPENING)
)


@lru_cache(maxsize=16384)
def _cues(word: str) -> int:
    """Which rows of the tables a word matches, as bits."""
    if _ANY.fullmatch(word) is None:
        return 0
    return sum(1 << k for k, row in enumerate(_ROWS) if row.fullmatch(word))


@lru_cache(maxsize=16384)
def _opening(word: str) -> tuple[float, float]:
    """Sums of the weights of what the first word of a first and of a second sentence matches."""
    first, second = (sum(weight for weight, pattern in table if pattern.fullmatch(word)) for table in _OPENINGS)
    return first, second


@lru_cache(maxsize=4096)
def _rows(cues: int) -> list[int]:
    """Which bits are set."""
    return [k for k in range(len(_ROWS)) if cues >> k & 1]


@lru_cache(maxsize=4096)
def _weight(cues: int) -> float:
    """Sum of the weights of these rows."""
    return sum([_WEIGHTS[k] for k in _rows(cues)])


def _phrases(cues: int, low: str) -> float:
    """Sum of the weights of those of these phrases that a sentence holds."""
    return sum([_WEIGHTS[k] for k in _rows(cues) if _PHRASES[k].search(low)]) if cues else 0


@lru_cache(maxsize=1024)
def _scores(sentence: str) -> tuple[float, float]:
    """Sum of the weights of the cues in one sentence: as the first of two neighbours, and as the second."""
    low = sentence.lower()
    found = _LETTERS.search(low)
    if found is None:
        return 0.0, 0.0
    cues = reduce(or_, map(_cues, words_of(sentence.rstrip("."))))
    opens_first, opens_second = _opening(found[0])
    length = min(low.count(" ") + 1, 30) / 10
    pause = PAUSE if (", " in low or "; " in low) and _PAUSE.search(low) else 0.0
    return (
        WORDS_FIRST * length + _weight(cues & _FIRST) + opens_first + _phrases(cues & _FIRST_PHRASES, low),
        WORDS_SECOND * length + _weight(cues & _SECOND) + opens_second + _phrases(cues & _SECOND_PHRASES, low) + pause,
    )


def overlap_risk(sentences: Sequence[str], first: int, most: float = inf) -> float:
    """Score of sentences `first` and `first + 1`: the higher, the likelier that they happen at the same time. What
    exceeds `most` may lack the weight of a stranger, which takes the longest to find."""
    place = OPENING if first == 0 else AFTER_OPENING if first == 1 else 0.0
    place += CLOSING if first == len(sentences) - 2 else 0.0
    place += TWO if len(sentences) == 2 else THREE if len(sentences) == 3 else 0.0
    place += ALONG * first / len(sentences) + (MANY if len(sentences) > 8 else 0.0)
    a, b = sentences[first].strip(), sentences[first + 1].strip()
    said_a, said_b = _scores(a)[0], _scores(b)[1]
    risk = round(place + said_a + said_b, 4)
    if risk > most or b[:4].lower() != "the ":
        return risk
    if same_referent(subject_of(a.rstrip(".")), subject_of(b.rstrip("."))):  # without: read so again by the swap
        return risk
    return round(place + STRANGER + said_a + said_b, 4)
