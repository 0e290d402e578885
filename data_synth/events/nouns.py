"""Nouns of English captions: the subject of a clause, the head of a noun phrase, and whether two name the same one."""

import re
from functools import lru_cache
from typing import NamedTuple

from data_synth.events import en_words as words
from data_synth.events.en import clause_parts
from data_synth.events.en_tokens import plain_words, tokens, words_in_order

MALE = set("man boy guy male gentleman father dad son king actor he husband waiter".split())
FEMALE = set("woman girl lady female mother mom daughter queen actress she wife bride waitress".split())
_STOPPERS = set("and or but then before after while as when until who that which where so because not is are".split())
_MARKS = {",", "."}
_CLOSERS = _STOPPERS | words.PREPOSITIONS
INDEFINITE = {"a", "an", "some", "two", "three", "four", "five", "six", "several"}
_ANOTHER_ONE = re.compile(r"\b(first|second|third|fourth|last|next|other|same|former|latter)\b", re.IGNORECASE)
NO_PERSON = set(
    """water paper container counter computer color colour mirror door floor motor tower river flower finger number
    cover letter powder butter ladder paint poster banner scooter trailer roller blender mixer toaster dryer clipper
    razor trimmer hammer burner heater printer tractor helicopter elevator indoor outdoor interior exterior exercise
    chair water corner summer winter weather order matter center""".split()
)
PERSONS = (
    MALE
    | FEMALE
    | set(
        """person child kid baby toddler infant player goalie goalkeeper keeper dancer diver rider driver skater surfer
        teacher instructor trainer singer performer drummer guitarist barber stylist hairdresser dealer referee coach
        athlete gymnast artist chef cook lifter jumper thrower bowler swimmer runner boxer wrestler worker reporter
        announcer host speaker skier climber cameraman teen teenager adult cheerleader opponent partner crowd team group
        couple family audience people men women boys girls individual contestant competitor batter pitcher bystander
        spectator narrator mechanic pilot guard clown monk priest nurse student groom judge captain champion model guest
        acrobat lifeguard thief cop fellow grandma grandpa uncle aunt cousin friend hero robot patient victim coach
        figure character""".split()
    )
)
ANIMALS = set("dog cat horse bird puppy kitten monkey bear animal cow bull pig rabbit elephant dolphin".split())
PLURAL_HEADS = set("people men women children kids couple team crowd group family band audience pair".split())
_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "people": "person", "knives": "knife"}


@lru_cache(maxsize=1024)
def words_of(text: str) -> frozenset[str]:
    """The words of a text, in lower case."""
    plain = plain_words(text)
    if plain is None:
        return frozenset(re.findall(r"[a-z]+", text.lower()))
    return frozenset(plain) - _MARKS if "," in text or "." in text else frozenset(plain)


@lru_cache(maxsize=4096)
def subject_of(text: str) -> str:
    """The subject of a clause, or "" where it has none of its own or the rules found no verb."""
    _, span, _ = clause_parts(text, 0, len(text))
    return text[slice(*span)] if span else ""


@lru_cache(maxsize=4096)
def head(noun_phrase: str) -> str:
    """Head noun of a subject: the last word before a preposition, participle or relative pronoun."""
    words_seen = []
    for word in words_in_order(noun_phrase):
        if words_seen and (
            word in words.PREPOSITIONS
            or word in {"who", "that", "which", ",", "and"}
            or (words.verb_forms().get(word, ("", ""))[1] in {"ing", "past"} and word not in words.DETERMINERS)
        ):
            if not (len(words_seen) == 1 and words_seen[0] in words.DETERMINERS):
                break
        words_seen.append(word)
    return words_seen[-1] if words_seen else ""


@lru_cache(maxsize=4096)
def number(noun_phrase: str) -> str:
    """ "sg" or "pl", from the determiner, a coordination, or the ending of the head noun."""
    low = noun_phrase.lower()
    if low in words.SUBJECT_PRONOUNS:
        return words.SUBJECT_PRONOUNS[low]
    first = low.split()[0] if low else ""
    last = head(noun_phrase)
    if re.search(r"\band\b", low.split(" who ")[0]) or (last in PLURAL_HEADS and first not in {"a", "an", "one"}):
        return "pl"
    if first in {"a", "an", "one", "another", "this", "each"}:
        return "sg"
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    counted = first in {"two", "three", "four", "five", "six", "several", "many", "both", "few"}
    return "pl" if plural or counted else "sg"


def agrees(pronoun: str, noun_phrase: str) -> bool:
    """Can the subject pronoun stand for this noun phrase?"""
    low, last = pronoun.lower(), head(noun_phrase)
    if noun_phrase.lower() in {"this", "that", "these", "those", "there", "here", "what"}:
        return False
    first = noun_phrase.lower().split()[0] if noun_phrase else ""
    if low == "they":
        return number(noun_phrase) == "pl" or last in PLURAL_HEADS
    if number(noun_phrase) == "pl":
        return False
    if low == "he":
        return last not in FEMALE and first not in {"she", "it"} and _may_be_a_person(noun_phrase, last)
    if low == "she":
        return last not in MALE and first not in {"he", "it"} and _may_be_a_person(noun_phrase, last)
    if low == "it":
        return last not in PERSONS and first not in {"he", "she"}
    return False


def _may_be_a_person(noun_phrase: str, last: str) -> bool:
    """A person or an animal by its noun, or a name; "an empty gymnasium" is neither."""
    if noun_phrase.lower() in words.SUBJECT_PRONOUNS:
        return False  # "I … he": two people
    if last in PERSONS or last in ANIMALS or last in {"one", "other", "another"}:
        return True
    person = last.endswith(("man", "woman", "er", "or", "ist", "ian", "eer", "boy", "girl", "mate", "star", "ee"))
    named = noun_phrase[:1].isupper() and noun_phrase.split()[0].lower() not in words.DETERMINERS
    return (person and last not in NO_PERSON) or named


def same_referent(a: str, b: str) -> bool:
    """Do the subjects of two clauses, in this order, name the same one?"""
    if not a or not b:
        return bool(a) and not b
    if b.lower() in words.SUBJECT_PRONOUNS:
        return a.lower() == b.lower() or agrees(b, a)
    if (
        b.lower().split()[0] in {"the", "this", "that", "these", "those"}
        and a.lower().split()[0] not in words.POSSESSIVES
    ):
        one_of_two = (" and " in a) != (" and " in b)  # "the product" and "the product and credits"
        return head(a) == head(b) and not one_of_two and not _ANOTHER_ONE.search(b)
    return a.lower() == b.lower()


class NounPhrase(NamedTuple):
    """Determiner, adjectives and head noun, with the span in the clause."""

    start: int
    end: int
    text: str
    determiner: str
    head: str


@lru_cache(maxsize=4096)
def noun_phrases(text: str) -> tuple[NounPhrase, ...]:
    """Noun phrases that open with a determiner, in order, up to and including their head noun."""
    toks, found, after = tokens(text), [], 0
    lower, spans = toks.lower, toks.spans
    for i, word in enumerate(lower):
        if word not in words.DETERMINERS or i < after:
            continue
        after = _phrase_end(lower, i)
        if after > i + 1:
            start, end = spans[i][0], spans[after - 1][1]
            found.append(NounPhrase(start, end, text[start:end], word, lower[after - 1]))
    return tuple(found)


def _phrase_end(lower: list[str], i: int) -> int:
    """Which token no longer belongs to the noun phrase that opens at token i."""
    forms = words.verb_forms()
    for j in range(i + 1, min(i + 6, len(lower))):
        word = lower[j]
        if word in _CLOSERS or not word[0].isalnum():
            return j
        if j == i + 1:
            continue
        tag = forms[word][1] if word in forms else ""
        if tag == "third" or tag == "ing" or word in words.DETERMINERS or word in words.AUXILIARIES:
            return j
        if tag == "base" and (lower[j - 1] in PLURAL_HEADS or lower[j - 1] in _IRREGULAR):
            return j  # "the women | mix"
    return min(i + 6, len(lower))


def singular(noun: str) -> str:
    """The noun without its plural ending, as far as that is regular."""
    return _IRREGULAR.get(noun) or (noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun)


@lru_cache(maxsize=1024)
def singulars_of(text: str) -> frozenset[str]:
    """The words of a text, each without its plural ending."""
    return frozenset(map(singular, words_of(text)))
