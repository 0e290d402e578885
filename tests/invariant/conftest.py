"""Known bugs, planted one at a time into the source of a module of ours."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

NUMBERS = itertools.count()


@pytest.fixture
def planted() -> Callable[[ModuleType, str, str], ModuleType]:
    """(module, text of its source, text with the bug) -> the module with the bug; the text must occur once."""

    def get(module: ModuleType, old: str, new: str) -> ModuleType:
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{module.__name__} has {old!r} {source.count(old)} times: mend the mutant."
        mutant = ModuleType(f"{module.__name__}_mutant_{next(NUMBERS)}")
        exec(compile(source.replace(old, new), module.__file__, "exec"), mutant.__dict__)
        return mutant

    return get
