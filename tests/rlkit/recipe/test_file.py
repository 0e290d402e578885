"""Reading good recipes: types, overrides, plug-ins, needs, and writing one back."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from rlkit.errors import RecipeError
from rlkit.recipe import Lora, PlugIn, Recipe
from rlkit.recipe.file import as_dict, launchable, load, load_chain
from rlkit.recipe.keys import all_keys
from rlkit.recipe.text import FOOTER, HEADER, is_launchable


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("algo.py").write_text("def run(recipe, folder): ...\n")
    Path("mine.py").write_text(
        "def corrupt(caption, *, seed: int = 0, strength: float = 1.0, words: list[str] = ()): ...\n"
    )
    return tmp_path


def recipe(text, overrides=(), name="good.yaml"):
    Path(name).write_text(f"# Good.\n{HEADER}\nalgorithm: ./algo.py\n{text}\n{FOOTER}\n")
    return load(name, overrides)


def test_defaults_are_those_of_the_dataclasses(folder):
    assert recipe("") == Recipe(algorithm=str(folder / "algo.py"))


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-5", 1e-5), ("1.0e-05", 1e-5), ("0.00001", 1e-5), (".5", 0.5), ("2", 2.0), ("+1E-3", 1e-3), ("1_0", 10.0)],
)
def test_floats_as_people_write_them(folder, written, value):
    # PyYAML reads 1e-5 as text; a recipe must not.
    assert recipe(f"train:\n  learning_rate: {written}").train.learning_rate == value


@pytest.mark.parametrize(("written", "value"), [("0", 0), ("1_000", 1000), ("+7", 7)])
def test_whole_numbers(folder, written, value):
    assert recipe(f"seed: {written}").seed == value


@pytest.mark.parametrize("choice", ["auto", "on", "off"])
def test_choices_are_not_yaml_booleans(folder, choice):
    # YAML 1.1 reads on and off as true and false.
    assert recipe(f"model:\n  sharing: {choice}").model.sharing == choice


def test_null_turns_an_optional_section_off_and_braces_turn_it_on(folder):
    assert recipe("model:\n  lora: null").model.lora is None
    assert recipe("model:\n  lora: {}").model.lora == Lora()
    assert recipe("model:\n  lora: {r: 4}").model.lora == Lora(r=4)


def test_either_text_or_list(folder):
    assert recipe("model:\n  lora: {target_modules: all-linear}").model.lora.target_modules == "all-linear"
    assert recipe("model:\n  lora: {target_modules: [q_proj]}").model.lora.target_modules == ["q_proj"]


def test_overrides_win_and_the_last_one_counts(folder):
    read = recipe("seed: 1\ntrain:\n  max_steps: 5", ["seed=2", "train.max_steps=7", "train.max_steps=8"])
    assert (read.seed, read.train.max_steps) == (2, 8)


def test_override_of_lists_sections_and_entries(folder):
    overrides = [
        "negatives=[order_swap, own_samples]",
        "sampling.num_samples=2",
        "loss.types.sft=0.5",
        "model.lora.r=8",
    ]
    read = recipe("loss:\n  types: {sigmoid: 1.0}", overrides)
    assert [one.name for one in read.negatives] == ["order_swap", "own_samples"]
    assert read.loss.types == {"sigmoid": 1.0, "sft": 0.5}
    assert read.model.lora == Lora(r=8)


def test_override_with_null_and_with_spaces(folder):
    assert recipe("out: elsewhere", ["out=null"]).out is None
    assert recipe("", ["out=a folder"]).out == "a folder"


def test_plug_in_with_options_and_weight(folder):
    read = recipe("negatives:\n- order_swap\n- ./mine.py: {weight: 2, strength: 3, words: [a, b]}")
    assert read.negatives == [
        PlugIn("order_swap"),
        PlugIn(str(folder / "mine.py"), 2.0, {"strength": 3.0, "words": ["a", "b"]}),
    ]


def test_a_path_is_relative_to_where_it_is_written(folder):
    # In a file to the file's folder, in an override to the shell's.
    Path("deep").mkdir()
    Path("deep/algo.py").write_text("def run(recipe, folder): ...\n")
    assert recipe("", name="deep/good.yaml").algorithm == str(folder / "deep" / "algo.py")
    assert recipe("", ["algorithm=./algo.py"], name="deep/good.yaml").algorithm == str(folder / "algo.py")


def test_needs_come_first_each_once(folder):
    recipe("", name="base.yaml")
    recipe("needs: [base.yaml]", name="sft.yaml")
    recipe("needs: [sft.yaml, base.yaml]", name="dpo.yaml")
    assert [step.name for step in load_chain("dpo.yaml")] == ["base", "sft", "dpo"]


def test_overrides_do_not_reach_the_recipes_needed(folder):
    recipe("", name="base.yaml")
    recipe("needs: [base.yaml]", name="sft.yaml")
    assert [step.recipe.seed for step in load_chain("sft.yaml", ["seed=5"])] == [0, 5]


def test_circle_of_needs(folder):
    Path("a.yaml").write_text("algorithm: ./algo.py\nneeds: [b.yaml]\n")
    Path("b.yaml").write_text("algorithm: ./algo.py\nneeds: [a.yaml]\n")
    with pytest.raises(RecipeError, match=r"b.yaml:2: 'needs' goes in a circle: a.yaml -> b.yaml -> a.yaml"):
        load("a.yaml")


def test_model_that_a_need_will_make_is_not_missing(folder):
    recipe("", name="sft.yaml")
    assert recipe("needs: [sft.yaml]\nmodel:\n  id: runs/sft/final").model.id == "runs/sft/final"


def test_hub_ids_are_not_looked_up(folder):
    assert recipe("model:\n  id: Qwen/Qwen2.5-VL-3B-Instruct").model.id == "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t + "\n\n"])
def test_line_ends_byte_order_mark_and_blank_lines(folder, change):
    Path("good.yaml").write_bytes(change(f"{HEADER}\nalgorithm: ./algo.py\nseed: 4\n{FOOTER}\n").encode())
    assert load("good.yaml").seed == 4


def test_chinese_text(folder):
    assert recipe("out: 视频\n").out == "视频"


def full_recipe():
    negatives = "negatives:\n- ./mine.py: {weight: 2, strength: 3}\n- own_samples\nsampling: {num_samples: 2}"
    return recipe(f"seed: 3\nmodel:\n  sharing: on\n  revision: '0123'\n  lora: {{}}\nneeds: [base.yaml]\n{negatives}")


def test_written_back_it_is_the_same_recipe_from_another_folder(folder):
    recipe("", name="base.yaml")
    read = full_recipe()
    out = folder / "runs" / "good"
    out.mkdir(parents=True)
    (out / "copy.yaml").write_text(launchable(read, out, "A comment."))
    assert load(out / "copy.yaml") == read


def test_variants_hold_values_of_the_keys_types_and_survive_writing_back(folder):
    read = recipe("variants:\n  k1: {num_negatives: 1, train.learning_rate: 1e-6, negatives: [./mine.py]}")
    mine = PlugIn(str(folder / "mine.py"))
    assert read.variants == {"k1": {"num_negatives": 1, "train.learning_rate": 1e-6, "negatives": [mine]}}
    Path("deep").mkdir()
    Path("deep/copy.yaml").write_text(launchable(read, folder / "deep", "A comment."))
    assert load("deep/copy.yaml") == read


def test_written_back_it_has_every_key_and_is_launchable(folder):
    recipe("", name="base.yaml")
    text = launchable(full_recipe(), folder, "A comment.")
    assert is_launchable(text)
    tree = yaml.safe_load(text)
    for path in all_keys():
        at = tree
        for name in path.split("."):
            at = at[name] if at is not None else None
    assert "/tmp" not in text


def test_as_dict_survives_a_changed_value(folder):
    read = recipe("")
    assert as_dict(dataclasses.replace(read, seed=9))["seed"] == 9


def test_every_key_has_a_docstring():
    assert [key.path for key in all_keys().values() if len(key.doc) < 8] == []
