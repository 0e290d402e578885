"""Do two neighbouring sentences of an English description follow each other in time, or overlap? From the text alone.

Sentences written one after the other are no proof of order: in ActivityNet Captions the intervals of one neighbouring
pair in four overlap. What speaks for an overlap: an opening sentence that sums the clip up, an activity without an end
(playing, dancing, riding), crowds and bystanders, a new participant introduced by "a", places in the background. What
speaks for a sequence: connectives, a pronoun that carries the story on, cuts and titles, verbs that end (put, throw,
open). The weights are multiples of 0.05 set by hand while looking at logistic fits on captions with known timestamps.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from data_synth.events.nouns import same_referent, subject_of

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

_WORD = re.compile(r"[a-z]+")
_PAUSE = re.compile(r"\w[,;] ")
_COMPILED = {
    name: tuple((weight, re.compile(pattern)) for weight, pattern in table)
    for name, table in {
        "first": FIRST_WORD,
        "second": SECOND_WORD,
        "first opening": FIRST_OPENING,
        "second opening": SECOND_OPENING,
    }.items()
}
_PHRASES = {
    name: tuple((weight, re.compile(pattern), frozenset(held.split())) for weight, pattern, held in table)
    for name, table in {"first": FIRST_PHRASE, "second": SECOND_PHRASE}.items()
}


@lru_cache(maxsize=65536)
def _cues(word: str) -> tuple[int, int]:
    """Which patterns of the first and of the second sentence's table a word matches, as bits."""
    first, second = (
        sum(1 << k for k, (_, pattern) in enumerate(_COMPILED[table]) if pattern.fullmatch(word))
        for table in ("first", "second")
    )
    return first, second


@lru_cache(maxsize=65536)
def _weight(table: str, cues: int) -> float:
    """Sum of the weights of a set of patterns given as bits."""
    return sum(weight for k, (weight, _) in enumerate(_COMPILED[table]) if cues >> k & 1)


@lru_cache(maxsize=65536)
def _opening(table: str, word: str) -> float:
    """Sum of the weights of what the first word matches."""
    return sum(weight for weight, pattern in _COMPILED[table] if pattern.fullmatch(word))


def _phrases(table: str, low: str, held: set[str]) -> float:
    """Sum of the weights of the phrases in a sentence that holds these words."""
    rows = _PHRASES[table]
    return sum([weight for weight, pattern, needed in rows if not held.isdisjoint(needed) and pattern.search(low)])


@lru_cache(maxsize=4096)
def _scores(sentence: str) -> tuple[float, float]:
    """Sum of the weights of the cues in one sentence: as the first of two neighbours, and as the second."""
    low = sentence.lower()
    found = _WORD.findall(low)
    if not found:
        return 0.0, 0.0
    held = set(found)
    first = second = 0
    for cues in map(_cues, held):
        first |= cues[0]
        second |= cues[1]
    length = min(low.count(" ") + 1, 30) / 10
    pause = PAUSE if (", " in low or "; " in low) and _PAUSE.search(low) else 0.0
    return (
        WORDS_FIRST * length
        + _weight("first", first)
        + _opening("first opening", found[0])
        + _phrases("first", low, held),
        WORDS_SECOND * length
        + _weight("second", second)
        + _opening("second opening", found[0])
        + _phrases("second", low, held)
        + pause,
    )


def overlap_risk(sentences: Sequence[str], first: int) -> float:
    """Score of sentences `first` and `first + 1`: the higher, the likelier that they happen at the same time."""
    place = OPENING if first == 0 else AFTER_OPENING if first == 1 else 0.0
    place += CLOSING if first == len(sentences) - 2 else 0.0
    place += TWO if len(sentences) == 2 else THREE if len(sentences) == 3 else 0.0
    place += ALONG * first / len(sentences) + (MANY if len(sentences) > 8 else 0.0)
    a, b = sentences[first].strip(), sentences[first + 1].strip()
    if b[:4].lower() == "the " and not same_referent(subject_of(a), subject_of(b)):
        place += STRANGER
    return round(place + _scores(a)[0] + _scores(b)[1], 4)
