"""Pairs of English clauses that share somebody or something under another name, so that neither may come first."""

import re

from data_synth.events import en_words as words
from data_synth.events.nouns import INDEFINITE, PLURAL_HEADS, head, noun_phrases, singular, singulars_of, words_of

_JOINED = re.compile(r"\band\b")
_SET = re.compile(r"\ba (?:set|pair|bunch|pile|stack|row|bag|box) of (?:\w+ )?(\w+s)\b", re.IGNORECASE)
_MANY = PLURAL_HEADS | {"boys", "girls", "ladies", "males", "females", "guys", "players", "dancers"}


def bridged(first: str, second: str, first_subject: str, second_subject: str, before: str) -> bool:
    """Would `second` speak too early of what `first` brings in: half of its subject ("a male … the man and the male"),
    one of a set ("a set of weights … the weight"), or some of many ("people … the women", where nothing stands
    before)?"""
    if _half_of(first_subject, second_subject):
        return True
    sets = {singular(found[1].lower()) for found in _SET.finditer(first)} if " of " in first else set()
    if sets:
        sets -= singulars_of(before)
        if any(p.determiner == "the" and singular(p.head) in sets for p in noun_phrases(second)):
            return True
    who = head(second_subject)
    opens = not before and second_subject[:4].lower() == "the " and who in _MANY
    if not opens or words_of(first).isdisjoint(_MANY):
        return False
    return who not in {p.head for p in noun_phrases(first) if p.determiner in INDEFINITE}


def _half_of(one: str, other: str) -> bool:
    """Does the second subject hold the first one, which is new ("a male … the man and the male")?"""
    new = one[:2].lower() == "a " or one[:3].lower() == "an "
    short = len(other.split()) <= 7  # longer ones are clauses whose verb was not found
    return new and short and _JOINED.search(other) is not None and head(one) in words_of(other)


def subject_it(clause: str, place: int) -> bool:
    """Is the "it" that ends at `place` a subject: "it's", "it is", "it breaks"?"""
    following = re.match(r"['’]s\b| (\w+)", clause[place:])
    if following is None:
        return False
    word = (following[1] or "is").lower()
    return word in words.AUXILIARIES or words.verb_forms().get(word, ("", ""))[1] == "third"
