"""Diffusion-KTO on pairs and on thumbs: its loss by the paper's formula, a running distance, and an exact resume."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("diffusers")

from rlkit.errors import DataError, RecipeError
from rlkit.generators import session as sessions
from rlkit.models import generator as generators
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.running import interrupt
from rlkit.running.folder import RunFolder
from rlkit.train import diffusion_dpo, diffusion_kto


@pytest.fixture
def make(offline_recipe, tmp_path):
    """(overrides, options of offline_recipe) -> Kto, not yet trained."""

    def algorithm(*overrides, **options):
        recipe = load(offline_recipe("diffusion_kto", **options), overrides)
        torch.manual_seed(0)  # of the adapter's start
        return diffusion_kto.Kto(
            sessions.open_session(recipe, diffusion_dpo.start(recipe)), RunFolder(tmp_path / "run")
        )

    return algorithm


@pytest.fixture
def thumbs(picture_pairs, tmp_path):
    """A table of single pictures: 6 liked, 2 not, one without an opinion."""
    rows = pq.read_table(picture_pairs / "pairs-00000.parquet").to_pylist() * 3
    labels = [1, 1, 1, 1, 1, 1, 0, 0, None]
    rows = [
        {"caption": rows[at]["caption"], "jpg": rows[at]["jpg_0"], "label": label} for at, label in enumerate(labels)
    ]
    path = tmp_path / "thumbs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def seeded():
    return torch.Generator().manual_seed(3)


def test_a_run_and_its_exact_resume(offline_recipe, numbers, monkeypatch):
    path = offline_recipe("diffusion_kto", save=1)
    whole = launch(path, ["out=whole"])[-1]
    systems = whole.results()["systems"]
    assert list(systems) == ["base", "kto", "best_of_2"]
    # The pairs' passes; 3 steps of 8 pictures, each policy (backward too) and reference.
    assert systems["kto"]["forward_passes"]["value"] == 10 * 4 * 2 + 3 * 8 * 3
    asked = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "requested", lambda: next(asked))
        patch.setattr(sessions.pipelines, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            launch(path, ["out=stopped"])
    resumed = launch(path, ["out=stopped"])[-1]
    name = "final/pytorch_lora_weights.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert numbers(resumed.path) == numbers(whole.path) and len(numbers(whole.path)) == 3
    assert any(line["kl_estimate"] > 0 for line in numbers(whole.path))  # else its place in the checkpoint is untested


def test_it_raises_the_reward_of_its_pairs_on_held_out_prompts(offline_recipe):
    changes = ["train.max_steps=40", "evaluate.num_clips=6", "evaluate.best_of=0", "diffusion_kto.kto_beta=500"]
    folder = launch(offline_recipe("diffusion_kto"), changes)[-1]
    assert folder.results()["differences"]["kto"]["base"]["reward"]["low"] > 0


def test_the_loss_is_the_papers(make, flow_folder, monkeypatch):
    algorithm = make("diffusion_kto.kto_beta=5.0", "diffusion_kto.undesirable_weight=0.5")
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in algorithm.generator.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=drawn))
    algorithm.kl_estimate = 0.02
    shown, seen = [*algorithm.liked[:2], *algorithm.disliked[4:6]], {}
    real = generators.Generator.predict

    def predict(self, sample, times, text, **options):
        seen.update(sample=sample, times=times, text=text)
        return real(self, sample, times, text, **options)

    monkeypatch.setattr(generators.Generator, "predict", predict)
    loss, metrics = algorithm.loss(shown, seeded())
    monkeypatch.undo()
    x0, _ = algorithm.data.encoded([row for row, _ in shown], [side for _, side in shown])
    sigma = (seen["times"] / 1000)[:, None, None, None]
    noise = (seen["sample"] - (1 - sigma) * x0) / sigma
    inputs = (seen["sample"], seen["times"], seen["text"])
    with torch.no_grad():
        policy = algorithm.generator.predict(*inputs)
        reference = generators.load(str(flow_folder)).predict(*inputs)
    own, ref = ((one - (noise - x0)).square().flatten(1).mean(1).double().numpy() for one in (policy, reference))
    gain = ref - own - 0.02
    sign, weight = np.array([1, 1, -1, -1]), np.array([1, 1, 0.5, 0.5])
    expected = (weight * (1 - 1 / (1 + np.exp(-sign * 5.0 * gain)))).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    assert metrics["gain/liked"] == pytest.approx((ref - own)[:2].mean(), rel=1e-2)
    algorithm.after_step(1)  # the mean gain of the batch, never below 0, enters by a tenth
    assert algorithm.kl_estimate == pytest.approx(0.9 * 0.02 + 0.1 * max(0.0, (ref - own).mean()), rel=1e-2)


def test_liked_pictures_have_their_share_of_every_batch_whatever_the_data(make, thumbs):
    algorithm = make("diffusion_kto.desirable_share=0.25", pairs=thumbs)
    assert (len(algorithm.liked), len(algorithm.disliked), algorithm.data.table.counts["unlabelled"]) == (6, 2, 1)
    seen = []
    algorithm.loss = lambda shown, drawn: seen.append(shown) or (torch.zeros(()), {})
    for step in range(12):
        list(algorithm.losses(step))
    assert len(seen) == 24 and all(set(shown[:1]) <= set(algorithm.liked) for shown in seen)
    assert all(set(shown[1:]) <= set(algorithm.disliked) for shown in seen)
    shares = [sum(shown[0] == one for shown in seen) for one in algorithm.liked]
    assert shares == [4] * 6  # four whole passes over the liked ones


def test_pairs_are_one_thumb_up_and_one_down(make, picture_pairs):
    algorithm = make()
    for row, side in algorithm.liked:
        stored = algorithm.data.table.rows[algorithm.data.table.used[row]]
        assert stored[f"label_{side}"] == 1 and (row, 1 - side) in algorithm.disliked


def test_what_cannot_work_is_refused(make, offline_recipe, thumbs, tmp_path):
    with pytest.raises(RecipeError, match=r"of 4 pictures .* 0 would be liked"):
        load(offline_recipe("diffusion_kto"), ["diffusion_kto.desirable_share=0.1"])
    rows = [row | {"label": 1} for row in pq.read_table(thumbs).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "liked.parquet")
    with pytest.raises(DataError, match="9 liked and 0 other"):
        make(pairs=tmp_path / "liked.parquet")


def test_state_is_json(make):
    algorithm = make()
    algorithm.kl_estimate = 0.125
    state = json.loads(json.dumps(algorithm.state_dict()))
    other = make()
    other.load_state_dict(state)
    assert other.kl_estimate == 0.125 and other.forward_passes == algorithm.forward_passes
