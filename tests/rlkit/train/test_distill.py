"""Distillation into few steps: targets, gradients through every step, nearer on held-out prompts, resumed alike."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from rlkit.errors import RecipeError
from rlkit.evaluate.by_steps import distance
from rlkit.evaluate.generator import Sampled
from rlkit.generators import session as sessions
from rlkit.models import sampling
from rlkit.models.generator import POLICY, REFERENCE
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.train import distill

RECIPE = """\
algorithm: distill
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
rewards: [saturation]
generation: {{resolution: 16, num_inference_steps: 1, guidance_scale: 2.0, eval_samples: 2, compare_steps: [4, 1]}}
distill: {{teacher_steps: 4, num_targets: 9}}
guard: {{every: 0}}
train: {{learning_rate: 1.0e-2, per_device_train_batch_size: 4, max_steps: 3, logging_steps: 1, save_steps: 1}}
evaluate: {{num_clips: 2}}
"""


def random_flow(folder, **sizes):
    """A flow pipeline with random weights, made large enough that few steps end elsewhere than many."""
    from data_synth.world import pictures
    from rlkit.models import tiny_pipelines

    texts = [pictures.prompt(one) for one in pictures.descriptions()[::9]]
    pipe = tiny_pipelines.flow_default(texts, size=16, layers=1, **sizes)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=drawn))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """The smallest one."""
    return random_flow(tmp_path_factory.mktemp("flow"), patch_size=8, width=32)


@pytest.fixture
def recipe_file(flow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(model=flow))
    return tmp_path / "tiny.yaml"


@pytest.fixture
def make(recipe_file):
    """overrides -> Distillation, not yet trained."""

    def algorithm(*overrides):
        recipe = load(recipe_file, overrides)
        return distill.Distillation(sessions.open_session(recipe, distill.start(recipe)))

    return algorithm


def test_a_student_that_draws_as_its_teacher_has_nothing_to_learn(make):
    algorithm = make("generation.num_inference_steps=4", "generation.guidance_scale=1")
    ((loss, _),) = algorithm.losses(0)
    assert loss.item() == 0.0 and loss.requires_grad


def test_the_target_is_where_guided_steps_from_the_same_noise_end(make):
    algorithm = make()
    block = algorithm.block_at(0)
    ((loss, _),) = algorithm.losses(0)
    numbers = range(4 * block, 4 * block + 4)
    session, generator = algorithm.session, algorithm.generator
    text = session.embeddings([session.prompts.train[session.prompts.at(n, 0)] for n in numbers])
    seeds = [sessions.engine.seed_of(0, "distill", n) for n in numbers]
    size = {"height": 16, "width": 16}
    rolled = sampling.rollout(
        generator, text, seeds, **size, num_inference_steps=4, guidance_scale=2.0,
        negative=session.embeddings([None]), name=REFERENCE,
    )  # fmt: skip
    # One step of Euler from sigma 1 to 0: x0 = noise - velocity.
    velocity = generator.predict(rolled.noise, torch.full((4,), 1000.0), text)
    expected = (rolled.noise - velocity - rolled.latents).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and loss.item() > 1e-4
    assert not algorithm.target(block).requires_grad


def test_gradients_go_through_every_step(make):
    """With two steps the gradient is that of two unrolled by hand; of the last step alone it would be another."""
    algorithm = make("generation.num_inference_steps=2")
    generator, session = algorithm.generator, algorithm.session
    parameters = generator.parameters()
    with torch.no_grad():
        for at, parameter in enumerate(parameters):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(at)))
    block = algorithm.block_at(0)
    ((loss, _),) = algorithm.losses(0)
    found = torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters)])

    numbers = range(4 * block, 4 * block + 4)
    text = session.embeddings([session.prompts.train[session.prompts.at(n, 0)] for n in numbers])
    generators = [torch.Generator().manual_seed(sessions.engine.seed_of(0, "distill", n)) for n in numbers]
    noise = sampling.normal(generators, (3, 16, 16), "cpu")
    scheduler, levels = sampling.schedule(generator, 2, (3, 16, 16))
    gradients = {}
    for cut in (False, True):
        latents = noise
        for at, time in enumerate(scheduler.timesteps):
            latents = latents.detach() if cut else latents
            latents = latents + (levels[at + 1] - levels[at]) * generator.predict(latents, time.expand(4), text)
        loss = (latents - algorithm.target(block)).square().mean()
        gradients[cut] = torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters)])
    assert (found - gradients[False]).norm() < 1e-4 * found.norm()
    assert (found - gradients[True]).norm() > 1e-2 * found.norm()


def test_targets_are_drawn_once_and_every_pass_is_another_permutation(make):
    algorithm = make("distill.num_targets=13", "train.gradient_accumulation_steps=2")
    assert algorithm.blocks == 3
    orders = [[algorithm.block_at(3 * again + at) for at in range(3)] for again in range(6)]
    assert all(sorted(order) == [0, 1, 2] for order in orders) and len({tuple(order) for order in orders}) > 1
    for step in range(3):
        list(algorithm.losses(step))
    assert len(algorithm.targets) == 3
    # 6 batches of 4 pictures of one step, backward too; 3 blocks of 4 guided pictures in 4 steps.
    assert algorithm.forward_passes == 6 * 4 * 2 * 1 + 3 * 4 * 4 * 2 and algorithm.cost() == {"targets": 12}


def test_few_steps_of_the_student_come_nearer_to_many_of_the_teacher(recipe_file):
    """On the prompts and seeds of training: a random teacher of a few targets has nothing to generalise."""
    changes = ["train.max_steps=30", "train.save_steps=0", "train.learning_rate=3.0e-3", "model.lora=null"]
    folder = launch(recipe_file, changes)[-1]
    losses = [json.loads(line)["loss"] for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 30 and sum(losses[-4:]) < 0.6 * sum(losses[:4])
    results = folder.results()
    assert set(results["systems"]) == {"teacher", "teacher_few", "student"}
    assert results["headline"] == ["teacher_few", "student"]
    steps = results["by_steps"]
    assert list(steps["student"]) == ["1", "4"] and steps["teacher"]["4"]["to_many"]["value"] == 0.0
    assert steps["teacher"]["1"]["to_many"]["value"] > 0
    assert "Quality by steps" in (folder.path / "report.html").read_text()
    assert "num_inference_steps=1" in (folder.path / "README.md").read_text()


def test_with_more_targets_it_holds_on_prompts_and_seeds_that_were_not_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(model=random_flow(tmp_path / "flow", patch_size=4, width=64)))
    changes = ["model.lora=null", "train.learning_rate=3.0e-3", "train.max_steps=30"]
    changes += ["distill.num_targets=136", "train.per_device_train_batch_size=8"]
    recipe = load(tmp_path / "tiny.yaml", changes)
    algorithm = distill.Distillation(sessions.open_session(recipe, distill.start(recipe)))
    algorithm.blocks = held_out = 16  # of 17: the last one is not trained on
    loop = sessions.engine.Loop(algorithm.generator, recipe, algorithm)

    def error():
        latents = algorithm.drawn(held_out, POLICY, Sampled(1, 1.0), grad_steps=0)
        return (latents - algorithm.target(held_out)).square().mean().item()

    before = error()
    for step in range(30):
        loop.take(algorithm.losses(step))
    assert error() < 0.5 * before


def test_resumed_it_ends_with_the_same_bytes(recipe_file, monkeypatch):
    changes = ["evaluate.num_clips=0", "generation.compare_steps=[]"]
    whole = launch(recipe_file, [*changes, "out=whole"])[-1]
    losses = distill.Distillation.losses

    def stopped(self, step):
        if step == 2:
            raise RuntimeError("power cut")
        return losses(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(distill.Distillation, "losses", stopped)
        with pytest.raises(RuntimeError, match="power cut"):
            launch(recipe_file, [*changes, "out=stopped"])
    resumed = launch(recipe_file, [*changes, "out=stopped"])[-1]
    name = "final/pytorch_lora_weights.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.parametrize(
    ("override", "said"),
    [("distill.num_targets=3", "3 targets make no batch of 4"), ("model.init=stable_diffusion_3", "distill starts")],
)
def test_what_cannot_work_is_refused_before_the_run(recipe_file, override, said):
    changes = [override, "model.id=null", "model.lora=null"] if "init" in override else [override]
    with pytest.raises(RecipeError, match=said):
        load(recipe_file, changes)


def test_distance_by_its_formula():
    import numpy as np

    black, white = (np.full((4, 4, 3), level, np.uint8) for level in (0, 255))
    assert distance([black, black], [white, black]) == pytest.approx(0.5) and distance([white], [white]) == 0.0
