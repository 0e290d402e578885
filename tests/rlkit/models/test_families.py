"""What every family's file must do: prompts, shapes, VAE, and the stock pipeline's pictures from our latents."""

import copy

import numpy as np
import pytest
import torch

from rlkit.errors import ModelError
from rlkit.recipe import Lora

pytest.importorskip("diffusers")

from rlkit.models import generator as generators
from rlkit.models.tiny_pipelines import TOKENS

FAMILIES = list(generators.FAMILIES.values())
IMAGES = [family for family in FAMILIES if family != "wan"]
PROMPTS = ["A red ball moves left.", "A blue bar grows.", "A green ring on a grey background."]
PARTS = ("PIPELINE", "DENOISER", "PREDICTION", "MEDIUM", "LORA_TARGETS", "takes_guidance", "encode_prompts",
         "latent_shape", "set_timesteps", "shift_arguments", "predict", "encode_images", "decode")  # fmt: skip


@pytest.mark.parametrize("pipeline", generators.FAMILIES)
def test_a_family_has_the_whole_set(pipeline):
    family = generators.family_module(pipeline)
    assert set(PARTS) <= set(dir(family))
    assert family.PIPELINE == pipeline


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_our_latents_are_the_stock_pipelines(make_generator, sample_ours, sample_stock, family):
    generator = make_generator(family, lora=Lora(r=2))
    ours = generator.pictures(sample_ours(generator, steps=2).latents)
    stock = sample_stock(generator.pipe, steps=2, output_type="np")
    stock = np.asarray(stock)  # images [batch, h, w, 3], videos [batch, time, h, w, 3], in [0, 1]
    ours = np.stack([np.asarray(picture) for picture in ours])
    assert ours.dtype == np.uint8
    assert ours.shape == ((2, 5, 16, 16, 3) if family == "wan" else (2, 16, 16, 3))
    assert np.abs(ours - stock * 255).max() < 0.51  # the rounding to 8 bits and nothing else


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_prompts_are_fresh_prompts(make_generator, family):
    generator = make_generator(family, lora=Lora(r=2))
    together = generator.family.encode_prompts(generator.pipe, PROMPTS)
    again = generator.family.encode_prompts(generator.pipe, PROMPTS)
    for key, rows in together.items():
        assert len(rows) == len(PROMPTS) and not rows.requires_grad
        assert torch.equal(rows, again[key])
        for index, prompt in enumerate(PROMPTS):
            alone = generator.family.encode_prompts(generator.pipe, [prompt])[key]
            torch.testing.assert_close(rows[index : index + 1], alone, rtol=0, atol=1e-5)
        assert (rows[0] - rows[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_the_stock_pipelines(tiny_pipe, family):
    pipe = tiny_pipe(family)
    module = generators.family_module(type(pipe).__name__)
    length = {} if family in ("stable_diffusion", "stable_diffusion_xl") else {"max_sequence_length": TOKENS}
    if family == "flux":
        stock = pipe.encode_prompt(prompt=PROMPTS, **length)[:2]
        expected = {"prompt_embeds": stock[0], "pooled_prompt_embeds": stock[1]}
        negative = pipe.encode_prompt(prompt=[""], **length)[:2]
        unconditional = {"prompt_embeds": negative[0], "pooled_prompt_embeds": negative[1]}
    else:
        names = {"stable_diffusion_3": {"prompt_2": None, "prompt_3": None}}.get(family, {})
        if family == "stable_diffusion":
            names = {"device": "cpu", "num_images_per_prompt": 1}
        stock = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=True, **names, **length)
        keys = ["prompt_embeds", "pooled_prompt_embeds"][: len(stock) // 2]
        expected = dict(zip(keys, stock[::2], strict=True))
        unconditional = {key: value[:1] for key, value in zip(keys, stock[1::2], strict=True)}
    for given, wanted in ((PROMPTS, expected), ([None], unconditional)):
        found = module.encode_prompts(pipe, given)
        assert set(found) == set(wanted)
        for key in wanted:
            torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=1e-5)


def test_sdxl_tells_no_prompt_from_an_empty_one(tiny_pipe):
    """SDXL base was trained with zeros as its unconditional prompt; "" is a text like any other."""
    pipe = copy.copy(tiny_pipe("stable_diffusion_xl"))
    module = generators.family_module("StableDiffusionXLPipeline")
    found = module.encode_prompts(pipe, [None, ""])
    for rows in found.values():
        assert not rows[0].any() and rows[1].any()


@pytest.mark.parametrize("family", IMAGES)
def test_latents_scale_as_the_stock_decode_unscales_them(tiny_pipe, family):
    """pipe.__call__ decodes latents / scaling_factor + shift_factor."""
    pipe = tiny_pipe(family)
    module = generators.family_module(type(pipe).__name__)
    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = module.encode_images(pipe, pixels)
    assert latents.shape == (2, *module.latent_shape(pipe, 16, 24)) and latents.dtype == torch.float32
    config = pipe.vae.config
    with torch.no_grad():
        raw = pipe.vae.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(latents / config.scaling_factor + (config.shift_factor or 0.0), raw)
        decoded = module.decode(pipe, latents)
        torch.testing.assert_close(decoded, pipe.vae.decode(raw).sample, rtol=0, atol=1e-5)
    assert decoded.shape == pixels.shape
    assert torch.equal(latents, module.encode_images(pipe, pixels))  # no draw from the posterior


def test_latents_with_a_mean_and_deviation_per_channel(tiny_pipe):
    pipe = copy.deepcopy(tiny_pipe("stable_diffusion_xl"))
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 4.0]
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std)
    module = generators.family_module("StableDiffusionXLPipeline")
    pixels = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        raw = pipe.vae.encode(pixels).latent_dist.mode()
    latents = module.encode_images(pipe, pixels)
    per_channel = torch.tensor(mean).view(1, 4, 1, 1), torch.tensor(std).view(1, 4, 1, 1)
    # stock: latents * latents_std / scaling_factor + latents_mean
    torch.testing.assert_close(latents * per_channel[1] / pipe.vae.config.scaling_factor + per_channel[0], raw)


def test_wans_first_frame_stands_alone(tiny_pipe):
    """Causal in time: 1 + 4 n frames are 1 + n latents, and the first does not depend on what follows."""
    pipe = tiny_pipe("wan")
    module = generators.family_module("WanPipeline")
    pixels = torch.rand(1, 3, 9, 16, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = module.encode_images(pipe, pixels)
    assert latents.shape == (1, *module.latent_shape(pipe, 16, 32, 9)) == (1, 4, 3, 2, 4)
    torch.testing.assert_close(module.encode_images(pipe, pixels[:, :, :1])[:, :, 0], latents[:, :, 0])
    assert module.decode(pipe, latents).shape == pixels.shape
    config = pipe.vae.config
    mean, std = (torch.tensor(v).view(1, 4, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        torch.testing.assert_close(latents * std + mean, pipe.vae.encode(pixels).latent_dist.mode())


@pytest.mark.parametrize("family", IMAGES)
def test_sizes_a_picture_cannot_have(tiny_pipe, family):
    pipe = tiny_pipe(family)
    module = generators.family_module(type(pipe).__name__)
    with pytest.raises(ModelError, match=r"17 x 16 pixels do not divide by 4 .* nearest is 16 x 16"):
        module.latent_shape(pipe, 17, 16)
    with pytest.raises(ModelError, match=r"num_frames is 5, but .*Pipeline makes pictures"):
        module.latent_shape(pipe, 16, 16, 5)


def test_sizes_a_clip_cannot_have(tiny_pipe):
    pipe = tiny_pipe("wan")
    module = generators.family_module("WanPipeline")
    with pytest.raises(ModelError, match=r"num_frames is 8; .* multiple of 4 plus 1, e\.g\. 9"):
        module.latent_shape(pipe, 16, 16, 8)
    with pytest.raises(ModelError, match=r"24 x 16 pixels do not divide by 16 x 16 .* nearest is 32 x 16"):
        module.latent_shape(pipe, 24, 16, 5)
