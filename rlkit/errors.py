"""The errors a user can cause; each says in one sentence what was found, where, what was expected and what to do.

RlkitError
├── RecipeError      the recipe or an override is wrong; carries every problem found, not only the first
├── RunFolderError   the run folder holds something else, or is damaged
├── PlanError        the settings cannot work together on the machine asked for
├── ModelError       a model cannot be loaded, or cannot do what was asked of it
├── DataError        a clip, caption or pair file cannot be used
├── GuardError       a guard stopped the run
└── GateError        a judge or reward that would make the policy worse
"""

from __future__ import annotations

from collections.abc import Sequence


class RlkitError(Exception):
    """Anything a user can put right. Reaches them as one panel without a traceback and ends the process with
    `exit_code`."""

    exit_code = 1


class RecipeError(RlkitError):
    """Every problem of a recipe at once, each `file:line: what was found. What to do.`"""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RunFolderError(RlkitError):
    """The run folder holds another recipe's run, or a file in it is damaged."""

    exit_code = 2


class PlanError(RlkitError):
    """Settings that cannot work together, for example a batch that does not divide."""

    exit_code = 2


class ModelError(RlkitError):
    """A model that cannot be loaded, or cannot do what the recipe asks of it."""


class DataError(RlkitError):
    """A clip, caption or pair file that cannot be used. (data_synth has its own DataError; both are shown alike.)"""


class GuardError(RlkitError):
    """A guard found that going on would waste the run."""


class GateError(RlkitError):
    """A judge or reward that chooses no better than the policy does by itself, and would make it worse."""
