"""Diffusion-DPO end to end on a tiny pipeline, and every known trap of it: strength, noise, ties, scale, reference."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("diffusers")

from rlkit import sde
from rlkit.errors import DataError, RecipeError
from rlkit.generators import offline, pair_table, pairs
from rlkit.generators import session as sessions
from rlkit.models import generator as generators
from rlkit.models.generator import REFERENCE
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.running import interrupt
from rlkit.running.folder import RunFolder
from rlkit.train import diffusion_dpo

DIMS = 3 * 16 * 16


@pytest.fixture
def make(offline_recipe, tmp_path):
    """(overrides, options of offline_recipe) -> Dpo, not yet trained."""

    def algorithm(*overrides, **options):
        recipe = load(offline_recipe("diffusion_dpo", **options), overrides)
        torch.manual_seed(0)  # of the adapter's start
        return diffusion_dpo.Dpo(
            sessions.open_session(recipe, diffusion_dpo.start(recipe)), RunFolder(tmp_path / "run")
        )

    return algorithm


def nudge(generator, scale=0.3):
    """Move the policy away from the reference."""
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=drawn))


def seeded():
    return torch.Generator().manual_seed(3)


def latents(algorithm, rows, better=True):
    """The stored pictures in [-1, 1], read without the code under test: this VAE is the identity."""
    found = []
    for row in rows:
        stored = algorithm.data.table.rows[algorithm.data.table.used[row]]
        side = 0 if (stored["label_0"] == 1) == better else 1
        pixels = pair_table.decode(stored[f"jpg_{side}"], "")[0]
        found.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(found)


def papers_margin(algorithm, rows, pipeline, reduction, beta):
    """Inside of Eq. 14's log-sigmoid, from a policy and a reference loaded apart."""
    pair, times, _ = algorithm.noised(rows, seeded())
    text = algorithm.session.embeddings(algorithm.data.captions(rows) * 2)
    with torch.no_grad():
        reference = generators.load(str(pipeline)).predict(pair.samples, times, text)
        policy = algorithm.generator.predict(pair.samples, times, text)
    assert (policy - reference).abs().max() > 1e-3
    l_w, l_l, ref_w, ref_l = (
        getattr((prediction - pair.targets).flatten(1)[half] ** 2, reduction)(1)
        for prediction in (policy, reference)
        for half in (slice(0, len(rows)), slice(len(rows), None))
    )
    return -beta / 2 * ((l_w - l_l) - (ref_w - ref_l))


# ---- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_results_beside_the_start_and_the_best_of_two(offline_recipe):
    folder = launch(offline_recipe("diffusion_dpo"))[-1]
    results = folder.results()
    systems = results["systems"]
    assert list(systems) == ["base", "dpo", "best_of_2"] and results["headline"] == ["base", "dpo"]
    for system in systems.values():
        assert {"reward", "held_out", "diversity", "velocity_ratio", "forward_passes"} <= set(system)
        assert all(np.isfinite(one["value"]) for one in system.values())
    assert systems["base"]["velocity_ratio"]["value"] == 1.0 != systems["dpo"]["velocity_ratio"]["value"]
    assert systems["best_of_2"]["reward"]["value"] > systems["base"]["reward"]["value"]
    assert results["differences"]["best_of_2"]["base"]["reward"]["low"] >= 0  # never below its own first picture
    # Ten groups of 4 pictures in 2 steps; 3 steps of 8 pairs, 2 sides, each policy (backward too) and reference.
    assert systems["dpo"]["forward_passes"]["value"] == 10 * 4 * 2 + 3 * 8 * 2 * 3
    assert results["cost"]["pairs"]["pairs"] == 10 and results["cost"]["pairs"]["ties"] == 0
    assert results["cost"]["dpo_beta"] == {"mean": 2000.0, "sum": pytest.approx(2000.0 / DIMS)}
    for name in ("base", "dpo", "best_of_2"):
        assert (folder.samples / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder.final / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize("types", ["{sigmoid: 1.0}", "{ipo: 1.0}", "{mapo: 1.0}"])
def test_it_raises_the_reward_of_its_pairs_on_held_out_prompts(offline_recipe, types):
    """Redness, in units of 0 to 255: the better picture of each pair is the redder one."""
    changes = [f"diffusion_dpo.types={types}", "train.max_steps=40", "evaluate.num_clips=6", "evaluate.best_of=0"]
    beta = "0.5" if "ipo" in types else "500"
    folder = launch(offline_recipe("diffusion_dpo"), [*changes, f"diffusion_dpo.dpo_beta={beta}"])[-1]
    assert folder.results()["differences"]["dpo"]["base"]["reward"]["low"] > 0, folder.results()["differences"]["dpo"]


def test_stopped_and_resumed_it_ends_with_the_same_bytes(offline_recipe, numbers, monkeypatch):
    path = offline_recipe("diffusion_dpo", save=2)
    changes = ["train.max_steps=5", "evaluate.best_of=0"]
    whole = launch(path, ["out=whole", *changes])[-1]
    asked = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "requested", lambda: next(asked))
        patch.setattr(sessions.pipelines, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            launch(path, ["out=stopped", *changes])
    resumed = launch(path, ["out=stopped", *changes])[-1]
    name = "final/pytorch_lora_weights.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert numbers(resumed.path) == numbers(whole.path) and len(numbers(whole.path)) == 5
    assert resumed.results()["systems"] == whole.results()["systems"]


# ---- traps ----------------------------------------------------------------------------------------------------------


def test_before_the_first_update_the_margin_is_zero_and_the_loss_is_log_two(make):
    algorithm = make()
    parts = list(algorithm.losses(0))
    assert len(parts) == 2
    for loss, metrics in parts:
        assert loss.item() == pytest.approx(np.log(2), abs=1e-7)
        assert metrics["rewards/margins"] == 0.0 and metrics["velocity_ratio"] == 1.0
    parts[0][0].backward()
    assert any(one.grad is not None and one.grad.abs().max() > 0 for one in algorithm.generator.parameters())


def test_both_sides_have_one_noise_and_one_level(make):
    algorithm, rows = make(), [0, 3, 5, 9]
    pair, times, mask = algorithm.noised(rows, seeded())
    better, worse = latents(algorithm, rows), latents(algorithm, rows, better=False)
    noise, other = (pair.targets + torch.cat([better, worse])).chunk(2)  # the velocity is noise - x0
    torch.testing.assert_close(noise, other, atol=1e-4, rtol=0)
    assert (noise.std() - 1).abs() < 0.1 and (noise[0] - noise[1]).abs().max() > 1  # N(0, 1), a pair's own
    assert torch.equal(*times.chunk(2)) and torch.equal(*pair.levels.chunk(2)) and mask.all()
    torch.testing.assert_close(times, pair.levels * 1000)
    expected = sde.flow_sample(better, noise, pair.levels[:4])
    torch.testing.assert_close(pair.samples[:4], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_the_papers_with_one_half_and_the_start_as_reference(make, flow_folder, reduction):
    """Double strength, a reference with the adapter on, another sign or another scale would show."""
    algorithm = make(f"diffusion_dpo.reduction={reduction}", "diffusion_dpo.dpo_beta=3.0")
    nudge(algorithm.generator)
    rows = [1, 2, 8, 4]
    loss, metrics = algorithm.loss(rows, seeded())
    inside = papers_margin(algorithm, rows, flow_folder, reduction, 3.0)
    assert loss.item() == pytest.approx(-torch.nn.functional.logsigmoid(inside).mean().item(), rel=1e-4)
    assert metrics["rewards/margins"] == pytest.approx(inside.mean().item(), rel=1e-3)
    assert metrics["rewards/margins"] != 0


def test_sums_with_the_told_strength_are_means(make):
    means, sums = (
        make("diffusion_dpo.dpo_beta=600"),
        make("diffusion_dpo.reduction=sum", f"diffusion_dpo.dpo_beta={600 / DIMS}"),
    )
    found = []
    for algorithm in (means, sums):
        nudge(algorithm.generator)
        found.append(algorithm.loss([0, 1, 2, 3], seeded())[0].item())
        assert algorithm.cost()["dpo_beta"] == {"mean": pytest.approx(600), "sum": pytest.approx(600 / DIMS)}
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def changed(picture_pairs, path, change):
    """The pairs in one file, each row changed."""
    rows = [row for shard in sorted(picture_pairs.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    rows = [change(at, row) for at, row in enumerate(rows)]
    pair_table.write_shard(path, rows)
    return path


def test_ties_are_left_out_and_counted(make, picture_pairs, tmp_path):
    """A tie as a label would put 5 rows too many into the order."""
    ties = changed(picture_pairs, tmp_path / "ties.parquet",
                   lambda at, row: row | ({"label_0": 0.5, "label_1": 0.5} if at % 2 else {}))  # fmt: skip
    algorithm = make(pairs=ties)
    assert algorithm.data.table.used == [0, 2, 4, 6, 8]
    assert algorithm.cost()["pairs"] | {"held_out": 0} == {
        "rows": 10, "ties": 5, "unlabelled": 0, "below_margin": 0, "held_out": 0, "pairs": 5, "unreadable": 0,
    }  # fmt: skip
    assert set(algorithm.data.numbers(0, 50)) == set(range(5))


def test_generation_noise_is_what_each_picture_was_drawn_from(make):
    algorithm, rows = make("diffusion_dpo.noise=generation"), [0, 7]
    pair, _, _ = algorithm.noised(rows, seeded())
    noises = (pair.targets + torch.cat([latents(algorithm, rows), latents(algorithm, rows, better=False)])).chunk(2)
    for number, row in enumerate(rows):
        stored = algorithm.data.table.rows[algorithm.data.table.used[row]]
        better = 0 if stored["label_0"] == 1 else 1
        for found, side in zip(noises, (better, 1 - better), strict=True):
            expected = torch.randn((1, 3, 16, 16), generator=torch.Generator().manual_seed(stored[f"seed_{side}"]))[0]
            torch.testing.assert_close(found[number], expected, atol=1e-4, rtol=0)
    assert (noises[0] - noises[1]).abs().max() > 1


def test_reward_gaps_weigh_pairs_and_rewards_weigh_regression(make):
    nudged = make("diffusion_dpo.pair_weight=reward_gap")
    margins = np.array([one for (one,) in nudged.data.table.columns("margin")])
    np.testing.assert_allclose(nudged.gaps.numpy(), margins / margins.mean(), rtol=1e-5)
    rwr = make("diffusion_dpo.types={rwr: 2.0}", "diffusion_dpo.rwr_temperature=0.5")
    told = rwr.data.table.columns("rewards_0", "rewards_1")
    z = np.array([[one[0], other[0]] for one, other in told])
    z = (z - z.mean()) / z.std()
    np.testing.assert_allclose(rwr.rewards[:, 0].numpy(), z.max(1), rtol=1e-4)  # the chosen one has the higher reward
    loss, metrics = rwr.loss([2, 6], seeded())
    pair, times, _ = rwr.noised([2, 6], seeded())
    text = rwr.session.embeddings(rwr.data.captions([2, 6]) * 2)
    errors = (rwr.generator.predict(pair.samples, times, text) - pair.targets).square().flatten(1).mean(1)
    weights = np.minimum(np.exp(np.concatenate([z.max(1)[[2, 6]], z.min(1)[[2, 6]]]) / 0.5), 20)
    assert loss.item() == pytest.approx(2.0 * float((weights * errors.detach().numpy()).mean()), rel=1e-4)
    assert not any(name.startswith("rewards/") for name in metrics)  # nothing was compared with the reference


def test_what_needs_no_reference_does_without_its_pass(make, monkeypatch):
    algorithm, asked = make("diffusion_dpo.types={mapo: 1.0, sft: 0.5}"), []
    real = generators.Generator.predict

    def predict(self, *arguments, name="policy", **options):
        asked.append(name)
        return real(self, *arguments, name=name, **options)

    monkeypatch.setattr(generators.Generator, "predict", predict)
    before = algorithm.forward_passes
    list(algorithm.losses(0))
    assert asked == ["policy", "policy"] and algorithm.forward_passes - before == 2 * 2 * 8
    asked.clear()
    list(make().losses(0))
    assert asked == ["policy", REFERENCE] * 2


# ---- other models, other people's tables ----------------------------------------------------------------------------


def test_an_epsilon_model_is_noised_by_its_own_schedule(tiny_pipeline, offline_recipe, picture_pairs):
    path = offline_recipe("diffusion_dpo", model=tiny_pipeline("stable_diffusion"))
    folder = launch(path, ["train.max_steps=1", "evaluate.num_clips=1"])[-1]
    assert np.isfinite(folder.results()["systems"]["dpo"]["velocity_ratio"]["value"])
    recipe = load(path)
    algorithm = diffusion_dpo.Dpo(sessions.open_session(recipe, diffusion_dpo.start(recipe)), folder)
    pair, times, _ = algorithm.noised([0, 1, 2], seeded())
    scheduler = algorithm.generator.pipe.scheduler
    better = algorithm.data.table.labels[:3]
    sides = better, [1 - side for side in better]
    clean = torch.cat([algorithm.data.encoded([0, 1, 2], side)[0] for side in sides])
    assert not times.is_floating_point() and 0 <= times.min() and times.max() < 1000
    expected = scheduler.add_noise(clean, pair.targets, times)  # diffusers' own; the target is the noise
    torch.testing.assert_close(pair.samples, expected, atol=1e-5, rtol=1e-5)


def test_pictures_that_cannot_be_read_are_masked_and_counted(make, picture_pairs, flow_folder, tmp_path):
    broken = changed(picture_pairs, tmp_path / "broken.parquet",
                     lambda at, row: row | ({"jpg_1": b"no picture"} if at == 4 else {}))  # fmt: skip
    algorithm = make("diffusion_dpo.dpo_beta=3.0", pairs=broken)
    nudge(algorithm.generator)
    loss, metrics = algorithm.loss([3, 4], seeded())
    only = papers_margin(algorithm, [3, 4], flow_folder, "mean", 3.0)[0]  # the loss is that of the other pair alone
    assert loss.item() == pytest.approx(-torch.nn.functional.logsigmoid(only).item(), rel=1e-4)
    assert metrics["pairs/masked"] == 0.5 and algorithm.cost()["pairs"]["unreadable"] == 1
    line = json.loads((tmp_path / "run/rejected_rows.jsonl").read_text())
    assert line["where"].endswith("row 4") and "not a picture" in line["reasons"][0]
    resumed = make(pairs=broken)
    resumed.load_state_dict(json.loads(json.dumps(algorithm.state_dict())))
    assert resumed.cost()["pairs"]["unreadable"] == 1


def test_pictures_of_another_size_stop_the_run_or_are_scaled(make):
    with pytest.raises(DataError, match=r"16 x 16 pixels, but generation\.resolution is 32.*resize=true"):
        make("generation.resolution=32").loss([0], seeded())
    algorithm = make("generation.resolution=32", "diffusion_dpo.resize=true")
    assert algorithm.data.encoded([0], [0])[0].shape == (1, 3, 32, 32)
    narrow = np.zeros((1, 8, 16, 3), np.uint8)
    narrow[:, :, :4] = 255  # lies outside of the square in the middle
    assert offline._sized(narrow, 8, "", True).max() == 0


def test_a_foreign_table_has_no_noise_and_no_rewards(make, picture_pairs, tmp_path):
    def strip(at, row):
        return row | dict.fromkeys(("seed_0", "seed_1", "noise_0", "noise_1", "margin", "rewards_0", "rewards_1"))

    foreign = changed(picture_pairs, tmp_path / "foreign.parquet", strip)
    assert torch.isfinite(make(pairs=foreign).loss([0, 1], seeded())[0])
    for change, said in (
        ("noise=generation", "seed_0"),
        ("pair_weight=reward_gap", "margin"),
        ("types={rwr: 1}", "rwr"),
    ):
        with pytest.raises(DataError, match=said):
            make(f"diffusion_dpo.{change}", pairs=foreign)


def test_a_seed_that_gives_other_noise_is_noticed(make, picture_pairs, tmp_path):
    other = changed(picture_pairs, tmp_path / "other.parquet", lambda at, row: row | {"noise_1": "0" * 64})
    with pytest.raises(DataError, match="other noise"):
        make("diffusion_dpo.noise=generation", pairs=other).loss([0, 1], seeded())
    assert pairs.noise_hash(torch.zeros(3)) != pairs.noise_hash(torch.ones(3))


def test_prompts_that_are_measured_are_not_trained_on(make, picture_pairs, tmp_path):
    from data_synth.world import pictures

    held_out = pictures.prompt(pictures.drawn(3, split="test", seed=0)[0])
    leaky = changed(picture_pairs, tmp_path / "leaky.parquet",
                    lambda at, row: row | ({"caption": held_out} if at == 2 else {}))  # fmt: skip
    assert make(pairs=leaky).cost()["pairs"]["held_out"] == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.source=world", "reads pairs"),
        ("diffusion_dpo.types={sigmoid: 0}", "no loss"),
        ("diffusion_dpo.types={kto: 1}", "kto"),
        ("rewards=[]", "best of several"),
        ("train.max_steps=-1", "optimiser steps"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(offline_recipe, override, said):
    with pytest.raises(RecipeError, match=said):
        load(offline_recipe("diffusion_dpo"), [override])
    with pytest.raises(RecipeError, match="mean errors"):
        load(offline_recipe("diffusion_dpo"), ["diffusion_dpo.types={mapo: 1}", "diffusion_dpo.reduction=sum"])
