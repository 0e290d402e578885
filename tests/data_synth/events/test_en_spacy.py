"""spaCy reads English captions: which verb, and where it disagrees with the rules. Skipped where it is absent."""

import pytest

from data_synth.events import en_spacy, parse
from data_synth.negatives import order_swap

missing = pytest.mark.skipif(en_spacy.model() is None, reason="spaCy or its small English model is not installed")


def test_without_spacy_the_rules_read_and_say_so(monkeypatch):
    monkeypatch.setattr(en_spacy, "model", lambda: None)
    parse.cache_clear()
    caption = parse("A man sings. Then a dog barks.", parser="spacy")
    parse.cache_clear()
    assert caption.parser == "rules" and [e.verb for e in caption.events] == ["sing", "bark"]


@missing
def test_spacy_names_the_verb_and_says_so():
    caption = parse("A zookeeper tranquilizes a bear. Then he begins to bandage it.", parser="spacy")
    assert caption.parser == "spacy" and [e.verb for e in caption.events] == ["tranquilize", "bandage"]


@missing
def test_events_and_relations_are_those_of_the_rules():
    text = "A man picks up a ball and then throws it before he walks away."
    rules, spacy = parse(text), parse(text, parser="spacy")
    assert [(e.start, e.end) for e in rules.events] == [(e.start, e.end) for e in spacy.events]
    assert rules.relations == spacy.relations


@missing
def test_a_clause_without_a_verb_is_no_event_in_time():
    caption = parse("A red car. Then a man waves.", parser="spacy")
    assert caption.events[0].stative and order_swap.corrupt(caption) is None


@missing
@pytest.mark.parametrize(("word", "right"), [("jumps", True), ("trampoline", False), ("high", False)])
def test_the_main_verb_is_confirmed(word, right):
    sentence = "The boy on the trampoline jumps high."
    assert en_spacy.confirms(sentence, sentence.index(word)) is right


@missing
def test_reading_ahead_changes_nothing():
    text = "The cook opens the lid, then stirs the soup."
    alone = [(t.text, t.dep_) for t in en_spacy.read(text)]
    en_spacy.read_ahead(["A dog barks.", text])
    assert [(t.text, t.dep_) for t in en_spacy.read(text)] == alone


@missing
def test_sentence_pairs_read_by_spacy_are_some_of_those_read_by_the_rules():
    story = ["A man opens the door.", "He takes off his coat, hat and gloves.", "Then he sits down.", "Then credits."]
    rules = {n.text for n in order_swap.sentence_pairs(story)}
    spacy = {n.text for n in order_swap.sentence_pairs(story, "spacy")}
    assert spacy and spacy <= rules
