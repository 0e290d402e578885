"""Completions as text, whichever form they come in."""

from typing import Any


def text_of(value: Any) -> str:
    """A string, or the text of the last of TRL's messages.

    >>> text_of([{"role": "system", "content": "Draw."}, {"role": "user", "content": "A red ball."}])
    'A red ball.'
    """
    if isinstance(value, str):
        return value
    content = value[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
