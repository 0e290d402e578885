"""Companions of the policy are what they say, gradient goes where it should, and what cannot be used is refused."""

import json
from pathlib import Path

import pytest
import torch

from rlkit.errors import ModelError
from rlkit.recipe import Lora

pytest.importorskip("diffusers")

from rlkit.models import generator as generators

FAMILIES = list(generators.FAMILIES.values())
WAYS = [Lora(r=2, lora_alpha=8.0), None]


def ids(way):
    return "full" if way is None else "lora"


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("family", FAMILIES)
def test_companions_are_the_policy_at_the_start_and_move_only_by_follow(
    make_generator, sample_ours, nudge, family, way
):
    generator = make_generator(family, lora=way, keep=("reference", "old", "ema"))

    def latents(name="policy"):
        return sample_ours(generator, name=name, steps=1).latents

    start = latents()
    for name in ("reference", "old", "ema"):
        assert torch.equal(latents(name), start), name
    nudge(generator)
    moved = latents()
    assert not torch.equal(moved, start)
    for name in ("reference", "old", "ema"):
        assert torch.equal(latents(name), start), name
    generator.follow("old", 0.0)
    assert torch.equal(latents("old"), moved)
    assert torch.equal(latents("ema"), start)
    assert torch.equal(latents("reference"), start)
    assert torch.equal(latents(), moved)
    with pytest.raises(ModelError, match="never moves"):
        generator.follow("reference", 0.0)


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_reaches_what_is_trained_only(make_generator, nudge, frames, family, way):
    generator = make_generator(family, lora=way, keep=("reference", "old"))
    nudge(generator)  # lora_B starts at 0, where lora_A has no gradient
    text = generator.family.encode_prompts(generator.pipe, ["A red ball moves left.", "A blue bar grows."])
    shape = generator.family.latent_shape(generator.pipe, 16, 16, **frames(family))
    latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([700.0, 300.0])

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
        assert trained == set(plain) and all(".default." in name for name in trained)
        unused = {name for name, grad in plain.items() if not grad.any()}
        # the last block of SD3 drops its text stream, and attention to one token has no gradient in q and k
        assert len(unused) < 0.3 * len(plain), unused
    assert len(plain) > 0.8 * len(trained)
    for component in generator.pipe.components.values():
        if isinstance(component, torch.nn.Module) and component is not generator.denoiser:
            assert all(parameter.grad is None and not parameter.requires_grad for parameter in component.parameters())
    between = gradients(companions)  # switching adapters between forward and backward changes nothing
    assert set(between) == set(plain) and all(torch.equal(between[name], plain[name]) for name in plain)


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_follow_is_the_exponential_average(make_generator, nudge, way):
    generator = make_generator("stable_diffusion_3", lora=way, keep=("ema",))
    start = {key: value.clone() for key, value in generator.weights("ema").items()}
    nudge(generator)
    generator.follow("ema", 0.75)
    policy = generator.weights()
    for key, value in generator.weights("ema").items():
        torch.testing.assert_close(value, 0.75 * start[key] + 0.25 * policy[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_weights_taken_out_and_put_back_are_the_same_policy(make_generator, sample_ours, nudge, way):
    one, two = (make_generator("flux", lora=way, keep=("old",)) for _ in range(2))
    nudge(one)
    one.follow("old", 0.5)
    for name in ("policy", "old"):
        two.load_weights({key: value.clone() for key, value in one.weights(name).items()}, name)
        assert torch.equal(sample_ours(two, name=name).latents, sample_ours(one, name=name).latents)
    with pytest.raises(ModelError, match="do not fit"):
        two.load_weights(dict(list(one.weights().items())[1:]))


def test_adapters_are_fp32_beside_a_bf16_pipeline_and_predictions_are_fp32(pipeline_folder):
    generator = generators.load(pipeline_folder("stable_diffusion_3"), lora=WAYS[0], keep=("old",), dtype="bfloat16")
    dtypes = {("lora" in name, p.dtype) for name, p in generator.denoiser.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    assert generator.denoiser.dtype == torch.bfloat16 and generator.pipe.vae.dtype == torch.float32
    text = generator.family.encode_prompts(generator.pipe, ["A red ball."])
    assert generator.predict(torch.zeros(1, 4, 8, 8), torch.tensor([500.0]), text).dtype == torch.float32


def test_full_fine_tuning_holds_fp32_weights_beside_a_bf16_rest(pipeline_folder):
    generator = generators.load(pipeline_folder("stable_diffusion_3"), dtype="bfloat16")
    assert {parameter.dtype for parameter in generator.parameters()} == {torch.float32}
    assert generator.pipe.text_encoder.dtype == torch.bfloat16


def test_companions_that_were_not_asked_for(make_generator):
    for generator in (make_generator("stable_diffusion", lora=WAYS[0]), make_generator("stable_diffusion")):
        with pytest.raises(ModelError, match="'old'"), generator.using("old"):
            pass
        with pytest.raises(ModelError, match="'ema'"):
            generator.weights("ema")
    with pytest.raises(ModelError, match="'reference'"), generator.using("reference"):  # a full copy costs memory
        pass
    with pytest.raises(ModelError, match="olld"):
        make_generator("stable_diffusion", keep=("olld",))


def test_guidance_that_cannot_be_meant(make_generator):
    generator = make_generator("stable_diffusion_3", lora=WAYS[0])
    text = generator.family.encode_prompts(generator.pipe, ["A red ball."])
    arguments = torch.zeros(1, 4, 8, 8), torch.tensor([500.0]), text
    with pytest.raises(ModelError, match="needs the unconditional embeddings"):
        generator.predict(*arguments, guidance_scale=4.0)
    generator = make_generator("flux", lora=WAYS[0])
    text = generator.family.encode_prompts(generator.pipe, ["A red ball."])
    with pytest.raises(ModelError, match="guidance-distilled"):
        generator.predict(*arguments[:2], text, guidance_scale=4.0, negative=text)


def test_folders_that_are_no_pipeline(tmp_path):
    with pytest.raises(ModelError, match=r"no model_index\.json.*something else"):
        generators.load(str(tmp_path))
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    with pytest.raises(ModelError, match="a LoRA: give the pipeline"):
        generators.load(str(tmp_path))
    with pytest.raises(ModelError, match="neither a pipeline folder nor a known hub id"):
        generators.load("nobody/nothing-of-this-name")


def test_pipelines_without_a_family_and_of_the_other_medium(tmp_path, pipeline_folder):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    with pytest.raises(ModelError, match=r"DDPMPipeline; rlkit trains StableDiffusionPipeline, .*WanPipeline"):
        generators.load(str(tmp_path))
    with pytest.raises(ModelError, match="StableDiffusion3Pipeline, which makes images, but video is asked for"):
        generators.load(pipeline_folder("stable_diffusion_3"), medium="video")
    with pytest.raises(ModelError, match="WanPipeline, which makes videos, but image is asked for"):
        generators.load(pipeline_folder("wan"), medium="image")


def test_weights_other_than_safetensors_are_refused(tmp_path, pipeline_folder):
    import shutil

    folder = shutil.copytree(pipeline_folder("stable_diffusion_3"), tmp_path / "pickled")
    weights = Path(folder) / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="cannot be loaded as a StableDiffusion3Pipeline"):
        generators.load(str(folder))


def test_variants_whose_maths_is_another(tiny_pipe):
    import copy

    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    pipe = copy.copy(tiny_pipe("stable_diffusion"))
    pipe.scheduler = DDIMScheduler(prediction_type="v_prediction")
    with pytest.raises(ModelError, match="predicts v_prediction"):
        generators.prepare(pipe)
    pipe = copy.copy(tiny_pipe("stable_diffusion_3"))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with pytest.raises(ModelError, match="would not follow from its seed"):
        generators.prepare(pipe)
    pipe = copy.deepcopy(tiny_pipe("wan"))
    pipe.register_to_config(boundary_ratio=0.9)
    with pytest.raises(ModelError, match="two denoisers"):
        generators.prepare(pipe)


def test_adapters_that_cannot_be_meant(make_generator):
    with pytest.raises(ModelError, match=r"lora_dropout is 0\.1"):
        make_generator("stable_diffusion", lora=Lora(lora_dropout=0.1))
    with pytest.raises(ModelError, match="name no layer"):
        make_generator("stable_diffusion", lora=Lora(target_modules=["query"]))
