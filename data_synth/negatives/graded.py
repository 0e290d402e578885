"""Graded chains for listwise training: the caption with 0, 1, 2, ... errors, each link one more than the link
before."""

import random
from collections.abc import Callable, Sequence

from data_synth.events import Caption, Negative, parse
from data_synth.negatives import actor_swap, attribute_swap, count_change, direction_flip, event_replace, order_swap

Operator = Callable[..., Negative | None]
OPERATORS: tuple[Operator, ...] = (
    order_swap.corrupt,
    attribute_swap.corrupt,
    direction_flip.corrupt,
    count_change.corrupt,
    actor_swap.corrupt,
    event_replace.corrupt,
)
"""What errors are made of, when the caller does not say. Each is used at most once in a chain."""


def chain(
    caption: str | Caption, *, seed: int = 0, errors: int = 3, operators: Sequence[Operator] = OPERATORS
) -> list[Negative]:
    """Negatives with 0, 1, ..., up to `errors` errors; shorter when no operator finds a further one.

    Link 0 is the caption itself (kind "none"). `edit["errors"]` counts, `edit["kinds"]` names what was done, in order.
    An error never undoes an earlier one: every text of the chain differs from all before.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    links = [Negative(caption.text, "none", {"errors": 0, "kinds": []}, "the caption itself")]
    order = list(operators)
    random.Random(f"{seed} {caption.text}").shuffle(order)
    kinds: list[str] = []
    current = caption
    for operator in order:
        if len(links) > errors:
            break
        found = operator(current, seed=seed)
        if found is None or found.text in {link.text for link in links}:
            continue
        kinds = [*kinds, found.kind]
        why = f"{links[-1].why}; {found.why}" if len(links) > 1 else found.why
        links.append(Negative(found.text, "graded", {"errors": len(kinds), "kinds": kinds}, why))
        current = parse(found.text, caption.language)
    return links


def corrupt(caption: str | Caption, *, seed: int = 0, errors: int = 2) -> Negative | None:
    """The link of a chain with exactly `errors` errors; None when the caption does not carry that many."""
    links = chain(caption, seed=seed, errors=errors)
    return links[errors] if len(links) > errors > 0 else None
