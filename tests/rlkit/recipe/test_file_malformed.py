"""Malformed recipes: each gives file:line, finding and remedy, exit code 2, no traceback, and writes nothing."""
# ruff: noqa: E501 (a table is read across, one case a line)

import subprocess
import sys
from pathlib import Path

import pytest

from rlkit.errors import RecipeError
from rlkit.recipe.file import load

HEADER = 'rlkit: r"""'
FOOTER = '# """; import rlkit; rlkit.main(__name__)'

# (name, text of the recipe or its bytes, overrides, what the message must contain, in this order)
CASES = [
    ("unknown key", "algorithm: ALGO\ntrain:\n  lerning_rate: 3\n", [], ["bad.yaml:3: unknown key 'train.lerning_rate'", "'learning_rate'"]),
    ("key of another section", "algorithm: ALGO\nlearning_rate: 1e-5\n", [], ["bad.yaml:2: unknown key 'learning_rate'", "under `train:`"]),
    ("nested section", "algorithm: ALGO\nmodel:\n  r: 8\n", [], ["bad.yaml:3: unknown key 'model.r'", "under `model: lora:`"]),
    ("top key in a section", "algorithm: ALGO\ntrain:\n  seed: 1\n", [], ["bad.yaml:3: unknown key 'train.seed'", "at the top"]),
    ("name from another tool", "algorithm: ALGO\nlr: 1e-5\n", [], ["bad.yaml:2: unknown key 'lr'", "It is called 'learning_rate' here"]),
    ("dotted key in the file", "algorithm: ALGO\ntrain.max_steps: 3\n", [], ["bad.yaml:2: unknown key 'train.max_steps'", "`train: {max_steps: ...}`"]),
    ("nothing like it", "algorithm: ALGO\nxyzzy: 1\n", [], ["bad.yaml:2: unknown key 'xyzzy'", "Keys at the top: algorithm"]),
    ("misspelt section", "algorithm: ALGO\ntrian:\n  max_steps: 1\n", [], ["bad.yaml:2: unknown key 'trian'", "Did you mean 'train'?"]),
    ("text for a number", "algorithm: ALGO\ntrain:\n  max_steps: many\n", [], ["bad.yaml:3: 'train.max_steps' is `many`", "a whole number"]),
    ("fraction for a whole number", "algorithm: ALGO\ntrain:\n  max_steps: 1.5\n", [], ["bad.yaml:3:", "`1.5`", "a whole number"]),
    ("exponent for a whole number", "algorithm: ALGO\ntrain:\n  max_steps: 1e3\n", [], ["bad.yaml:3:", "`1e3`", "Write 1000."]),
    ("octal", "algorithm: ALGO\nseed: 010\n", [], ["bad.yaml:2:", "`010`", "Write 10."]),
    ("sexagesimal", "algorithm: ALGO\nseed: 1:30\n", [], ["bad.yaml:2:", "`1:30`", "a whole number"]),
    ("thousands comma", "algorithm: ALGO\ntrain:\n  max_steps: 1,000\n", [], ["bad.yaml:3:", "`1,000`", "a whole number"]),
    ("quoted number", 'algorithm: ALGO\nseed: "3"\n', [], ["bad.yaml:2:", "the text '3'", "Remove the quotes."]),
    ("number for text", "algorithm: ALGO\nout: 3\n", [], ["bad.yaml:2:", "`3`", 'quote it: "3"']),
    ("NaN", "algorithm: ALGO\ntrain:\n  learning_rate: .nan\n", [], ["bad.yaml:3:", "`.nan`", "finite"]),
    ("bare nan", "algorithm: ALGO\ntrain:\n  learning_rate: nan\n", [], ["bad.yaml:3:", "`nan`", "finite"]),
    ("infinity", "algorithm: ALGO\ntrain:\n  learning_rate: .inf\n", [], ["bad.yaml:3:", "`.inf`", "finite"]),
    ("overflow", "algorithm: ALGO\ntrain:\n  learning_rate: 1e999\n", [], ["bad.yaml:3:", "`1e999`", "from 0 to 10"]),
    ("negative size", "algorithm: ALGO\ndata:\n  num_clips: -4\n", [], ["bad.yaml:3:", "`-4`", "outside the allowed range from 1"]),
    ("absurd size", "algorithm: ALGO\ndata:\n  num_clips: 99999999999999999999\n", [], ["bad.yaml:3:", "outside the allowed range"]),
    ("share above 1", "algorithm: ALGO\ndata:\n  noise: {salient_first: 70}\n", [], ["bad.yaml:3:", "'data.noise.salient_first' is `70`", "from 0 to 1"]),
    ("yes for true", "algorithm: ALGO\ntrain:\n  bf16: yes\n", [], ["bad.yaml:3:", "true or false", "Write true."]),
    ("number for true", "algorithm: ALGO\ntrain:\n  bf16: 1\n", [], ["bad.yaml:3:", "`1`", "Write true."]),
    ("bad choice", "algorithm: ALGO\nmodel:\n  dtype: bf16\n", [], ["bad.yaml:3: 'model.dtype' is `bf16`", "'bfloat16'", "float32, bfloat16, float16"]),
    ("bad choice in a list", "algorithm: ALGO\nevaluate:\n  controls: [blind, shufled]\n", [], ["bad.yaml:3:", "`shufled`", "'shuffled'"]),
    ("unknown loss", "algorithm: ALGO\nloss:\n  types: {sigmoyd: 1.0}\n", [], ["bad.yaml:3: 'sigmoyd' is not known to 'loss.types'", "'sigmoid'"]),
    ("scalar for a section", "algorithm: ALGO\ntrain: fast\n", [], ["bad.yaml:2: 'train' is `fast`", "a section with learning_rate"]),
    ("empty section", "algorithm: ALGO\ntrain:\nseed: 1\n", [], ["bad.yaml:2: 'train' is nothing", "Indent its keys beneath it"]),
    ("empty value", "algorithm: ALGO\nseed:\n", [], ["bad.yaml:2: 'seed' is nothing", "remove the line for the default"]),
    ("list for a number", "algorithm: ALGO\nseed: [1, 2, 3]\n", [], ["bad.yaml:2: 'seed' is a list of 3", "a whole number"]),
    ("scalar for a list", "algorithm: ALGO\nneeds: other.yaml\n", [], ["bad.yaml:2: 'needs' is `other.yaml`", "Write [other.yaml]."]),
    ("section for a list", "algorithm: ALGO\nnegatives: {order_swap: 1}\n", [], ["bad.yaml:2: 'negatives' is a section with order_swap", "a list"]),
    ("duplicate key", "algorithm: ALGO\nseed: 1\nseed: 2\n", [], ["bad.yaml:3: the key 'seed' again", "bad.yaml:2"]),
    ("duplicate key in a section", "algorithm: ALGO\ntrain:\n  bf16: true\n  bf16: false\n", [], ["bad.yaml:4: the key 'bf16' again", "bad.yaml:3"]),
    ("no algorithm", "seed: 1\n", [], ["bad.yaml:1: the key 'algorithm' is missing"]),
    ("unknown algorithm", "algorithm: dqo\n", [], ["bad.yaml:1: 'algorithm' is `dqo`", "no file rlkit/train/dqo.py"]),
    ("missing plug-in file", "algorithm: ./nowhere.py\n", [], ["bad.yaml:1: 'algorithm' is `./nowhere.py`", "no file ./nowhere.py"]),
    ("plug-in without entry", "algorithm: ./noentry.py\n", [], ["bad.yaml:1:", "noentry.py has no function `run`"]),
    ("plug-in that is not Python", "algorithm: ./broken.py\n", [], ["bad.yaml:1:", "broken.py:2 is not valid Python"]),
    ("unknown negative", "algorithm: ALGO\nnegatives: [order_swop]\n", [], ["bad.yaml:2: 'negatives[0]' is `order_swop`", "'order_swap'"]),
    ("unknown option", "algorithm: ALGO\nnegatives:\n- ./mine.py:\n    strenth: 1\n", [], ["bad.yaml:4: mine.py has no option 'strenth'", "'strength'"]),
    ("option of a wrong type", "algorithm: ALGO\nnegatives:\n- ./mine.py:\n    strength: a lot\n", [], ["bad.yaml:4:", "`a lot`", "a number"]),
    ("missing option", "algorithm: ALGO\nnegatives: [./needy.py]\n", [], ["bad.yaml:2: needy.py needs the option 'words'"]),
    ("option we supply", "algorithm: ALGO\nnegatives:\n- ./mine.py: {seed: 3}\n", [], ["bad.yaml:3: mine.py has no option 'seed'"]),
    ("options not a section", "algorithm: ALGO\nnegatives:\n- ./mine.py: 3\n", [], ["bad.yaml:3:", "`{./mine.py: {option: value}}`"]),
    ("two names in one item", "algorithm: ALGO\nnegatives:\n- {order_swap: {}, verbose: {}}\n", [], ["bad.yaml:3:", "Each item of the list holds one name"]),
    ("need that is missing", "algorithm: ALGO\nneeds: [base.yaml]\n", [], ["bad.yaml:2: 'needs' names base.yaml", "no such file"]),
    ("need of itself", "algorithm: ALGO\nneeds: [bad.yaml]\n", [], ["bad.yaml:2: 'needs' goes in a circle: bad.yaml -> bad.yaml"]),
    ("error in a need", "algorithm: ALGO\nneeds: [wrong.yaml]\n", [], ["wrong.yaml:2: unknown key 'sead'", "'seed'"]),
    ("missing folder", "algorithm: ALGO\ndata:\n  source: folder\n  folder: clips/\n", [], ["bad.yaml:4: 'data.folder' is `clips/`", "no such folder"]),
    ("missing model", "algorithm: ALGO\nmodel:\n  id: runs/sft/final\n", [], ["bad.yaml:3: 'model.id' is `runs/sft/final`", "no such folder"]),
    ("contradiction", "algorithm: ALGO\nmodel: {dtype: bfloat16}\ntrain:\n  bf16: true\n", [], ["bad.yaml:4: bf16 is mixed precision"]),
    ("contradiction with a default", "algorithm: ALGO\ndata:\n  fps: 2\n", [], ["bad.yaml:3: give either num_frames or fps"]),
    ("unknown key in a variant", "algorithm: ALGO\nvariants:\n  k1: {num_negative: 1}\n", [], ["bad.yaml:3: 'num_negative' in 'variants.k1'", "'num_negatives'"]),
    ("section in a variant", "algorithm: ALGO\nvariants:\n  k1: {retain: {}}\n", [], ["bad.yaml:3: 'retain' in 'variants.k1'", "a section", "retain.probes"]),
    ("wrong type in a variant", "algorithm: ALGO\nvariants:\n  k1: {num_negatives: few}\n", [], ["bad.yaml:3:", "`few`", "a whole number"]),
    ("variant that is no section", "algorithm: ALGO\nvariants: {k1: 3}\n", [], ["bad.yaml:2: 'variants.k1' is `3`", "a section"]),
    ("LoRA on vision without LoRA", "algorithm: ALGO\nmodel: {vision: lora}\n", [], ["bad.yaml:2: lora needs model.lora"]),
    ("no weight at all", "algorithm: ALGO\nloss:\n  types: {sigmoid: 0}\n", [], ["bad.yaml:3: all weights are 0"]),
    ("tab", "algorithm: ALGO\ntrain:\n\tmax_steps: 3\n", [], ["bad.yaml:3: not readable as YAML", "use spaces"]),
    ("open quote", "algorithm: 'dpo\nseed: 1\n", [], ["bad.yaml:", "not readable as YAML", "opened and never closed"]),
    ("bad indentation", "algorithm: ALGO\n  seed: 1\n", [], ["bad.yaml:2: not readable as YAML", "indentation"]),
    ("document start", "---\nalgorithm: ALGO\n", [], ["bad.yaml:1: a line `---`", "Remove the line"]),
    ("two documents", "algorithm: ALGO\n---\nseed: 1\n", [], ["bad.yaml:2: a line `---`", "one document"]),
    ("alias", "algorithm: ALGO\nseed: &s 1\nnum_negatives: *s\n", [], ["bad.yaml:2: an anchor `&s`", "bad.yaml:3: an alias `*s`"]),
    ("merge key", "algorithm: ALGO\ntrain:\n  <<: {bf16: true}\n", [], ["bad.yaml:3: a merge key `<<`"]),
    ("tag", "algorithm: ALGO\nseed: !!python/object/apply:os.getpid []\n", [], ["bad.yaml:2: a tag `tag:yaml.org,2002:python"]),
    ("key that is a list", "algorithm: ALGO\n? [a, b]\n: 1\n", [], ["bad.yaml:2: found a list of 2 where a key belongs"]),
    ("list at the top", "- algorithm: ALGO\n", [], ["bad.yaml:1: found a list of 1", "`key: value` lines"]),
    ("text at the top", "dpo\n", [], ["bad.yaml:1: found `dpo`", "`key: value` lines"]),
    ("empty file", "", [], ["bad.yaml:1: the recipe is empty"]),
    ("not UTF-8", b"algorithm: ALGO\nout: caf\xe9\n", [], ["bad.yaml:2: byte 0xe9 is not UTF-8"]),
    ("UTF-16", "algorithm: ALGO\n".encode("utf-16"), [], ["bad.yaml:1: UTF-16 text"]),
    ("control character", "algorithm: ALGO\nout: a\x00b\n", [], ["bad.yaml:2: the character", "not allowed"]),
    ("too deep", "algorithm: ALGO\nloss: " + "{a: " * 40 + "1" + "}" * 40 + "\n", [], ["bad.yaml:2: ", "levels of nesting"]),
    ("footer missing", f"{HEADER}\nalgorithm: ALGO\n", [], ["bad.yaml:2: the last line", FOOTER]),
    ("footer changed", f"{HEADER}\nalgorithm: ALGO\n# \"\"\"; import os; os.getpid()\n", [], ["bad.yaml:3: the last line", FOOTER]),
    ("header missing", f"algorithm: ALGO\n{FOOTER}\n", [], ["bad.yaml:1: the last line is a recipe's, but the first"]),
    ("header changed", f"rlkit: '''\nalgorithm: ALGO\n{FOOTER}\n", [], ["bad.yaml:1: found `rlkit: '''`", HEADER]),
    ("quotes inside", f'{HEADER}\nalgorithm: ALGO\nout: a"""b\n{FOOTER}\n', [], ["bad.yaml:3: three double quotes"]),
    ("code before the header", f"import os\n{HEADER}\nalgorithm: ALGO\n{FOOTER}\n", [], ["bad.yaml:"]),
    ("override of an unknown key", "algorithm: ALGO\n", ["train.lerning_rate=3"], ["override train.lerning_rate=3: unknown key", "'learning_rate'"]),
    ("override of an unknown section", "algorithm: ALGO\n", ["trian.seed=3"], ["override trian.seed=3: unknown key 'trian'", "'train'"]),
    ("override of a wrong type", "algorithm: ALGO\n", ["seed=abc"], ["override seed=abc: 'seed' is `abc`", "a whole number"]),
    ("override without a value", "algorithm: ALGO\n", ["seed="], ["override seed=: 'seed' is"]),
    ("override without =", "algorithm: ALGO\n", ["seed"], ["override seed: expected key=value"]),
    ("override in another tool's way", "algorithm: ALGO\n", ["--seed=3"], ["override --seed=3: expected key=value", "Write seed="]),
    ("override that is not YAML", "algorithm: ALGO\n", ["negatives=[a"], ["override negatives=[a: the value is not readable"]),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("algo.py").write_text("def run(recipe, folder):\n    raise SystemExit('must not run')\n")
    Path("noentry.py").write_text("def walk(recipe, folder): ...\n")
    Path("broken.py").write_text("x = 1\ndef run(:\n")
    Path("mine.py").write_text("def corrupt(caption, *, seed: int = 0, strength: float = 1.0): ...\n")
    Path("needy.py").write_text("def corrupt(caption, *, seed: int = 0, words: int): ...\n")
    Path("wrong.yaml").write_text("algorithm: ./algo.py\nsead: 1\n")
    return tmp_path


def write(text):
    raw = text if isinstance(text, bytes) else text.encode()
    Path("bad.yaml").write_bytes(raw.replace(b"ALGO", b"./algo.py"))


@pytest.mark.parametrize(
    ("text", "overrides", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_message_names_place_finding_and_remedy(folder, text, overrides, expected):
    write(text)
    with pytest.raises(RecipeError) as caught:
        load("bad.yaml", overrides)
    message, at = str(caught.value), 0
    for part in expected:
        assert part in message[at:], message
        at = message.index(part, at)


@pytest.mark.parametrize(
    ("text", "overrides", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_check_exits_with_2_and_writes_nothing(folder, capsys, text, overrides, expected):
    from rlkit.cli import main

    write(text)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SystemExit) as caught:
        main(["check", "bad.yaml", "--", *overrides])
    assert caught.value.code == 2
    assert expected[0] in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_all_problems_come_at_once(folder):
    write("algorithm: ALGO\nsead: 1\nmodel:\n  dtype: int4\ntrain:\n  max_steps: many\n  max_steps: 3\n")
    with pytest.raises(RecipeError) as caught:
        load("bad.yaml", ["loss.bta=1"])
    places = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert sorted(places) == ["bad.yaml:2", "bad.yaml:4", "bad.yaml:6", "bad.yaml:7", "override loss.bta=1"]


@pytest.mark.parametrize("missing", ["nowhere.yaml", "."])
def test_path_that_is_no_recipe(folder, missing):
    with pytest.raises(RecipeError, match=r"no such file|a folder, not a recipe"):
        load(missing)


def test_huge_file_is_refused_unread(folder):
    Path("bad.yaml").write_text("# " + "x" * (1 << 21))
    with pytest.raises(RecipeError, match="more than any recipe has"):
        load("bad.yaml")


@pytest.mark.parametrize(
    "command",
    [["bad.yaml"], ["-m", "rlkit", "bad.yaml"], ["-c", "from rlkit.cli import main; main()", "check", "bad.yaml"]],
    ids=["python recipe.yaml", "python -m rlkit", "rlkit check"],
)
def test_no_traceback_however_it_is_launched(folder, command):
    write(f"{HEADER}\nalgorithm: ALGO\nsead: 1\n{FOOTER}\n")
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert "bad.yaml:3: unknown key 'sead'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("runs").exists()
