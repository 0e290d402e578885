"""What a caption is made of (events, their spans and their order in time) and what a negative made from it carries."""

from dataclasses import dataclass, field

BEFORE, AFTER, SIMULTANEOUS, UNKNOWN = "before", "after", "simultaneous", "unknown"


@dataclass(frozen=True)
class Event:
    """One atomic event: `text[start:end]` of the caption, without its connective and without closing punctuation."""

    start: int
    end: int
    text: str
    verb: str = ""
    """Lemma of the main verb; empty where the rules found none."""
    subject: tuple[int, int] | None = None
    """Span of the subject in the caption; None when the clause has none of its own ("and sits down")."""
    predicate: int | None = None
    """Where the predicate starts in the caption; None when it was not found."""
    sentence: int = 0
    stative: bool = False
    """A state or a background ("a dog is lying on a sofa"), not something that happens at one moment."""


@dataclass(frozen=True)
class Relation:
    """Time relation of event `first` to event `second` (indices into `Caption.events`, in the order of the text)."""

    first: int
    second: int
    kind: str
    """before | after | simultaneous | unknown: `first` happens <kind> `second`."""
    cue: str = ""
    """The words that say so ("then", "after", "一边…一边"); "given" when the caller knows; empty for unknown."""


@dataclass(frozen=True)
class Caption:
    """A caption and its events in the order of the text. Spans are [start, end) in characters of `text`."""

    text: str
    language: str
    sentences: tuple[tuple[int, int], ...]
    events: tuple[Event, ...]
    relations: tuple[Relation, ...]
    parser: str
    """What found the events: rules | spacy | jieba | given."""

    def relation(self, first: int, second: int) -> Relation:
        """The relation of two events, `unknown` where the text says nothing."""
        for relation in self.relations:
            if (relation.first, relation.second) == (first, second):
                return relation
        return Relation(first, second, UNKNOWN)


@dataclass(frozen=True)
class Negative:
    """A wrong caption with its evidence."""

    text: str
    kind: str
    edit: dict = field(default_factory=dict)
    """JSON: `spans` in the chosen text and `rejected_spans` in this one, lists of [start, end); plus
    operator-specific keys."""
    why: str = ""
