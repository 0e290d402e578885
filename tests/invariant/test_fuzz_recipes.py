"""200 broken recipes: each is read or refused in words, in time, without a traceback, and nothing is written."""

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlkit import cli
from rlkit.recipe.keys import all_keys

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.name for path in RECIPES.glob("*.yaml") if not path.name.startswith("compare_"))
KEYS = sorted(all_keys())
SLOWEST = 10  # seconds; a recipe takes about 0.1

JUNK = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(
        [
            "null",
            "true",
            "[]",
            "{}",
            "[1, 2",
            "{a: b",
            "'",
            '"',
            "|",
            ">",
            "&a",
            "*a",
            "<<: *a",
            "!!python/object:os.system x",
            "!!binary aGk=",
            "1e999",
            ".nan",
            "-.inf",
            "0x7f",
            "1_000",
            "2024-01-01",
            "~",
            "-",
            "?",
            ":",
            "#",
            "%YAML 1.1",
            "---",
            "...",
            "\t",
            "\x00",
            "\ufeff",
            "\u202e",
            "٣",
            "9" * 400,
            "[" * 500,
            "a: " * 300,
            "../" * 40,
            "/dev/null",
            "/",
            ".",
            "~root",
            "$HOME",
            "[null]",
            "{null: 1}",
            "{1: 2}",
            "{[a]: 1}",
            "[[[]]]",
            "'1'",
            "yes",
            "no",
            "on",
            "0",
            "-1",
            "0.0",
            "1.0",
        ]
    ),
)
"""What may stand where a value is expected: any text, numbers without end, YAML's own odd corners."""

LINE_EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["drop", "twice", "value", "key", "insert", "indent", "cut", "swap"]),
        JUNK,
    ),
    min_size=1,
    max_size=3,
)
OVERRIDES = st.lists(st.tuples(st.sampled_from(KEYS), JUNK).map("=".join) | JUNK, max_size=2)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def broken(text: str, edits) -> str:
    """The recipe after some edits, each at a place given as a share of its lines."""
    lines = text.splitlines()
    for share, edit, junk in edits:
        k = int(share * len(lines))
        key, colon, _ = lines[k].partition(":")
        new = {
            "drop": [],
            "twice": [lines[k], lines[k]],
            "value": [f"{key}{colon} {junk}"],
            "key": [f"{key[: len(key) - len(key.lstrip())]}{junk}:{lines[k].partition(':')[2]}"],
            "insert": [junk, lines[k]],
            "indent": ["   " + lines[k]],
            "cut": [lines[k][: len(lines[k]) // 2]],
            "swap": [lines[-1], lines[k]],
        }[edit]
        lines[k : k + 1] = new
        lines = lines or [""]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(RECIPES, folder / "recipes")
    return folder


def answer(place: Path, recipe: Path, overrides, capsys) -> tuple[int, str]:
    """Exit code of `rlkit check` and all that it printed."""
    before = files(place)
    start = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(recipe), *overrides])
    assert time.monotonic() - start < SLOWEST
    assert files(place) == before
    told = capsys.readouterr()
    return ended.value.code, told.out + told.err


def files(place: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.stat() for path in place.rglob("*")}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.sampled_from(NAMES), edits=LINE_EDITS, overrides=OVERRIDES)
def test_a_broken_recipe_is_read_or_refused_in_words(place, monkeypatch, capsys, name, edits, overrides):
    monkeypatch.chdir(place)
    recipe = place / "recipes" / f"broken_{name}"
    recipe.write_bytes(broken((RECIPES / name).read_text(), edits).encode("utf-8", "surrogatepass"))
    code, told = answer(place, recipe, overrides, capsys)
    recipe.unlink()
    assert code in (0, 2)
    assert told.strip() and "Traceback" not in told


def test_aliases_of_aliases_are_refused_at_once(place, monkeypatch, capsys):
    """Nine lists of nine aliases each: written out, 9^9 values."""
    monkeypatch.chdir(place)
    recipe = place / "recipes" / "bomb.yaml"
    recipe.write_text(BOMB + "algorithm: sft\n")
    code, told = answer(place, recipe, [], capsys)
    assert code == 2 and "bomb.yaml:" in told and len(told) < 10_000
