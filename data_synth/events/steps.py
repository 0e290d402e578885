"""Instructions ("crack two eggs"): steps whose order means nothing, since whoever follows them may turn them around."""

import re
from functools import lru_cache

from data_synth.events import en_words as words
from data_synth.events.en_tokens import words_in_order
from data_synth.events.nouns import singular, subject_of, words_of

_WEAK_VERBS = set("be have do get go take put make see show begin start use set add".split())
_CARRIES_ON = set("it them they everything mixture dough batter filling marinade contents again".split())
"""Words of a second step that speak of what the first one made."""
_DOUGH = {"dough", "batter"}
_MAKES_DOUGH = set("dough batter flour yeast mix combine knead blend stir whisk beat ingredients".split())
_ADDS = set("add season sprinkle pour dissolve crack drizzle".split())
_PREPARES = set("cut chop slice dice mince grate crush peel beat whisk stir mix combine break".split())
_NAMES = set("juice smoke paste dry cook grind clear prepare chill fry".split())
"""Forms of verbs that mostly stand in names of ingredients here ("ground pepper", "the stir fry")."""
_IN_EVERYTHING = {"salt", "pepper", "sugar"}
_SMALL = words.PREPOSITIONS | words.DETERMINERS | words.AUXILIARIES | words.verb_forms().keys() | _IN_EVERYTHING
_SHOWN_WORDS = {"shown", "displayed", "presented"}
_SHOWN = re.compile(r"\b(?:is|are) (?:then )?(?:shown|displayed|presented)\.?$")


def same_step(first: str, second: str) -> bool:
    """Two instructions whose order means nothing: with the same verb ("stir and heat … add and stir"), without a thing
    in common ("crack two eggs … chop the herbs"), or both only adding something; or two clauses that only say that
    something is shown. Sentences about people that share a verb stay: in ActivityNet they overlap in time less than
    others."""
    if not words_of(first).isdisjoint(_SHOWN_WORDS) and _SHOWN.search(first) and _SHOWN.search(second):
        return True
    if subject_of(first) or subject_of(second):
        return False
    if not _verbs(first).isdisjoint(_verbs(second)):
        return True
    if _only_adds(first) and _only_adds(second):
        return True
    carried = words_of(second) & _CARRIES_ON
    if words_of(first).isdisjoint(_MAKES_DOUGH):
        carried -= _DOUGH  # "add the peas to the pan … roll out the dough": two things in the making
    return not carried and _things(first).isdisjoint(_things(second))


def _only_adds(step: str) -> bool:
    """Does a step add something to what is there, and nothing else but cut or stir?"""
    forms = words.verb_forms()
    acts = {forms[word][0] for word in words_of(step) if word in forms}
    return not acts.isdisjoint(_ADDS) and acts <= _ADDS | _PREPARES | _WEAK_VERBS | _NAMES


@lru_cache(maxsize=4096)
def _verbs(text: str) -> frozenset[str]:
    """Lemmas of the words that are forms of verbs, those left out that go with anything."""
    forms = words.verb_forms()
    return frozenset(forms[w][0] for w in words_in_order(text) if w in forms) - _WEAK_VERBS


@lru_cache(maxsize=4096)
def _things(text: str) -> frozenset[str]:
    """The nouns of a step, by what is left without verbs and small words."""
    left = (w for w in words_of(text) if len(w) > 3 and w not in _SMALL and not words.is_adverb(w))
    return frozenset(map(singular, left))
