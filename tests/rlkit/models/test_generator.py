"""Every family, LoRA and full: our sampling is the stock pipeline's, companions are what they say, files round-trip."""

import pytest
import torch

from rlkit.errors import ModelError
from rlkit.recipe import Lora

diffusers = pytest.importorskip("diffusers")

from rlkit.models import generator as generators  # noqa: E402
from rlkit.models import sampling  # noqa: E402

PROMPTS = ["A red ball moves left.", "A blue bar grows."]
SEEDS = [11, 12]
STEPS = 3
FAMILIES = list(generators.FAMILIES.values())
WAYS = [Lora(r=2, lora_alpha=8.0), None]
SIZE = {"height": 16, "width": 16}


def frames(family):
    return {"num_frames": 5} if family == "wan" else {}


def ids(way):
    return "full" if way is None else "lora"


def nudge(generator, scale=0.05):
    """Move the policy away from its start, by the same amount for the same generator."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def ours(generator, *, guidance_scale=1.0, **options):
    text = generator.family.encode_prompts(generator.pipe, PROMPTS)
    negative = None
    if guidance_scale > 1 and not generator.family.takes_guidance(generator.pipe):
        negative = generator.family.encode_prompts(generator.pipe, [None])
    return sampling.rollout(
        generator, text, SEEDS, **SIZE, **frames(generator.family.__name__.rsplit(".", 1)[1]),
        num_inference_steps=STEPS, guidance_scale=guidance_scale, negative=negative, **options,
    )  # fmt: skip


def stock(pipe, *, guidance_scale=1.0, output_type="latent"):
    """What diffusers' own __call__ makes of the same prompts and seeds; latents unpacked."""
    pipe.set_progress_bar_config(disable=True)
    family = generators.FAMILIES[type(pipe).__name__]
    options = {} if family in ("stable_diffusion", "stable_diffusion_xl") else {"max_sequence_length": 32}
    result = pipe(
        prompt=PROMPTS, **SIZE, **frames(family), num_inference_steps=STEPS, guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS], output_type=output_type, **options,
    )[0]  # fmt: skip
    if family == "flux" and output_type == "latent":
        result = pipe._unpack_latents(result, SIZE["height"], SIZE["width"], pipe.vae_scale_factor)
    return result


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_is_the_stock_pipelines(pipeline_folder, family, way, guidance_scale):
    generator = generators.load(str(pipeline_folder(family)), lora=way)
    nudge(generator)
    mine = ours(generator, guidance_scale=guidance_scale).latents
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, stock(generator.pipe, guidance_scale=guidance_scale).float(), rtol=0, atol=1e-5)
    start = diffusers.DiffusionPipeline.from_pretrained(pipeline_folder(family))
    assert (mine - stock(start, guidance_scale=guidance_scale)).abs().max() > 1e-3  # the nudge is seen


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("family", FAMILIES)
def test_reference_is_the_policy_at_the_start_and_stays(pipeline_folder, family, way):
    generator = generators.load(str(pipeline_folder(family)), lora=way, keep=("reference", "old", "ema"))
    start = ours(generator).latents
    for name in ("reference", "old", "ema"):
        assert torch.equal(ours(generator, name=name).latents, start), name
    nudge(generator)
    moved = ours(generator).latents
    assert not torch.equal(moved, start)
    for name in ("reference", "old", "ema"):
        assert torch.equal(ours(generator, name=name).latents, start), name
    generator.follow("old", 0.0)
    assert torch.equal(ours(generator, name="old").latents, moved)
    assert torch.equal(ours(generator, name="ema").latents, start)
    with pytest.raises(ModelError, match="never moves"):
        generator.follow("reference", 0.0)


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_reaches_what_is_trained_only(pipeline_folder, family, way):
    generator = generators.load(str(pipeline_folder(family)), lora=way, keep=("reference", "old"))
    nudge(generator)  # lora_B starts at 0, where lora_A has no gradient
    text = generator.family.encode_prompts(generator.pipe, PROMPTS)
    shape = generator.family.latent_shape(generator.pipe, **SIZE, **frames(family))
    latents, timesteps = torch.randn(2, *shape), torch.tensor([700.0, 300.0])

    def gradients(between):
        prediction = generator.predict(latents, timesteps, text)
        between()
        prediction.square().mean().backward()
        found = {n: p.grad.clone() for n, p in generator.denoiser.named_parameters() if p.grad is not None}
        generator.denoiser.zero_grad()
        return found

    def companions():
        with torch.no_grad():
            for name in ("reference", "old"):
                generator.predict(latents, timesteps, text, name=name)

    plain = gradients(lambda: None)
    trained = {name for name, parameter in generator.denoiser.named_parameters() if parameter.requires_grad}
    if way is not None:
        assert trained and all(".default." in name for name in trained)
        assert set(plain) == trained
    assert sum(bool(grad.abs().sum() > 0) for grad in plain.values()) > 0.8 * len(plain)
    for component in generator.pipe.components.values():
        if isinstance(component, torch.nn.Module) and component is not generator.denoiser:
            assert all(parameter.grad is None and not parameter.requires_grad for parameter in component.parameters())
    between = gradients(companions)  # switching adapters between forward and backward changes nothing
    assert set(between) == set(plain) and all(torch.equal(between[name], plain[name]) for name in plain)


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_here_loaded_by_stock_diffusers_gives_the_same_picture(pipeline_folder, tmp_path, family, way):
    generator = generators.load(str(pipeline_folder(family)), lora=way, keep=("ema",))
    nudge(generator)
    expected = stock(generator.pipe, output_type="np")
    generators.save(generator, tmp_path / "final")
    generators.save(generator, tmp_path / "final")  # again, over itself
    if way is None:
        pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "final")
    else:
        pipe = diffusers.DiffusionPipeline.from_pretrained(pipeline_folder(family))
        before = stock(pipe, output_type="np")
        pipe.load_lora_weights(tmp_path / "final")
        assert abs(before - expected).max() > 1e-3
    assert abs(stock(pipe, output_type="np") - expected).max() < 1e-5
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_can_be_the_start_of_the_next_run(pipeline_folder, tmp_path, family):
    first = generators.load(str(pipeline_folder(family)), lora=WAYS[0])
    nudge(first)
    generators.save(first, tmp_path)
    again = generators.load(str(pipeline_folder(family)), lora=WAYS[0], adapter=str(tmp_path))
    expected = ours(first).latents
    torch.testing.assert_close(ours(again).latents, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(again, name="reference").latents, expected, rtol=0, atol=1e-5)
