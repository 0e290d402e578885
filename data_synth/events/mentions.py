"""Who is meant: when two English clauses change places, first mentions keep the full noun and later ones the
pronoun."""

import re
from collections.abc import Sequence
from functools import lru_cache

from data_synth.events import en_words as words
from data_synth.events.background import counted_off
from data_synth.events.bridging import bridged, subject_it
from data_synth.events.edit import lower_first, recase, splice
from data_synth.events.en import clause_parts
from data_synth.events.en_tokens import tokens, words_in_order
from data_synth.events.nouns import (
    ANIMALS,
    FEMALE,
    INDEFINITE,
    MALE,
    NO_PERSON,
    PERSONS,
    PLURAL_HEADS,
    NounPhrase,
    agrees,
    head,
    noun_phrases,
    number,
    same_referent,
    singular,
    singulars_of,
    subject_of,
    words_of,
)
from data_synth.events.steps import same_step

_DANGLING = set(
    "another others too also still instead either similarly likewise continue continues resume resumes repeat repeats "
    "process".split()
)
_POINTS_BACK = re.compile(
    r"\bthe other\b|\b(?:do|does|doing|did) (?:this|so|that|the same)\b|\b(?:this|that)(?:[.,;]|$)|"
    r"\b(?:make|makes|making|made) it\b|\bonce more\b",
    re.IGNORECASE,
)
_POINTING = {"other", "this", "so", "that", "same", "it", "more"}
_AT_HOME = re.compile(
    r"\bone another\b|\bstill (?=(?:shots?|photos?|pictures?|images?|frames?)\b)|"
    r"\b(?:stand|stay|sit|hold|lie|ly|keep)\w* (?:\w+ ){0,2}?still\b",
    re.IGNORECASE,
)
"""Words that look as if they pointed back, in a sense that does not."""
_OPENS_ON_ANOTHER = re.compile(
    r"(?:(?:once|when|after) (?:(?:he|she|it|they|that|this) (?:is |are |was |has )?)?(?:complete|completed|done|"
    r"finished|that|this)|having|as a result|otherwise|therefore|"
    r"thus|because of|first|second|third|last|finally)\b",
    re.IGNORECASE,
)
"""A second clause that opens like this speaks of what came before it."""
_GOES_ON_WITH = re.compile(r"\b(continues?|resumes?) (?:to )?(\w+ing\b|(?<=to )\w+)", re.IGNORECASE)
_TALKING = {"talk", "speak", "say", "explain", "describe", "discuss", "narrate", "chat"}
_ANYBODY = PERSONS | set(words.SUBJECT_PRONOUNS)
_THINGS = set(
    """video clip camera screen scene shot title text ball car boat logo picture photo image credit view room game music
    board table house dog cat horse it there light crowd team audience people""".split()
)
_OTHERS = {"another", "him", "other"}
_SUBORDINATE = re.compile(r"(?:as|when|once|after|while|before|until|if|because|since)\b", re.IGNORECASE)
_ORDER = re.compile(
    r"((?:[^\s,;]+ ){1,12}?)(then|finally|eventually|subsequently|afterwards|next|later) (?=(\w+))", re.IGNORECASE
)
"""A word of order behind the subject or the auxiliary."""
_OPENS_ON_ORDER = re.compile(r"(first|now)\s+", re.IGNORECASE)
_ORDER_WORDS = set("then finally eventually subsequently afterwards next later".split())
_NEEDS_CONTEXT = set("again more same rest both remaining such those these".split())
_OBJECT_PRONOUNS = {"it", "them", "him", "her"}
_OBJECTS = re.compile(r"\b(it|them|him|her)\b", re.IGNORECASE)


@lru_cache(maxsize=4096)
def _predicate(text: str) -> str | None:
    """The clause without its subject, adverbs of order left out; None where no verb was found."""
    _, span, start = clause_parts(text, 0, len(text))
    if start is None:
        return None
    return text[span[1] :].strip() if span else text


def swap(first: str, second: str, context: str = "", before: str = "") -> tuple[str, str] | None:
    """The two clauses in each other's slot: (text for the first slot, text for the second slot), or None.

    Subjects that name the same one stay in their slots and only the predicates move; objects of the second clause that
    point back to the first ("it", "the ball") trade places with what they point at. None when something would dangle.
    `context`: the whole caption, for the case of names; `before`: what stands before `first`, where a pronoun of the
    second clause may have its antecedent.
    """
    if counted_off(first) or counted_off(second) or same_step(first, second):
        return None
    (first, order_a), (second, order_b) = _without_order(first), _without_order(second)
    if (order_a and _SUBORDINATE.match(second)) or (order_b and _SUBORDINATE.match(first)):
        return None  # "once it is full, he then …": no place for the word of order
    swapped = _swap(first, second, context, before)
    return swapped and (_with_order(swapped[0], order_a), _with_order(swapped[1], order_b))


def _without_order(clause: str) -> tuple[str, str]:
    """A clause without the word of order inside it, and that word: ("he jumps", "then") from "he then jumps"."""
    if words_of(clause).isdisjoint(_ORDER_WORDS):
        return clause, ""
    found = _ORDER.match(clause)
    verb = clause_parts(clause, 0, len(clause))[2]
    if not found or found[3].lower() not in words.verb_forms() or verb is None:
        return clause, ""
    if verb < found.start(2) and clause[verb : found.start(2)].strip().lower() not in words.AUXILIARIES:
        return clause, ""  # "towels off then rubs": a sequence inside the event
    if found[1].split()[-1].lower() in words.PREPOSITIONS | words.DETERMINERS:
        return clause, ""  # the same with a verb that the rules do not know; "the next attempt"
    return found[1] + clause[found.end() :], found[2]


def _with_order(clause: str, order: str) -> str:
    """The word of order again, behind the subject; in front where there is none."""
    if not order:
        return clause
    place = len(subject_of(clause))
    return f"{clause[:place]} {order}{clause[place:]}" if place else f"{order} {lower_first(clause)}"


def _swap(first: str, second: str, context: str, before: str) -> tuple[str, str] | None:
    """`swap` of clauses without words of order inside."""
    first_subject, second_subject = subject_of(first), subject_of(second)
    if second_subject.lower() in ("he", "she") and not _OTHERS.isdisjoint(words_of(first)):
        return None  # "another man stands next to him … he": either of the two
    if _lost_subject(first) or _lost_subject(second) or _OPENS_ON_ANOTHER.match(second):
        return None
    if bridged(first, second, first_subject, second_subject, before):
        return None
    nested = _SUBORDINATE.match(first) or _SUBORDINATE.match(second)
    same = bool(first_subject) and same_referent(first_subject, second_subject)
    if same and (nested or any(s.rstrip(",").endswith((" and", " or")) for s in (first_subject, second_subject))):
        return None  # "as he nears the curve, he turns": which of two predicates to move is open
    if nested and first_subject.lower().split()[:1] in (["a"], ["an"]):
        return None  # "when he is done" would come before "a man"
    if same:
        return _swap_predicates(first, second, first_subject, second_subject, context, before)
    if not first_subject or not second_subject:
        if first_subject or second_subject or _predicate(first) is None or _predicate(second) is None:
            return None  # one is an imperative or a fragment, the other is not
        if _tag(first) != _tag(second) or _tag(first) == "ing":
            return None  # "dismounts before sitting down": the forms fit their slots alone
    elif first_subject.lower() in ("he", "she", "they") and _introduces(second, first_subject.lower()):
        return None  # "He gets up. We see an older man": he would be the older man
    elif second_subject.lower() in words.SUBJECT_PRONOUNS and not _known(second_subject, before):
        return None
    elif second_subject.lower() in ("he", "she") and (
        _could_be(second_subject.lower(), first_subject) or _introduces(first, second_subject.lower())
    ):
        return None  # "scissors lead into a person cutting his hair. He …"
    moved = _trade_objects(first, second, "", before)
    if moved is None:
        return None
    return recase(moved[1], first, context), recase(moved[0], second, context)


def _introduces(clause: str, pronoun: str) -> bool:
    """Does the clause bring in somebody whom the pronoun could mean?"""
    new = [p for p in noun_phrases(clause) if p.determiner in INDEFINITE and p.head in PERSONS]
    return any(agrees(pronoun, p.text) for p in new)


def _could_be(pronoun: str, noun_phrase: str) -> bool:
    """Is it open whether he or she is this one? Not for plurals, pronouns, things and the other sex."""
    last = head(noun_phrase)
    other = FEMALE if pronoun == "he" else MALE
    known = noun_phrase.lower() in words.SUBJECT_PRONOUNS or last in other | NO_PERSON | _THINGS
    return not known and number(noun_phrase) == "sg"


@lru_cache(maxsize=1024)
def _lost_subject(clause: str) -> bool:
    """ "Leaves fall", "Back in the water passing": a sentence whose subject or verb the rules did not find."""
    if not clause[:1].isupper() or subject_of(clause):
        return _predicate(clause) is None or (bool(subject_of(clause)) and _tag(_predicate(clause)) == "ing")
    return _predicate(clause) is None or _tag(clause) in ("third", "ing", "past")


def _swap_predicates(
    first: str, second: str, first_subject: str, second_subject: str, context: str, before: str
) -> tuple[str, str] | None:
    """Swap what is said of one and the same subject; the words of order inside ("he then jumps") keep their slot."""
    a, b = _predicate(first), _predicate(second)
    if a is None or b is None:
        return None
    (order_a, a), (order_b, b) = _inner_order(a), _inner_order(b)
    if second_subject:
        if "ing" in (_tag(a), _tag(b)):
            return None  # no finite verb was found: what counts as the subject may be half of the predicate
        a, b = agree(a, _number_said(b, second_subject)), agree(b, _number_said(a, first_subject))
    elif _tag(a) != _tag(b):
        return None
    if a is None or b is None:
        return None
    moved = _trade_objects(a, b, first_subject, before)
    if moved is None:
        return None
    a, b = moved
    second_slot = f"{second_subject} {order_b}{a}" if second_subject else order_b + a
    return f"{first_subject} {order_a}{b}", recase(second_slot, second, context)


def _number_said(predicate: str, noun_phrase: str) -> str:
    """The number that the writer gave a subject by the verb ("a group of girls dance"); by its form where that is
    open."""
    return {"third": "sg", "base": "pl"}.get(_tag(predicate)) or number(noun_phrase)


def _inner_order(predicate: str) -> tuple[str, str]:
    """("then ", "jumps") from "then jumps"; ("", predicate) where no word of order opens it."""
    found = _OPENS_ON_ORDER.match(predicate)
    return (found.group(), predicate[found.end() :]) if found else ("", predicate)


def _known(pronoun: str, before: str) -> bool:
    """Does the text before say who a subject pronoun is? "We" and "you" are the viewer, "it cuts to" the video."""
    low = pronoun.lower()
    if low in {"we", "you", "i"}:
        return True
    if not before:
        return False
    found = words_of(before)
    if low in found:
        return True
    nouns = {"he": MALE, "she": FEMALE, "they": PLURAL_HEADS | {"boys", "girls"}}.get(low, set())
    return not found.isdisjoint(nouns)


def agree(predicate: str, wanted: str) -> str | None:
    """The predicate with its finite verbs in the number `wanted` ("sg" or "pl"); None where that is not sure."""
    forms, toks = words.verb_forms(), tokens(predicate)
    edits, finite = [], True
    for i, word in enumerate(toks.lower):
        if finite and not words.is_adverb(word):
            lemma, tag = forms.get(word, ("", ""))
            if tag in ("third", "base"):
                edits.append((*toks.spans[i], words.conjugate(word, lemma, wanted)))
            elif word in {"was", "were"}:
                edits.append((*toks.spans[i], "was" if wanted == "sg" else "were"))
            elif not tag and word not in words.AUXILIARIES and wanted == "pl":
                return None
            finite = False
        if word == "and":
            following = forms.get(toks.lower[i + 1], ("", ""))[1] if i + 1 < len(toks) else ""
            finite = following in ("third", "base") and following == _tag(predicate)
    return splice(predicate, edits)[0]


@lru_cache(maxsize=4096)
def _tag(predicate: str) -> str:
    for word in words_in_order(predicate):
        if not words.is_adverb(word):
            return words.verb_forms().get(word, ("", ""))[1]
    return ""


def _candidates(phrases: Sequence[NounPhrase], pronoun: str) -> list[NounPhrase]:
    """What an object pronoun may stand for: no person for "it"; the subject only where there is nothing else."""
    fitting = [p for p in phrases if pronoun != "it" or p.head not in PERSONS]
    return [p for p in fitting if p.start > 0] or fitting


_AFTER_NOUN = words.PREPOSITIONS | words.AUXILIARIES | set(words.verb_forms()) | set("and or then while as".split())
_BARE_AFTER = words.PREPOSITIONS | _OBJECT_PRONOUNS | set(words.verb_forms())


def _bare_before(a: str, b: str) -> list[tuple[NounPhrase, int]]:
    """Things that `b` names with "the" and `a` without an article ("washes cups … smells the cups"), where in `a`."""
    found = []
    for later in noun_phrases(b):
        if later.determiner == "the" and later.start > 0:
            name = " " + later.text[4:]  # found without a pattern of its own: compiling one takes longer than all else
            place = a.find(name) + 1
            ends = not a[place + len(name) - 1 :][:1].isalnum()
            before = a[:place].split()[-1:]
            bare = place > 0 and ends and before and before[0] in _BARE_AFTER and before[0] != "of"
            after = a[place + len(name) - 1 :].split(" ", 2)[1:2]
            bare = bare and (not after or after[0].lower() in _AFTER_NOUN)  # not the "curry" of "curry powder"
            if bare and not any(p.start <= place < p.end for p in noun_phrases(a)):
                found.append((later, place))
    return found


def _known_too_early(a: str, b: str, subject: str, before: str) -> bool:
    """Would `b` in front of `a` speak of "the young man" before "two young men" are told of, or of "their run" before
    anybody is? Mentions with an article that trade places are left to `_trade_objects`; of things, "the water" is known
    from the start often enough."""
    known = {p.head for p in noun_phrases(a) if p.determiner in INDEFINITE}
    known |= {singular(p.head) for p in noun_phrases(a) if p.determiner in ("the", *words.POSSESSIVES)}
    for phrase in noun_phrases(b):
        person = phrase.head in PERSONS or phrase.head in ANIMALS or singular(phrase.head) in PERSONS
        points = phrase.determiner in ("this", "that", "these", "those")  # "whisk those eggs"
        definite = phrase.determiner == "the" and person and known.isdisjoint((phrase.head, singular(phrase.head)))
        if (points or definite) and singular(phrase.head) in singulars_of(a) - singulars_of(before):
            return True
    mine = not subject and subject_of(b).lower() in ("we", "you", "i", "there")
    return mine and not words_of(b).isdisjoint(("his", "her", "their"))


def _leans_back(a: str, b: str, subject: str, before: str) -> bool:
    """Does `b` hold a word that needs `a` ("she also …", "another goal" after a goal)? Not where a goal is told of
    before both or in `b` itself ("one man hands it to another man"), or in neither; nor "continues to talk" where `a`
    does not talk."""
    said = words_of(a)
    for phrase in noun_phrases(b):
        if phrase.determiner == "another" and not re.search(r"\bone $", b[: phrase.start], re.IGNORECASE):
            told = words_of(before) | words_of(b[: phrase.start])
            if phrase.head in said or (phrase.head in _ANYBODY and told.isdisjoint(_ANYBODY)):
                return True
            b = b[: phrase.start] + " " * len("another") + b[phrase.start + len("another") :]
    if subject:
        acts = {_deed(word) for word in said}
        b = _GOES_ON_WITH.sub(lambda found: found[0] if _deed(found[2]) in acts else " " * len(found[0]), b)
    return not words_of(_AT_HOME.sub("", b)).isdisjoint(_DANGLING)


def _deed(word: str) -> str:
    """The verb of a form, all verbs of talking as one; the word itself where it is no verb."""
    lemma = words.verb_forms().get(word.lower(), ("", ""))[0] or word.lower()
    return "talk" if lemma in _TALKING else lemma


def _trade_objects(a: str, b: str, subject: str, before: str) -> tuple[str, str] | None:
    """Exchange the mentions of what both share; None when `b` holds a pronoun whose antecedent is not found in `a`."""
    said = words_of(b)
    if not said.isdisjoint(_DANGLING) and _leans_back(a, b, subject, before):
        return None
    if not said.isdisjoint(_POINTING) and _POINTS_BACK.search(b):
        return None
    if not before and not said.isdisjoint(_NEEDS_CONTEXT):
        return None
    edits_a, edits_b, used = [], [], set()
    phrases = noun_phrases(a)
    bare = _bare_before(a, b)
    edits_a += [(start, start, "the ") for _, start in bare]
    edits_b += [(later.start, later.start + 4, "") for later, _ in bare]
    if not bare and _known_too_early(a, b, subject, before):
        return None
    for later in noun_phrases(b):
        earlier = next((p for p in phrases if p.head == later.head and p.start not in used), None)
        if later.determiner != "the" or earlier is None or earlier.determiner not in INDEFINITE:
            continue
        if any(later is known for known, _ in bare):
            continue
        used.add(earlier.start)
        edits_a.append((earlier.start, earlier.end, recase(later.text, earlier.text)))
        edits_b.append((later.start, later.end, recase(earlier.text, later.text)))
    for m in _OBJECTS.finditer(b) if not said.isdisjoint(_OBJECT_PRONOUNS) else ():
        word = m.group().lower()
        if (
            word == "her"
            and subject
            and not re.match(r"\s*(?:$|[.,;]|(?:to|on|in|and|with|by|at|from)\b)", b[m.end() :])
        ):
            continue  # "her hands": a possessive, its owner stays the subject
        if word == "it" and subject_it(b, m.end()):
            if any(p.end <= m.start() and number(p.text) == "sg" for p in noun_phrases(b)):
                continue  # "the picture appears and it's the same"
            return None
        if re.search(rf"\b{word}\b", a, re.IGNORECASE):
            continue  # both speak of something earlier
        want = {"it": "sg", "them": "pl"}.get(word)
        if any(0 < p.start and p.end <= m.start() and number(p.text) == want for p in noun_phrases(b)):
            continue  # "picks up the knife and drops it": the antecedent moves along
        fitting = _candidates([p for p in phrases if p.start not in used and number(p.text) == want], word)
        if len(fitting) > 1:
            return None  # "puts the ball on the table … kicks it": which one is a matter of sense, not of rules
        earlier = fitting[0] if fitting else None
        if earlier is not None and earlier.determiner in words.POSSESSIVES and before:
            return None  # "puts their hands together … sprinkles them": hardly the hands
        if earlier is None:
            if _known({"him": "he", "her": "she", "them": "they"}.get(word, word), before):
                continue
            return None
        if a[earlier.end :].startswith(" of "):
            return None  # "another group of men": only half of what the pronoun stands for
        used.add(earlier.start)
        said = {"them": "they"}.get(word, word) if earlier.start == 0 and not subject else word
        edits_a.append((earlier.start, earlier.end, recase(said, earlier.text)))
        edits_b.append((m.start(), m.end(), lower_first(earlier.text)))
    return splice(a, edits_a)[0], splice(b, edits_b)[0]
