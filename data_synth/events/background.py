"""English sentences that have no place in an order: what is there, or goes on all the time."""

import re
from functools import lru_cache

from data_synth.events import en_words as words
from data_synth.events.nouns import words_of

_STATES = (
    "wearing|sitting|standing|lying|holding|seated|dressed|surrounded|located|covered|decorated|lined|parked|crowded|"
    "filled|made of|situated|engaged|involved"
)
_BACKGROUND = re.compile(
    r"(?:this|that|these|those)(?:'s|’s| is| are| was| were)\b|"
    r"(?:several|some|many|various|multiple|different|more|a few) (?:\w+ ){0,2}?"
    r"(?:clips|shots|pictures|photos|images)\b[^.]*\b(?:of|are) (?:[\w-]+ ){0,4}?"
    r"(?:this|these|the (?:game|same|action|sport|event))\b|"
    r"(?:some|the|several|many) (?:\w+ )?(?:names|types|kinds|examples) of\b|"
    r"(?:during|throughout|in the middle of|in between|at (?:one|some) point|sometimes|occasionally|every so often)\b|"
    rf"there(?:'s|’s| is| are| was| were) (?:[^\s,]+ ){{1,8}}?(?:{_STATES})\b|"
    rf"(?:[^\s,]+ ){{1,8}}?(?:is|are|was|were) (?:\w+ly |also |all |still |seen )?(?:{_STATES})\b|"
    r"(?:[^\s,]+ ){1,6}?(?:is|are|was|were) (?:in|on|at|inside|outside|behind|near|next to)\b|"
    r"(?:[^\s,]+ ){1,5}?(?:wears?|contains?|consists?|surrounds?)\b",
    re.IGNORECASE,
)
"""What is there or goes on all the time: it has no place in an order."""
_ALL_ALONG = re.compile(
    r"\b(?:(?:whole|entire) time|constantly|continuously|repeatedly|occasionally|all in all|supposed to|"
    r"appears? to be)\b",
    re.IGNORECASE,
)
"""Words for a stretch of time, or for what it all comes to."""
_ALL_ALONG_WORDS = set("time constantly continuously repeatedly occasionally all supposed appear appears".split())
_BACKGROUND_WORDS = set(
    "this that these those clips shots pictures photos images names types kinds examples during throughout middle "
    "between point sometimes occasionally every there is are was were wear wears contain contains consist consists "
    "surround surrounds".split()
)
_COUNTED_OFF = re.compile(
    r"\b(?:the|a|an) (?:first|second|third|fou?rth|fifth|sixth|last|final) (?:clip|video|scene|shot|man|woman|lady|"
    r"boy|girl|person|group|team|player|one)\b|\bthe next (?!to\b)\w|"
    r"\b(?:scene|video|clip) ends\b|\b(?:ends?|ending) (?:with|by)\b|"
    r"\b(?:starts?|starting) (?:with|by)\b|\ba series of\b|"
    r"\bat the end(?! of)\b|\bas the (?:video|clip|scene) (?:begins|starts|ends)\b|^there (?:is|are|was|were)\b|"
    r"\ba (?:different|fifth|sixth) (?:group|set|pair|team)\b",
    re.IGNORECASE,
)
"""What says its own place in the telling, or is told in many pieces."""
_COUNTED_WORDS = set(
    "first second third fourth forth fifth sixth last final next ends end ending starts start starting series begins "
    "different there".split()
)
"""The patterns match nothing without one of these words, which are found sooner."""
_MOVES_ON = re.compile(r"(?:, | and |\bwho |\bthat )(?:he |she |it |they )?(?:then |also )?(\w+)", re.IGNORECASE)
_LEADS_ON = re.compile(r"\bthen\b|\bbefore \w+ing\b|\bfollowed by\b|\bleads? (?:in)?to\b", re.IGNORECASE)


@lru_cache(maxsize=1024)
def is_background(clause: str) -> bool:
    """Is an English sentence about a state, about what is in the scene, or about what happens during something else?

    Not where something happens after it: "a child is seen standing ready and then runs down the track".
    """
    held = words_of(clause)
    if not held.isdisjoint(_ALL_ALONG_WORDS) and _ALL_ALONG.search(clause):
        return True
    if held.isdisjoint(_BACKGROUND_WORDS) or _BACKGROUND.match(clause) is None:
        return False
    forms = words.verb_forms()
    following = (forms.get(found[1].lower(), ("", "")) for found in _MOVES_ON.finditer(clause))
    acts = any(tag == "third" and lemma not in words.STATIVE for lemma, tag in following)
    return not acts and _LEADS_ON.search(clause) is None


@lru_cache(maxsize=1024)
def counted_off(clause: str) -> bool:
    """Does a clause say its own place in the telling?"""
    return not words_of(clause).isdisjoint(_COUNTED_WORDS) and _COUNTED_OFF.search(clause) is not None
