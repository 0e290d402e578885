"""English sentences that have no place in an order: what is there, or goes on all the time."""

import re

from data_synth.events import en_words as words

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
_MOVES_ON = re.compile(r"(?:, | and |\bwho |\bthat )(?:he |she |it |they )?(?:then |also )?(\w+)", re.IGNORECASE)
_LEADS_ON = re.compile(r"\bthen\b|\bbefore \w+ing\b|\bfollowed by\b|\bleads? (?:in)?to\b", re.IGNORECASE)


def is_background(clause: str) -> bool:
    """Is an English sentence about a state, about what is in the scene, or about what happens during something else?

    Not where something happens after it: "a child is seen standing ready and then runs down the track".
    """
    if _ALL_ALONG.search(clause):
        return True
    if _BACKGROUND.match(clause) is None:
        return False
    forms = words.verb_forms()
    following = (forms.get(found[1].lower(), ("", "")) for found in _MOVES_ON.finditer(clause))
    acts = any(tag == "third" and lemma not in words.STATIVE for lemma, tag in following)
    return not acts and _LEADS_ON.search(clause) is None
