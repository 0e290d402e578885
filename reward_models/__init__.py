"""What is good: functions that score text, images and video. Imports nothing else of this project.

    score = reward_models.load("event_order", device="cpu", parse=my_parser)
    score(prompts=[...], completions=[...], events=[...])   # -> list of float | None, one per completion

A reward is a file with `load(device, **options) -> score`. `score` takes keyword arguments only: `prompts` and
`completions` of one length (a completion is text, TRL messages, a PIL image, or frames [T, H, W, 3] uint8) and further
columns as lists of that length; it is TRL's reward function. None means "no score" and is masked, never counted as 0.
Where a differentiable path exists, `score.score_tensors` takes tensors instead.
"""

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Score = Callable[..., list[float | None]]
MANIFEST = "reward.json"
"""In the folder of a trained reward: {"reward": <name of the file here that loads it>, "options": {...}}."""


def load(name: str | Path, *, device: str = "cpu", **options: Any) -> Score:
    """The reward `name`: a file here (`clip_score`), your own file (`./mine.py`), or the folder of a trained one
    (`runs/reward_aesthetic/final`, which knows its file by reward.json).

    Raises FileNotFoundError for a name that is none of these, ValueError for a file without `load`.
    """
    path = Path(name)
    if (path / MANIFEST).is_file():
        told = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return load(told["reward"], device=device, model=str(path), **(told.get("options", {}) | options))
    if path.suffix == ".py":
        module = _from_file(path)
    elif str(name).isidentifier() and (Path(__file__).parent / f"{name}.py").is_file():
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        ours = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py") if "def load(" in file.read_text())
        raise FileNotFoundError(
            f"no reward {str(name)!r}: expected one of {', '.join(ours)}, the path of a .py file, or a folder with "
            f"{MANIFEST}."
        )
    if not hasattr(module, "load"):
        raise ValueError(f"{module.__file__} has no function `load(device, **options)`; that is what a reward is.")
    score = module.load(device, **options)
    if inspect.isfunction(score) and score.__name__ in ("score", "<lambda>"):  # a name of its own is kept
        score.__name__ = path.stem  # TRL logs a reward under this name
    return score


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; a reward of your own is the path of a .py file.")
    spec = importlib.util.spec_from_file_location(f"reward_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
