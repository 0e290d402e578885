"""Names that are files: where they are, and the options their entry functions take, read without running them."""

from pathlib import Path
from typing import Literal

import pytest

from rlkit import plugins
from rlkit.errors import RecipeError
from rlkit.recipe import ALGORITHM, FAMILY, NEGATIVE
from rlkit.recipe.file import load

KINDS = {"algorithm": ALGORITHM, "negative": NEGATIVE, "family": FAMILY}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options_of(signature, before=""):
    Path("mine.py").write_text(f"{before}def corrupt({signature}):\n    return None\n")
    return plugins.options(Path("mine.py"), NEGATIVE)


@pytest.mark.parametrize(
    ("annotation", "hint"),
    [
        ("int", int),
        ("float | None", float | None),
        ("'str'", str),
        ("list[str]", list[str]),
        ("dict[str, float]", dict[str, float]),
        ("Literal['a', 'b']", Literal["a", "b"]),
        ("np.ndarray", None),
    ],
)
def test_annotations_become_types_where_they_are_plain(folder, annotation, hint):
    assert options_of(f"caption, *, option: {annotation} = None")["option"].hint == hint


def test_only_keyword_only_arguments_count_and_seed_is_ours(folder):
    assert list(options_of("caption, other=1, *, seed: int = 0, strength: float = 1.0")) == ["strength"]


def test_an_argument_without_default_is_required(folder):
    found = options_of("caption, *, words, strength=1")
    assert (found["words"].required, found["strength"].required) == (True, False)


def test_the_file_is_read_not_run(folder):
    assert set(options_of("caption, *, strength=1", before="raise SystemExit('ran')\n")) == {"strength"}


def test_the_users_own_file_is_imported_when_it_is_used(folder):
    Path("mine.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    x: int = 3\n"
        "def corrupt(caption, *, seed=0):\n    return Mine().x\n"
    )
    assert plugins.load(NEGATIVE, str(folder / "mine.py"))("text") == 3


def test_a_packages_folder_elsewhere_is_a_path_too(folder):
    Path("deep").mkdir()
    Path("deep/mine.py").write_text("def corrupt(caption, *, seed=0): ...\n")
    assert plugins.locate(NEGATIVE, "deep/mine.py", folder) == folder / "deep" / "mine.py"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_plug_in_of_ours_is_found_and_read(kind):
    names = [name for name in plugins.available(kind) if name not in kind.built_in]
    assert names
    for name in names:
        plugins.options(plugins.locate(kind, name, Path.cwd()), kind)


@pytest.mark.parametrize("name", [name for name in plugins.available(NEGATIVE) if name not in NEGATIVE.built_in])
def test_every_negative_of_ours_can_be_named_in_a_recipe(folder, name):
    Path("algo.py").write_text("def run(recipe, folder): ...\n")
    Path("mine.yaml").write_text(f"algorithm: ./algo.py\nnegatives: [{{{name}: {{weight: 2}}}}]\n")
    (negative,) = load("mine.yaml").negatives
    assert (negative.name, negative.weight) == (name, 2.0)
    assert callable(plugins.load(NEGATIVE, name))


def test_an_unknown_name_lists_what_there_is(folder):
    with pytest.raises(RecipeError, match=r"no file data_synth/negatives/zzz.py. There are: own_samples"):
        plugins.locate(NEGATIVE, "zzz", folder)
