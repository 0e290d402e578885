"""What a record must be: every problem of one record, each naming its field."""

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

MAX_CAPTION_BYTES = 100_000
ROLES = ("system", "user", "assistant", "tool")
TIERS = ("gold", "silver", "bronze")
# Control characters except tab and line breaks, half surrogate pairs, and the last two code points of every plane.
# Unassigned characters pass: emoji are newer than Python's tables.
NOT_TEXT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)


def check(record: Mapping[str, Any], *, root: str | Path | None = None) -> list[str]:
    """All problems of a record, as `field: what was found, what was expected`; an empty list for a good one.

    With `root`, the folder that media paths are relative to, each file must also exist and lie inside it.
    """
    if not isinstance(record, Mapping):
        return [f"record: found {_kind(record)}, expected an object with prompt, chosen and rejected."]
    problems = _check_media(record, root)
    problems += _check_messages(record.get("prompt"), "prompt", {"system", "user", "assistant", "tool"})
    answers = _check_messages(record.get("chosen"), "chosen", {"assistant"}) + _check_rejected(record)
    problems += answers or _check_differ(record["chosen"], record["rejected"])
    problems += _check_placeholders(record)
    problems += _check_provenance(record)
    return problems


def check_caption(text: Any, field: str) -> list[str]:
    """Problems of one caption: wrong type, empty, too long, or characters that no caption contains."""
    if not isinstance(text, str):
        return [f"{field}: found {_kind(text)}, expected text."]
    if not text.strip():
        return [f"{field}: the text is empty."]
    if len(text) > MAX_CAPTION_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_CAPTION_BYTES:
        size = len(text.encode("utf-8", "surrogatepass"))
        return [f"{field}: the text has {size} bytes, the limit is {MAX_CAPTION_BYTES}."]
    found = NOT_TEXT.search(text)
    if found:
        code = ord(found.group())
        return [f"{field}: character U+{code:04X} at {found.start()} is a control character or no character."]
    return []


def check_path(path: Any, field: str, root: str | Path | None = None) -> list[str]:
    """Problems of a media path: wrong type, an address, leaving the data folder, or (with root) no such file."""
    if not isinstance(path, str) or not path.strip():
        return [f"{field}: found {_kind(path)}, expected the path of a file."]
    if "://" in path:
        return [f"{field}: '{path}' is an address; download the file and give its path."]
    if NOT_TEXT.search(path) or set(path) & set("\t\n\r"):
        return [f"{field}: the path {path!r} holds control characters."]
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
    if not absolute and ".." in PurePosixPath(path.replace("\\", "/")).parts:
        return [f"{field}: '{path}' leaves the data folder."]
    if root is None:
        return []
    inside = Path(root).resolve()
    full = (inside / path).resolve()  # follows links, so a link out of the folder is found as well
    if not full.is_relative_to(inside):
        return [f"{field}: '{path}' leaves the data folder {root}."]
    return [] if full.is_file() else [f"{field}: '{path}' is not a file in {root}."]


def _check_media(record, root) -> list[str]:
    problems = []
    for field in ("videos", "images"):
        paths = record.get(field)
        if paths is None:
            continue
        if not isinstance(paths, list | tuple):
            problems.append(f"{field}: found {_kind(paths)}, expected a list of paths.")
            continue
        for i, path in enumerate(paths):
            problems += check_path(path, f"{field}[{i}]", root)
    return problems


def _check_messages(messages, field: str, roles: set[str]) -> list[str]:
    if not isinstance(messages, list | tuple) or not messages:
        return [f"{field}: found {_kind(messages)}, expected a list of messages with role and content."]
    problems = []
    for i, message in enumerate(messages):
        where = f"{field}[{i}]"
        if not isinstance(message, Mapping):
            problems.append(f"{where}: found {_kind(message)}, expected a message with role and content.")
        elif message.get("role") not in roles:
            problems.append(f"{where}.role: found {message.get('role')!r}, expected {' or '.join(sorted(roles))}.")
        else:
            problems += _check_content(message.get("content"), f"{where}.content")
    if not problems and field == "prompt" and messages[-1]["role"] != "user":
        problems.append(f"{field}: ends with role {messages[-1]['role']!r}, expected 'user'.")
    return problems


def _check_content(content, field: str) -> list[str]:
    if isinstance(content, str):
        return check_caption(content, field)
    if not isinstance(content, list | tuple) or not content:
        return [f"{field}: found {_kind(content)}, expected text or a list of parts."]
    problems = []
    for i, part in enumerate(content):
        where = f"{field}[{i}]"
        if not isinstance(part, Mapping):
            problems.append(f"{where}: found {_kind(part)}, expected a part with a type.")
        elif part.get("type") == "text":
            problems += check_caption(part.get("text"), f"{where}.text")
        elif part.get("type") not in ("image", "video"):
            problems.append(f"{where}.type: found {part.get('type')!r}, expected text, image or video.")
    return problems


def _check_rejected(record) -> list[str]:
    rejected = record.get("rejected")
    if not isinstance(rejected, list | tuple) or not rejected:
        return [f"rejected: found {_kind(rejected)}, expected a list with at least one list of messages."]
    problems = []
    for k, messages in enumerate(rejected):
        problems += _check_messages(messages, f"rejected[{k}]", {"assistant"})
    for field in ("rejected_kind", "rejected_weight", "edit"):
        values = record.get(field)
        if values is None:
            continue
        if not isinstance(values, list | tuple):
            problems.append(f"{field}: found {_kind(values)}, expected a list with one entry per rejected answer.")
        elif len(values) != len(rejected):
            problems.append(f"{field}: has {len(values)} entries, but there are {len(rejected)} rejected answers.")
        elif field == "rejected_weight":
            problems += [p for k, w in enumerate(values) for p in _check_weight(w, f"{field}[{k}]")]
        elif field == "rejected_kind":
            problems += [
                f"{field}[{k}]: found {_kind(kind)}, expected text." for k, kind in enumerate(values) if not _word(kind)
            ]
    return problems


def _check_differ(chosen, rejected) -> list[str]:
    seen = {answer_text(chosen): "chosen"}
    problems = []
    for k, messages in enumerate(rejected):
        answer = answer_text(messages)
        if answer in seen:
            problems.append(f"rejected[{k}]: is the same text as {seen[answer]}.")
        seen.setdefault(answer, f"rejected[{k}]")
    return problems


def _check_weight(weight, field: str) -> list[str]:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return [f"{field}: found {_kind(weight)}, expected a number."]
    if not math.isfinite(weight) or weight < 0:
        return [f"{field}: found {weight}, expected a number of at least 0."]
    return []


def _check_placeholders(record) -> list[str]:
    """As many video and image parts in the prompt as there are files."""
    prompt = record.get("prompt")
    if not isinstance(prompt, list | tuple):
        return []
    contents = [m.get("content") for m in prompt if isinstance(m, Mapping)]
    parts = [p for c in contents if isinstance(c, list | tuple) for p in c if isinstance(p, Mapping)]
    problems = []
    for kind in ("video", "image"):
        files, found = record.get(f"{kind}s") or [], sum(p.get("type") == kind for p in parts)
        if isinstance(files, list | tuple) and len(files) != found:
            problems.append(f"{kind}s: {len(files)} files, but the prompt has {found} {kind} parts.")
    return problems


def _check_provenance(record) -> list[str]:
    problems = []
    for field in (
        "pair_id",
        "source_id",
        "parent_id",
        "operator",
        "licence",
        "consent",
        "rubric_version",
        "rlkit_version",
    ):
        if record.get(field) is not None and not isinstance(record[field], str):
            problems.append(f"{field}: found {_kind(record[field])}, expected text.")
    seed = record.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        problems.append(f"seed: found {_kind(seed)}, expected a whole number.")
    if record.get("tier") not in (None, *TIERS):
        problems.append(f"tier: found {record['tier']!r}, expected {', '.join(TIERS)} or nothing.")
    for field in ("scores", "options"):
        problems += _check_json(record.get(field), field)
    return problems


def _check_json(value, field: str) -> list[str]:
    """NaN and infinity are no JSON; they would come back as something else."""
    if isinstance(value, Mapping):
        return [p for k, v in value.items() for p in _check_json(v, f"{field}.{k}")]
    if isinstance(value, list | tuple):
        return [p for i, v in enumerate(value) for p in _check_json(v, f"{field}[{i}]")]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{field}: found {value}, expected a finite number."]
    if value is not None and not isinstance(value, str | int | float):
        return [f"{field}: found {_kind(value)}, expected JSON values."]
    return []


def answer_text(messages: list[dict]) -> str:
    """The words of an answer, for comparing: white space does not make two answers different."""
    words = []
    for message in messages:
        content = message.get("content")
        parts = (
            [content] if isinstance(content, str) else [p.get("text", "") for p in content if isinstance(p, Mapping)]
        )
        words += " ".join(p for p in parts if isinstance(p, str)).split()
    return " ".join(words)


def _word(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str | list | tuple | dict) and not value:
        return f"an empty {'text' if isinstance(value, str) else 'list' if not isinstance(value, dict) else 'object'}"
    names = {str: "text", bool: "true/false", int: "a number", float: "a number", dict: "an object", list: "a list"}
    return names.get(type(value), type(value).__name__)
