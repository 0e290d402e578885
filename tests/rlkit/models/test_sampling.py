"""Rollouts are the stock pipeline's, follow from their seeds alone, and hand an SDE step what it needs."""

import copy

import pytest
import torch

from rlkit.errors import ModelError
from rlkit.recipe import Lora

diffusers = pytest.importorskip("diffusers")

from rlkit.models import generator as generators  # noqa: E402
from rlkit.models import sampling  # noqa: E402

FAMILIES = list(generators.FAMILIES.values())
WAYS = [Lora(r=2, lora_alpha=8.0), None]
LORA = WAYS[0]


def ids(way):
    return "full" if way is None else "lora"


def close(one, two):
    torch.testing.assert_close(one, two.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_the_stock_pipelines(
    make_generator, tiny_pipe, sample_ours, sample_stock, nudge, family, way, guidance_scale
):
    generator = make_generator(family, lora=way)
    nudge(generator)
    latents = sample_ours(generator, guidance_scale=guidance_scale).latents
    assert latents.dtype == torch.float32
    close(latents, sample_stock(generator.pipe, guidance_scale=guidance_scale))
    start = sample_stock(tiny_pipe(family), guidance_scale=guidance_scale)
    assert (latents - start).abs().max() > 1e-3  # the trained weights are what is sampled


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        ("stable_diffusion", "PNDMScheduler"),
        ("stable_diffusion", "DPMSolverMultistepScheduler"),
        ("stable_diffusion", "EulerAncestralDiscreteScheduler"),  # draws in every step, from each sample's generator
        ("stable_diffusion_xl", "DDIMScheduler"),
        ("wan", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_latents_are_the_stock_pipelines_with_other_schedulers(
    make_generator, sample_ours, sample_stock, family, scheduler
):
    generator = make_generator(family, lora=LORA)
    generator.pipe.scheduler = getattr(diffusers, scheduler).from_config(generator.pipe.scheduler.config)
    close(sample_ours(generator, steps=4).latents, sample_stock(generator.pipe, steps=4))


def test_sd3_with_a_shift_by_resolution(make_generator, sample_ours, sample_stock):
    generator = make_generator("stable_diffusion_3", lora=LORA)
    generator.pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    close(sample_ours(generator).latents, sample_stock(generator.pipe))


def test_flux_without_guidance_embedding_has_ordinary_cfg(make_generator, sample_ours, sample_stock, tiny_pipe):
    pipe = tiny_pipe("flux")
    config = dict(pipe.transformer.config) | {"guidance_embeds": False}
    torch.manual_seed(0)
    schnell = diffusers.FluxPipeline(
        **pipe.components | {"transformer": diffusers.FluxTransformer2DModel.from_config(config)}
    )
    generator = generators.prepare(copy.deepcopy(schnell), lora=LORA)
    expected = sample_stock(generator.pipe, negative_prompt=["", ""], true_cfg_scale=4.0)
    close(sample_ours(generator, guidance_scale=4.0).latents, expected)


def test_wan_with_a_timestep_per_patch(make_generator, sample_ours, sample_stock):
    generator = make_generator("wan", lora=LORA)
    generator.pipe.register_to_config(expand_timesteps=True)
    seen = []
    generator.denoiser.register_forward_pre_hook(
        lambda _module, _given, named: seen.append(named["timestep"].shape[1:]), with_kwargs=True
    )
    ours = sample_ours(generator, guidance_scale=3.0).latents
    own = set(seen)
    seen.clear()
    close(ours, sample_stock(generator.pipe, guidance_scale=3.0))
    assert own == set(seen) == {(ours[0, 0].numel() // 4,)}  # a patch is 1 x 2 x 2


@pytest.mark.parametrize("step", [None, lambda v, x, s, s_next, noise: x + (s_next - s) * v + 0.1 * noise])
@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_3", "wan"])
def test_a_seed_gives_the_same_sample_whatever_the_batch(make_generator, frames, family, step):
    generator = make_generator(family, lora=LORA)
    prompts = ["A red ball moves left.", "A blue bar grows.", "A white pole shakes."]
    text = generator.family.encode_prompts(generator.pipe, prompts)
    negative = generator.family.encode_prompts(generator.pipe, [None])

    def latents(rows):
        chosen = {key: value[rows] for key, value in text.items()}
        return sampling.rollout(
            generator, chosen, [100 + row for row in rows], height=16, width=16, num_inference_steps=3,
            guidance_scale=3.0, negative=negative, step=step, **frames(family),
        ).latents  # fmt: skip

    together = latents([0, 1, 2])
    tolerance = 1e-5 * together.abs().max()  # matrix products of another shape round differently
    assert (latents([2, 0]) - together[[2, 0]]).abs().max() < tolerance
    assert (latents([1]) - together[[1]]).abs().max() < tolerance
    assert torch.equal(latents([0, 1, 2]), together)  # nothing is left over from the rollouts before
    assert (together[0] - together[1]).abs().max() > 0.1


def test_the_pipelines_own_scheduler_is_not_touched(make_generator, sample_ours):
    generator = make_generator("stable_diffusion_3", lora=LORA)
    generator.pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    before = generator.pipe.scheduler.timesteps.clone()
    sample_ours(generator)
    assert torch.equal(generator.pipe.scheduler.timesteps, before)
    assert generator.pipe.scheduler.step_index is None


@pytest.mark.parametrize("family", ["stable_diffusion_3", "flux"])
def test_a_step_without_noise_is_the_ode(make_generator, sample_ours, family):
    generator = make_generator(family, lora=LORA)
    ode = sample_ours(generator, keep_trajectory=True)
    euler = sample_ours(generator, step=lambda v, x, s, s_next, noise: x + (s_next - s) * v, keep_trajectory=True)
    torch.testing.assert_close(euler.trajectory, ode.trajectory, rtol=0, atol=1e-6)
    assert torch.equal(ode.trajectory[0], ode.noise) and torch.equal(ode.trajectory[-1], ode.latents)
    assert ode.trajectory.shape == (4, 2, *ode.latents.shape[1:])
    assert ode.levels[0] == 1 and ode.levels[-1] == 0 and bool((ode.levels.diff() < 0).all())
    torch.testing.assert_close(sampling.levels_at(generator, ode.timesteps), ode.levels[:-1])


@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_xl"])
def test_an_epsilon_model_hands_its_step_alphas_cumprod(make_generator, sample_ours, family):
    """DDIM's formula (2010.02502, Eq. 12, eta 0) on what the step is told gives what DDIMScheduler gives."""
    generator = make_generator(family, lora=LORA)
    config = generator.pipe.scheduler.config

    def ddim(epsilon, sample, a, a_next, noise):
        clean = (sample - (1 - a).sqrt() * epsilon) / a.sqrt()
        return a_next.sqrt() * clean + (1 - a_next).sqrt() * epsilon

    by_step = sample_ours(generator, step=ddim, steps=4)
    generator.pipe.scheduler = diffusers.DDIMScheduler.from_config(config, clip_sample=False)
    close(by_step.latents, sample_ours(generator, steps=4).latents)
    assert torch.equal(by_step.levels[:-1], generator.pipe.scheduler.alphas_cumprod[by_step.timesteps])


def test_noise_of_a_step_is_standard_normal_and_new_each_time(make_generator, sample_ours):
    seen = []

    def step(prediction, sample, level, level_next, noise):
        seen.append(noise)
        return noise

    sample_ours(make_generator("stable_diffusion_3", lora=LORA), step=step, steps=40)
    noise = torch.stack(seen)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02  # 20480 draws: 3 standard errors
    assert len(torch.unique(noise)) > 0.999 * noise.numel()


@pytest.mark.parametrize("family", ["stable_diffusion_3", "flux", "wan"])
def test_training_sigmas_have_the_samplers_shift(make_generator, frames, family):
    generator = make_generator(family, lora=LORA)
    shape = generator.family.latent_shape(generator.pipe, 32, 32, **frames(family))
    uniform = torch.tensor([1.0, 0.75, 0.5, 0.25])
    shifted = sampling.shifted(generator, uniform, shape)
    scheduler = type(generator.pipe.scheduler).from_config(generator.pipe.scheduler.config)
    arguments = generator.family.shift_arguments(generator.pipe, scheduler, shape)
    scheduler.set_timesteps(sigmas=uniform.numpy(), num_inference_steps=4, **arguments)
    torch.testing.assert_close(shifted, scheduler.sigmas[:4].float(), rtol=0, atol=2e-6)
    assert not torch.allclose(shifted, uniform, atol=1e-3)


def test_schedules_whose_shift_training_cannot_follow(make_generator):
    with pytest.raises(ModelError, match="epsilon model"):
        sampling.shifted(make_generator("stable_diffusion", lora=LORA), torch.rand(2), (4, 8, 8))
    generator = make_generator("stable_diffusion_3", lora=LORA)
    generator.pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)
    with pytest.raises(ModelError, match="shift_terminal"):
        sampling.shifted(generator, torch.rand(2), (4, 8, 8))


def test_gradient_flows_through_the_last_steps_only(make_generator, sample_ours, nudge):
    generator = make_generator("stable_diffusion_3", lora=LORA)
    nudge(generator)
    assert not sample_ours(generator).latents.requires_grad
    rollout = sample_ours(generator, grad_steps=1, keep_trajectory=True)
    (gradient,) = torch.autograd.grad(rollout.latents.square().mean(), [generator.parameters()[0]], retain_graph=True)
    assert gradient.abs().sum() > 0
    # one step by hand from the last stored sample, which carries no gradient, has the same gradient
    text = generator.family.encode_prompts(generator.pipe, ["A red ball moves left.", "A blue bar grows."])
    before = rollout.trajectory[-2].detach()
    velocity = generator.predict(before, rollout.timesteps[-1].expand(2), text)
    by_hand = before + (rollout.levels[-1] - rollout.levels[-2]) * velocity
    (expected,) = torch.autograd.grad(by_hand.square().mean(), [generator.parameters()[0]])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)
    with_decode = generator.family.decode(generator.pipe, rollout.latents)
    assert torch.autograd.grad(with_decode.mean(), [generator.parameters()[0]])[0].abs().sum() > 0


def test_seeds_and_prompts_must_agree(make_generator):
    generator = make_generator("stable_diffusion_3", lora=LORA)
    text = generator.family.encode_prompts(generator.pipe, ["A red ball."])
    with pytest.raises(ModelError, match="2 seeds for 1 prompts"):
        sampling.rollout(generator, text, [1, 2], height=16, width=16)
