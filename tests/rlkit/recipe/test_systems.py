"""What is wrong with the systems of a comparison is said when its recipe is read, with the line to change."""

from pathlib import Path

import pytest

from rlkit.errors import RecipeError
from rlkit.recipe import Lora, System
from rlkit.recipe.dotted import changed
from rlkit.recipe.file import load
from rlkit.recipe.systems import system_recipe

BASE = "algorithm: sft\nmodel: {init: qwen2_5_vl}\n"
SFT = "algorithm: sft\nneeds: [base.yaml]\nmodel: {id: runs/base/final}\n"
DPO = "algorithm: dpo\nneeds: [sft.yaml]\nmodel: {id: runs/sft/final}\nnegatives: [order_swap]\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("base", BASE), ("sft", SFT), ("dpo", DPO)):
        Path(f"{name}.yaml").write_text(text)
    return tmp_path


def read(*systems: str, top: str = "", seeds: str = "[0, 1]"):
    lines = "".join(f"    {system}\n" for system in systems)
    Path("both.yaml").write_text(f"algorithm: compare\n{top}compare:\n  seeds: {seeds}\n  systems:\n{lines}")
    return load("both.yaml")


def refused(*systems: str, **given: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(*systems, **given)
    (problem,) = caught.value.problems
    return problem


def test_a_chain_of_systems_needs_no_finished_run(folder):
    recipe = read(
        "base: {recipe: base.yaml}", "sft: {recipe: sft.yaml, start: base}", "dpo: {recipe: dpo.yaml, start: sft}"
    )
    assert list(recipe.compare.systems) == ["base", "sft", "dpo"]


def test_a_recipe_that_starts_from_another_systems_run_must_say_so(folder):
    Path("runs/sft/final").mkdir(parents=True)  # also where that run is finished: which of the two is meant?
    sft = "sft: {recipe: sft.yaml, set: {model.id: a/b}}"
    problem = refused(sft, "dpo: {recipe: dpo.yaml}")
    assert problem.startswith("both.yaml:6: 'compare.systems.dpo' runs dpo.yaml, which starts from runs/sft/final")
    assert "Write `start: sft`" in problem and "`set: {model.id: runs/sft/final}`" in problem
    read(sft, "dpo: {recipe: dpo.yaml, set: {model.id: runs/sft/final}}")


def test_a_start_that_nothing_makes_is_refused_and_needs_of_the_comparison_make_it(folder):
    problem = refused("dpo: {recipe: dpo.yaml}")
    assert problem.startswith("both.yaml:5: ") and "runs/sft/final, which is not there. Add sft.yaml" in problem
    read("dpo: {recipe: dpo.yaml}", top="needs: [sft.yaml]\n")
    Path("runs/sft/final").mkdir(parents=True)
    read("dpo: {recipe: dpo.yaml}")


BASE_A = "a: {recipe: base.yaml}"


@pytest.mark.parametrize(
    ("systems", "expected"),
    [
        (["dpo: {recipe: dpo.yaml, start: sft}"], "'sft', which is no system above it. There is none above."),
        (
            [BASE_A, "dpo: {recipe: dpo.yaml, start: sft}", "sft: {recipe: sft.yaml, start: a}"],
            "which is no system above it. It stands below: move it up. Systems above: a.",
        ),
        (["a: {recipe: x.yaml}"], "both.yaml:5: 'compare.systems.a.recipe' is `x.yaml`, but there is no such file."),
        (
            ["a: {recipe: base.yaml, set: {seed: 3}}"],
            "'compare.systems.a.set' has seed, which is the comparison's own, the same for every system.",
        ),
        (["a: {recipe: base.yaml, set: {evaluate.num_clips: 3}}"], "has evaluate.num_clips, which is the comparison's"),
        (
            [BASE_A, "b: {recipe: base.yaml, start: a, set: {model.id: x/y}}"],
            "'compare.systems.b' gives both a start and another model under `set`",
        ),
        (
            ["a: {recipe: base.yaml, set: {model.vision: lora}}"],
            "both.yaml:5: 'compare.systems.a': lora needs model.lora",
        ),
        (["a: {recipe: base.yaml, seeds: [0, 1]}"], "'compare.systems.a.seeds' is [0, 1], expected one seed"),
        (
            [BASE_A, "b: {recipe: sft.yaml, start: a, seeds: [7]}"],
            "'compare.systems.b' is trained with seed 7 alone, but its start 'a' is trained with [0, 1]; choose one",
        ),
        (["a: {recipe: both.yaml}"], "runs both.yaml, itself a comparison"),
    ],
)
def test_what_cannot_run_is_said_with_its_place(folder, systems, expected):
    assert expected in refused(*systems)


def test_a_mistake_in_a_systems_recipe_is_said_with_the_line_there(folder):
    Path("sft.yaml").write_text(SFT + "trian: {}\n")
    problem = refused("base: {recipe: base.yaml}", "sft: {recipe: sft.yaml, start: base}")
    assert "'compare.systems.sft': sft.yaml:4: unknown key 'trian'. Did you mean 'train'?" in problem


@pytest.mark.parametrize("seeds", ["[]", "[1, 1]"])
def test_seeds_are_given_once_each(folder, seeds):
    assert "expected at least one seed, each once" in refused(BASE_A, seeds=seeds)


def test_no_system_and_no_held_out_clip_leave_nothing_to_compare(folder):
    assert "there is nothing to compare" in refused("{}")
    nothing = refused(BASE_A, top="evaluate: {num_clips: 0}\n")
    assert nothing.startswith("both.yaml:2: 0 held-out clips leave nothing to compare")


def test_a_systems_recipe_is_its_files_with_start_seed_and_changes(folder):
    comparison = read(BASE_A, top="evaluate: {num_clips: 7, controls: []}\n")
    one = system_recipe(
        load("base.yaml"), System("base.yaml", set={"train.max_steps": 3}), comparison, seed=5, start="runs/x/final"
    )
    assert (one.seed, one.model.id, one.model.init, one.train.max_steps) == (5, "runs/x/final", None, 3)
    assert (one.evaluate.num_clips, one.evaluate.controls, one.needs) == (7, [], [])


def test_a_key_under_a_null_section_makes_it_with_defaults(folder):
    assert changed(load("base.yaml"), {"model.lora.r": 8}).model.lora == Lora(r=8)
