"""The one exception that bad input raises in data_synth."""


class DataError(ValueError):
    """Input that cannot be used. The message is one sentence: what was found, where, what was expected, what to do."""
