"""Who is meant, in Chinese: clauses change places as they stand."""


def swap(first: str, second: str) -> tuple[str, str] | None:
    """The two clauses in each other's slot: (text for the first slot, text for the second slot)."""
    return second, first
