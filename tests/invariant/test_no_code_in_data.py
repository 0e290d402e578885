"""Nothing that comes as data may run as code: no call in the packages reads pickles or asks a hub for code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for top in ("rlkit", "reward_models", "data_synth") for path in (ROOT / top).rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def calls(tree, name):
    """Every call of `name`, as x.name(...) or name(...)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == name:
                yield node


def value_of(call, keyword):
    return next((one.value for one in call.keywords if one.arg == keyword), None)


def is_true(node) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def problems(text: str) -> list[str]:
    """What is wrong with one file."""
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and [one.name for one in node.names] != ["UnpicklingError"]:
            names.append(node.module or "")
        found += [f"line {node.lineno}: imports {n}" for n in names if n.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found += [f"line {node.lineno}: trust_remote_code"]
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and is_true(node.value):
            found += [f"line {node.lineno}: allow_pickle"]
    for call in calls(tree, "load"):
        of_torch = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "torch"
        if of_torch and not is_true(value_of(call, "weights_only")):
            found.append(f"line {call.lineno}: torch.load without weights_only=True")
    for call in calls(tree, "save"):
        if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "torch":
            found.append(f"line {call.lineno}: torch.save writes a pickle")
    return found


def test_no_file_reads_or_writes_code_as_data():
    assert len(SOURCES) > 200
    found = {str(path.relative_to(ROOT)): problems(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(state, path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_each_trap_is_seen(text):
    assert len(problems(text)) == 1


def test_no_recipe_asks_for_code_from_a_hub():
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert "trust_remote_code" not in path.read_text(encoding="utf-8"), path
