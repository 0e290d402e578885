"""Rule parser for English captions: sentences, clauses with a verb, and the connectives that order them."""

import re
from functools import lru_cache

from data_synth.events import en_words as words
from data_synth.events.en_tokens import Tokens, tokens
from data_synth.events.types import AFTER, BEFORE, SIMULTANEOUS, UNKNOWN, Caption, Event, Relation

_SENTENCE_END = re.compile(r"[.!?…][.!?…]*[\"'”’)]*(?=\s|$)")
_SENTENCE_OR_LINE_END = re.compile(_SENTENCE_END.pattern + r"|\n+")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|vs|etc|e\.g|i\.e|no|approx|[a-z])\.$", re.IGNORECASE)
_MARKER = re.compile(
    rf"(?:(?P<sequence>{words.SEQUENCE_MARKERS})|(?P<simultaneous>{words.SIMULTANEOUS_MARKERS})|(?P<neutral>{words.NEUTRAL_MARKERS}))"
    r"\b(?!')(?:\s*,\s*|\s+|$)",
    re.IGNORECASE,
)
_SHORT_ENDS = {"mr", "rs", "ms", "dr", "st", "vs", "tc", ".g", ".e", "no", "ox"}
_LETTERS = re.compile("[A-Za-z]+")
_MARKER_OPENINGS = set(
    re.findall(
        r"(?:^|\|)([a-z]+)", "|".join((words.SEQUENCE_MARKERS, words.SIMULTANEOUS_MARKERS, words.NEUTRAL_MARKERS))
    )
)
"""First words of the markers: most sentences open with another one, which is found sooner."""
_NOT_MARKER = re.compile(
    r"(?:next to|first (?:person|one|man|woman|place|time)|last (?:one|person)|later in|at the end of|in the end of|"
    r"(?:second|third|fourth|last|first) \w+|there (?:is|are|was|were)|now (?:that|on))\b",
    re.IGNORECASE,
)
_NOUN_FOLLOWS = words.PREPOSITIONS - {"up", "down", "out", "off"}
"""Prepositions after which a word that could be a verb is a noun; "sits up claps" keeps its verb."""
_PLURALS = {"people", "men", "women", "children", "both", "they", "we", "you"}
_SUBORDINATORS = {
    "before": BEFORE,
    "until": BEFORE,
    "after": AFTER,
    "once": AFTER,
    "while": SIMULTANEOUS,
    "as": SIMULTANEOUS,
    "whilst": SIMULTANEOUS,
    "when": UNKNOWN,
    "and": UNKNOWN,
    "but": UNKNOWN,
    ",": UNKNOWN,
    ";": UNKNOWN,
}


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Sentence spans, closing punctuation included, white space around them left out."""
    spans, start = [], 0
    ends = _SENTENCE_OR_LINE_END if "\n" in text else _SENTENCE_END
    for mark in ends.finditer(text):
        end = mark.end()
        if mark.group() == "." and _may_be_short(text[end - 3 : end - 1]):
            if _ABBREVIATION.search(text, max(start, end - 12), end):
                continue
        spans.append((start, end))
        start = end
    spans.append((start, len(text)))
    trimmed = []
    for s, e in spans:
        body = text[s:e].strip()
        if body and (body[0].isalnum() or any(c.isalnum() for c in body)):
            s = text.index(body, s)
            trimmed.append((s, s + len(body)))
    return trimmed


def _may_be_short(last: str) -> bool:
    """Can the two characters in front of a full stop end an abbreviation or be a letter that stands alone?"""
    return last.lower() in _SHORT_ENDS or not last[:1].isalnum()


def leading_marker(text: str, start: int, end: int) -> tuple[str, str, int]:
    """The discourse marker that `text[start:end]` opens with: (words, class, where the rest starts).

    Classes: sequence, simultaneous, neutral, or "" when there is none.
    """
    opening = _LETTERS.match(text, start, end)
    found = _MARKER.match(text, start, end) if opening and opening[0].lower() in _MARKER_OPENINGS else None
    if found is None or _NOT_MARKER.match(text, start, end):
        return "", "", start
    cue = found.group().strip(" ,").lower()
    kind = found.lastgroup or ""
    if kind == "neutral" and found.end() < end:
        cue_2, kind_2, rest = leading_marker(text, found.end(), end)
        if kind_2:
            return cue_2, kind_2, rest
    return cue, kind, found.end()


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Narrow a span to the event: no marker in front, no punctuation or space around."""
    while end > start and not (text[end - 1].isalnum() or text[end - 1] in "\"')”’%°"):
        end -= 1
    while start < end and not (text[start].isalnum() or text[start] in "\"'(“‘"):
        start += 1
    return leading_marker(text, start, end)[2], end


def find_verb(toks: Tokens, low: int = 0, high: int | None = None) -> int | None:
    """Index of the first finite verb (or of an -ing form when no finite verb follows) among `toks[low:high]`."""
    lower, forms, participle = toks.lower, words.verb_forms(), None
    high = len(lower) if high is None else high
    for i in range(low, high):
        word = lower[i]
        if word not in forms and word not in words.AUXILIARIES and word[-1] != "s" and i != low + 1:
            continue  # no verb, and no pronoun before that would make it one
        before = lower[i - 1] if i > low else ""
        if word in words.AUXILIARIES and before != "to":
            return i
        if (
            i > low
            and before in words.SUBJECT_PRONOUNS
            and i - 1 == low
            and not words.is_adverb(word)
            and word.isalpha()
        ):
            return i  # what follows a pronoun subject is its verb, known or not
        after = lower[i + 1] if i + 1 < high else ""
        if word not in forms:
            if _looks_like_verb(word, before, after):
                return i
            continue
        tag = forms[word][1]
        if tag == "ing":
            participle = i if participle is None else participle
            continue
        if before in words.DETERMINERS or before in _NOUN_FOLLOWS:
            continue
        if tag in ("third", "past") or i == low or words.is_adverb(before):
            if after in forms and forms[after][1] == "third" and i > low:
                continue  # "the dance moves": a noun in front of the verb
            return i
        if tag == "base" and _plural_before(toks, low, i):
            return i
    return participle


def _looks_like_verb(word: str, before: str, after: str) -> bool:
    """An unknown word in -s between a noun and a determiner ("the man hammers the tiles")."""
    if not word.endswith("s") or word.endswith(("ss", "us", "'s", "’s")) or len(word) < 5:
        return False
    known = before in words.DETERMINERS or before in words.PREPOSITIONS or before in {"", "and", ",", "two", "three"}
    return not known and before.isalpha() and after in {"a", "an", "the", "his", "her", "their", "its", "it", "them"}


def _plural_before(toks: Tokens, low: int, i: int) -> bool:
    """Do the words before token i look like a plural subject, so that a base form is the verb?"""
    seen = toks.lower[low:i]
    if seen[-1] in {"who", "that", "and"} or seen[-1] in words.SUBJECT_PRONOUNS:
        return True
    plural = [w for w in seen if w in _PLURALS or (w.endswith("s") and not w.endswith(("ss", "us", "is", "'s", "’s")))]
    return bool(plural) or "and" in seen


def _lemma(toks: Tokens, index: int, high: int) -> str:
    """The lemma that carries the meaning: "is seen holding" -> hold, "begins to run" -> run."""
    forms = words.verb_forms()
    lemma = forms.get(toks.lower[index], (toks.lower[index], ""))[0]
    steps = 0
    while (toks.lower[index] in words.AUXILIARIES or lemma in words.LIGHT) and steps < 4:
        later = [j for j in range(index + 1, min(high, index + 4)) if toks.lower[j] in forms]
        if not later or any(toks.lower[j] in words.DETERMINERS for j in range(index + 1, later[0])):
            break
        index, steps = later[0], steps + 1
        lemma = forms[toks.lower[index]][0]
    return lemma


@lru_cache(maxsize=4096)
def clause_parts(text: str, start: int, end: int) -> tuple[str, tuple[int, int] | None, int | None]:
    """(lemma of the main verb, span of the subject, where the predicate starts) of one clause."""
    toks = tokens(text, start, end)
    index = find_verb(toks)
    if index is None:
        return "", None, None
    lemma = _lemma(toks, index, len(toks))
    subject_end = index
    while subject_end > 0 and words.is_adverb(toks.lower[subject_end - 1]):
        subject_end -= 1
    subject = (toks.spans[0][0], toks.spans[subject_end - 1][1]) if subject_end else None
    return lemma, subject, toks.spans[index][0]


def _is_stative(text: str, start: int, end: int, lemma: str) -> bool:
    """True for states: "is standing", "there is", a copula; false for "begins to", "stands up"."""
    body = text[start:end].lower()
    if re.match(r"(there|here) (is|are|was|were)\b", body):
        return True
    if re.match(r"(?:we|you) (?:then |next |now )?(?:see|watch|look)\b", body):
        return False  # what comes into view is an event
    if re.search(r"\b(begins?|starts?|stops?|finish(es)?|proceeds?)\b", body):
        return False
    if lemma in {"sit", "stand", "lie", "lean", "hang", "look", "hold"} and re.search(
        r"\b(up|down|back|over|out|off)\b", body
    ):
        return False
    return lemma in words.STATIVE or lemma == ""


def _boundary(toks: Tokens, i: int, clause_start: int) -> tuple[str, int] | None:
    """If a clause ends before token i: (connective, index of the first token of the next clause)."""
    word = toks.lower[i]
    if word not in _SUBORDINATORS and word != "then":
        return None
    if word == "then" and toks.lower[i - 1] in words.AUXILIARIES:
        return None  # "is then taken off"
    if find_verb(toks, clause_start, i) is None:
        return None
    j, cue = i + 1, word
    while j < len(toks) and toks.lower[j] in {
        "and",
        "but",
        "then",
        ",",
        "next",
        "finally",
        "while",
        "as",
        "before",
        "after",
        "afterwards",
        "later",
        "subsequently",
        "immediately",
        "eventually",
    }:
        if toks.lower[j] not in {",", "and", "but", "immediately"}:
            cue = toks.lower[j]
        j += 1
    if j >= len(toks):
        return None
    forms = words.verb_forms()
    stop = next(
        (
            k
            for k in range(j, len(toks))
            if toks.lower[k] in {",", ";", "and", "then", "before", "after", "while", "as", "when", "until"}
        ),
        len(toks),
    )
    verb = find_verb(toks, j, stop)
    if verb is None:
        return None
    if forms.get(toks.lower[verb], ("", ""))[1] == "ing" and toks.lower[verb] not in words.AUXILIARIES:
        # "and" + participle coordinates events, ", smiling" hangs on the clause before
        if verb != j or (word == "," and cue == ","):
            return None
    if word in {"and", ","} and cue in {"and", ","}:
        if verb > j and not _starts_noun_phrase(toks, j):
            return None
        if not _coordinates(toks, clause_start, i, j, verb):
            return None
    return cue, j


def _coordinates(toks: Tokens, clause_start: int, i: int, j: int, verb: int) -> bool:
    """Does a bare "and" before token i join clauses, and not nouns ("dip it in the flour and the crumbs fry") or
    adjectives ("moves, keeping a steady and clear line")? A base form without a subject must follow another one."""
    forms = words.verb_forms()
    first = find_verb(toks, clause_start, i)
    before, after = toks.lower[first], toks.lower[verb]
    tag = forms.get(before, ("", ""))[1]
    if verb == j:
        plain = forms.get(after, ("", ""))[1] == "base"
        return not plain or tag not in ("third", "ing")
    if first == clause_start and tag == "base":
        return False
    owned = (any(w.endswith(("'s", "’s")) for w in toks.lower[a:b]) for a, b in ((clause_start, first), (j, verb)))
    return not all(owned)


def _starts_noun_phrase(toks: Tokens, j: int) -> bool:
    """A clause after a bare "and" must open with its own subject."""
    word = toks.lower[j]
    return (
        word in words.DETERMINERS
        or word in words.SUBJECT_PRONOUNS
        or words.is_adverb(word)
        or toks.upper_first(j)
        or word in {"people", "there"}
    )


def _clauses(text: str, start: int, end: int) -> list[tuple[str, int, int]]:
    """Clauses of a sentence as (connective in front, start, end)."""
    toks = tokens(text, start, end)
    lead = ""
    if toks and toks.lower[0] in {"after", "before", "once", "while", "as", "when", "until"}:
        lead = "front " + toks.lower[0]
        toks = toks.without_first()
    if not toks:
        return []
    cuts, clause_start, cue, i = [], 0, lead, 0
    while i < len(toks):
        found = _boundary(toks, i, clause_start)
        if found is not None:
            cuts.append((cue, toks.spans[clause_start][0], toks.spans[i - 1][1]))
            cue, clause_start = found
            i = clause_start
        i += 1
    cuts.append((cue, toks.spans[clause_start][0], toks.spans[-1][1]))
    return cuts


def _join(previous_cue: str, cue: str) -> tuple[str, str]:
    """Relation kind and cue between two neighbouring clauses of one sentence."""
    if previous_cue.startswith("front ") and cue in {",", "and"}:
        word = previous_cue.removeprefix("front ")
        kind = {
            "after": BEFORE,
            "once": BEFORE,
            "before": AFTER,
            "until": AFTER,
            "while": SIMULTANEOUS,
            "as": SIMULTANEOUS,
        }
        return kind.get(word, UNKNOWN), word if word in kind else ""
    if cue in {"then", "next", "finally", "afterwards", "later", "subsequently", "eventually"}:
        return BEFORE, cue
    kind = _SUBORDINATORS.get(cue, UNKNOWN)
    return kind, cue if kind != UNKNOWN else ""


def parse(text: str, use_spacy: bool = False) -> Caption:
    """Parse an English caption. `use_spacy` refines the verbs where spaCy and its small model are importable."""
    if use_spacy:
        from data_synth.events import en_spacy

        if en_spacy.model() is not None:
            return en_spacy.refine(parse(text))
    sentences = split_sentences(text)
    events: list[Event] = []
    relations: list[Relation] = []
    for number, (start, end) in enumerate(sentences):
        cue, kind, rest = leading_marker(text, start, end)
        previous_cue = ""
        for position, (connective, s, e) in enumerate(_clauses(text, rest, end)):
            s, e = trim(text, s, e)
            if e <= s:
                continue
            lemma, subject, predicate = clause_parts(text, s, e)
            inner = _inner_marker(text, subject, predicate)
            event = Event(s, e, text[s:e], lemma, subject, predicate, number, _is_stative(text, s, e, lemma))
            index = len(events)
            events.append(event)
            if index == 0:
                previous_cue = connective
                continue
            if position == 0:
                relation = _between_sentences(cue or inner, kind or ("sequence" if inner else ""))
            else:
                relation = _join(previous_cue, inner or connective)
            relations.append(Relation(index - 1, index, *relation))
            previous_cue = connective
    return Caption(text, "en", tuple(sentences), tuple(events), tuple(relations), "rules")


def _inner_marker(text: str, subject: tuple[int, int] | None, predicate: int | None) -> str:
    """A marker between subject and verb: "he then jumps"."""
    if subject is None or predicate is None:
        return ""
    found = re.search(
        r"\b(then|next|finally|afterwards|eventually|later|subsequently)\b", text[subject[1] : predicate].lower()
    )
    return found.group(1) if found else ""


def _between_sentences(cue: str, kind: str) -> tuple[str, str]:
    """Relation of the last event of a sentence to the first of the next one, from the marker that opens it."""
    if kind == "sequence" and cue not in words.OPENING_MARKERS and cue not in words.WEAK_MARKERS:
        return BEFORE, cue
    if kind == "simultaneous":
        return SIMULTANEOUS, cue
    return UNKNOWN, ""
