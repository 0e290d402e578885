"""From the bytes of a recipe to a tree of values that know their line; nothing here knows what the keys mean."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlkit.errors import RecipeError

HEADER = 'rlkit: r"""'
FOOTER = '# """; import rlkit; rlkit.main(__name__)'
LARGEST_FILE = 1 << 20  # bytes; a recipe has 60 lines, so more is some other file
DEEPEST = 16


@dataclass(frozen=True)
class Scalar:
    """One value as written: its text, and whether it stood in quotes."""

    text: str
    quoted: bool

    @property
    def is_null(self) -> bool:
        """Whether YAML reads this as null."""
        return not self.quoted and self.text in ("", "~", "null", "Null", "NULL")


@dataclass
class Value:
    """A scalar, list or section and the place it was written: `recipes/x.yaml:4` or `override train.max_steps=3`."""

    where: str
    data: Scalar | list[Value] | dict[str, Value]


def read_tree(path: Path, name: str) -> tuple[Value, list[str]]:
    """Tree of the recipe at `path` without the key `rlkit`, and every problem of its form; `name` is how messages call
    it."""
    text = read_text(path, name)
    problems = list(frame_problems(text, name))
    try:
        tree, found = parse(text, name)
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems]) from None
    problems += found
    if isinstance(tree.data, dict):
        tree.data.pop("rlkit", None)
    return tree, problems


def read_text(path: Path, name: str) -> str:
    """Text of the file; raises RecipeError where it is missing, not a file, huge or not UTF-8."""
    if not path.exists():
        raise RecipeError(f"{name}: no such file. `rlkit ls` lists recipes, `rlkit new` makes one.")
    if not path.is_file():
        raise RecipeError(f"{name}: a folder, not a recipe file. Name the .yaml file in it.")
    if path.stat().st_size > LARGEST_FILE:
        raise RecipeError(f"{name}: {path.stat().st_size} bytes, more than any recipe has (1 MiB). Is it another file?")
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError(f"{name}:1: UTF-16 text. Save the recipe as UTF-8.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{name}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8. Save the recipe as UTF-8."
        ) from None


def parse(text: str, name: str) -> tuple[Value, list[str]]:
    """YAML text to a tree, with the problems of its form: duplicate keys, aliases, tags, several documents."""
    problems: list[str] = []
    try:
        events = list(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        raise RecipeError(_unreadable(error, name)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{name}:{line}: the character {error.character!r} is not allowed in YAML. Remove it."
        ) from None
    starts = [event for event in events if isinstance(event, yaml.DocumentStartEvent)]
    for number, event in enumerate(starts):
        if event.explicit:
            why = "a recipe is one document" if number else "Python, which also reads the file, cannot"
            problems.append(f"{name}:{event.start_mark.line + 1}: a line `---`, but {why}. Remove the line.")
    if not starts:
        return Value(f"{name}:1", {}), [
            *problems,
            f"{name}:1: the recipe is empty. `rlkit new` writes one to start from.",
        ]
    body = events[events.index(starts[0]) + 1 :]
    tree = _Reader(name, problems, body).value(None, 0)
    if not isinstance(tree.data, dict):
        problems.append(
            f"{tree.where}: found {shown(tree)}, expected `key: value` lines, the first of them `algorithm:`."
        )
        tree = Value(tree.where, {})
    return tree, problems


@dataclass
class _Reader:
    """Walks the parser's events once; state is the position and the problems met on the way."""

    name: str
    problems: list[str]
    events: list[yaml.Event]
    next: int = 0

    def value(self, where: str | None, depth: int) -> Value:
        """The next value: a scalar, a list or a mapping."""
        event = self.events[self.next]
        self.next += 1
        place = f"{self.name}:{event.start_mark.line + 1}"
        where = where or place
        if depth > DEEPEST:
            raise RecipeError(
                f"{place}: {depth} levels of nesting; a recipe has at most three sections inside each other."
            )
        if isinstance(event, yaml.AliasEvent):
            self.problems.append(
                f"{place}: an alias `*{event.anchor}`; a recipe says each value where it is used. Write it out."
            )
            return Value(where, Scalar("", False))
        if event.anchor is not None:
            self.problems.append(f"{place}: an anchor `&{event.anchor}`; recipes have no references. Remove it.")
        if event.tag is not None and event.tag != "!":
            self.problems.append(f"{place}: a tag `{event.tag}`; recipes hold plain values only. Remove the tag.")
        if isinstance(event, yaml.SequenceStartEvent):
            return Value(where, self.items(depth))
        if isinstance(event, yaml.MappingStartEvent):
            return Value(where, self.entries(depth))
        return Value(where, Scalar(event.value, event.style is not None))

    def items(self, depth: int) -> list[Value]:
        """The values of a list, up to its end."""
        items = []
        while not self.closes(yaml.SequenceEndEvent):
            items.append(self.value(None, depth + 1))
        return items

    def entries(self, depth: int) -> dict[str, Value]:
        """The keys and values of a mapping, up to its end."""
        entries: dict[str, Value] = {}
        while not self.closes(yaml.MappingEndEvent):
            key = self.value(None, depth + 1)
            entry = self.value(key.where, depth + 1)
            if not isinstance(key.data, Scalar):
                self.problems.append(f"{key.where}: found {shown(key)} where a key belongs. Keys are plain words.")
            elif key.data.text == "<<":
                self.problems.append(
                    f"{key.where}: a merge key `<<`; a recipe says each value where it is used. Write it out."
                )
            elif key.data.text in entries:
                first = entries[key.data.text].where
                self.problems.append(
                    f"{key.where}: the key '{key.data.text}' again; first at {first}. Keep one of the two."
                )
            else:
                entries[key.data.text] = entry
        return entries

    def closes(self, kind: type[yaml.Event]) -> bool:
        """Whether the next event ends the collection; if so it is taken."""
        ends = isinstance(self.events[self.next], kind)
        self.next += ends
        return ends


def _unreadable(error: yaml.MarkedYAMLError, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    advice = "Check the indentation and the colons of this line and the one before."
    if "'\\t'" in str(error.problem):
        advice = "Tabs cannot indent YAML; use spaces."
    elif "found unexpected end of stream" in str(error.problem):
        advice = "A quote or bracket is opened and never closed."
    return f"{name}:{line}: not readable as YAML: {error.problem or error.context}. {advice}"


def frame_problems(text: str, name: str) -> Iterator[str]:
    """What keeps Python from reading the recipe as exactly one string and one call; nothing for plain YAML without the
    frame."""
    lines = text.splitlines()
    written = [number for number, line in enumerate(lines, 1) if line.strip()]
    opening = next((number for number in written if not lines[number - 1].lstrip().startswith("#")), None)
    framed = opening is not None and lines[opening - 1].rstrip() == HEADER
    if not framed:
        if opening is not None and lines[opening - 1].startswith("rlkit:"):
            found = lines[opening - 1].strip()
            yield f"{name}:{opening}: found `{found}`; the first line of a launchable recipe is `{HEADER}`."
        elif written and lines[written[-1] - 1].strip() == FOOTER:
            yield f"{name}:{opening or 1}: the last line is a recipe's, but the first, `{HEADER}`, is missing. Add it."
        return
    last = written[-1]
    if lines[last - 1].rstrip() != FOOTER:
        yield f"{name}:{last}: the last line of a launchable recipe must be exactly `{FOOTER}`."
        return
    inside = next((number for number in written if opening < number < last and '"""' in lines[number - 1]), None)
    if inside is not None:
        yield f"{name}:{inside}: three double quotes, which end the recipe for Python. Use single quotes there."
    elif not _is_frame(text):
        yield f"{name}:{opening}: Python reads more here than the recipe and its last line. `rlkit new` shows the form."


def is_launchable(text: str) -> bool:
    """Whether `accelerate launch` can be given the file itself: to Python it is one annotated string and the known
    call."""
    return HEADER in text and _is_frame(text)


def _is_frame(text: str) -> bool:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return False
    known = ast.parse(f"{HEADER}\n{FOOTER}\n").body
    if len(body) != len(known) or not isinstance(body[0], ast.AnnAssign):
        return False
    annotation = body[0].annotation
    same_tail = all(ast.dump(ours) == ast.dump(theirs) for ours, theirs in zip(body[1:], known[1:], strict=True))
    plain = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str) and body[0].value is None
    return plain and same_tail and ast.dump(body[0].target) == ast.dump(known[0].target)


def shown(value: Value | Scalar) -> str:
    """A value for a message, short."""
    data = value.data if isinstance(value, Value) else value
    if isinstance(data, dict):
        return "a section with " + (", ".join(list(data)[:3]) or "nothing in it")
    if isinstance(data, list):
        return f"a list of {len(data)}"
    if data.is_null:
        return "nothing"
    text = data.text if len(data.text) <= 60 else data.text[:57] + "..."
    return f"the text {text!r}" if data.quoted else f"`{text}`"
