"""Events: caption in, atomic events with spans and their order in time out. English and Chinese, rules first."""

from data_synth.events.parse import detect_language, parse, with_events
from data_synth.events.types import AFTER, BEFORE, SIMULTANEOUS, UNKNOWN, Caption, Event, Negative, Relation

__all__ = [
    "AFTER",
    "BEFORE",
    "SIMULTANEOUS",
    "UNKNOWN",
    "Caption",
    "Event",
    "Negative",
    "Relation",
    "detect_language",
    "parse",
    "with_events",
]
