"""Captions that differ, for building pairs from."""

import json
import random
from pathlib import Path

THINGS = ("ball", "box", "cup", "rope", "shoe", "kite", "book", "lamp")
PLACES = ("beach", "kitchen", "garden", "street", "stage", "field")
COLOURS = ("red", "blue", "green", "white", "black", "yellow")


def caption(number: int) -> str:
    """Two to five sentences with stated order; every number gives another text."""
    a, b = THINGS[number % 8], THINGS[(number // 8 + 3) % 8]
    place, colour = PLACES[number // 3 % 6], COLOURS[number // 5 % 6]
    sentences = [
        f"A man in a {colour} coat number {number} walks across the {place}.",
        f"Then he picks up a {a} and turns to the left.",
        f"After that, he throws a {b} over two fences.",
        f"Then a lamp shines over the {place}.",
        f"Finally a dog runs away from the {place}.",
    ]
    return " ".join(sentences[: 2 + number * 7 % 4])


def shuffled(number: int) -> str:
    """Thirty words at random: no two numbers give texts that resemble each other."""
    draw = random.Random(number)
    syllables = ("ba", "ke", "li", "mo", "nu", "ra", "so", "ti")
    words = ["".join(draw.choices(syllables, k=3)) for _ in range(30)]
    return f"A man {' '.join(words)}. Then he turns to the left."


def write(path: Path, numbers, **changed) -> Path:
    """A JSONL file with a line per number; `changed` maps `row<number>` to another caption."""
    rows = [{"id": f"row{n}", "caption": changed.get(f"row{n}", caption(n))} for n in numbers]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
