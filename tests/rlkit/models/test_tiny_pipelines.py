"""Tiny generators are ordinary diffusers folders, the same for the same arguments; the defaults can be trained."""

import numpy as np
import pytest
import torch
from PIL import Image

from rlkit.errors import ModelError

diffusers = pytest.importorskip("diffusers")

from rlkit.models import generator, sampling, tiny_pipelines, tiny_text  # noqa: E402

TEXTS = ["A red ball on a grey background.", "A blue bar on a teal background.", "A white ring, close-up."] * 6
DEFAULTS = {"flow": tiny_pipelines.flow_default, "epsilon": tiny_pipelines.epsilon_default}


@pytest.mark.parametrize("family", tiny_pipelines.FAMILIES)
def test_a_saved_folder_loads_and_runs_in_stock_diffusers(tiny_pipe, pipeline_folder, sample_stock, family):
    again = diffusers.DiffusionPipeline.from_pretrained(pipeline_folder(family))
    assert type(again) is type(tiny_pipe(family))
    one, two = sample_stock(again), sample_stock(tiny_pipe(family))
    assert torch.equal(one, two) and bool(one.isfinite().all())


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_runs_in_stock_diffusers_as_here(tmp_path, name):
    pipe = DEFAULTS[name](TEXTS)
    pipe.save_pretrained(tmp_path)
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    options = {"max_sequence_length": tiny_pipelines.TOKENS} if name == "flow" else {}
    stock = again(TEXTS[0], num_inference_steps=2, generator=[torch.Generator().manual_seed(3)], guidance_scale=1.0,
                  **options).images[0]  # fmt: skip
    mine = generator.prepare(pipe)
    text = mine.family.encode_prompts(pipe, TEXTS[:1])
    latents = sampling.rollout(mine, text, [3], height=32, width=32, num_inference_steps=2).latents
    (ours,) = mine.pictures(latents)
    assert stock.size == (32, 32)
    assert np.abs(np.asarray(stock).astype(int) - np.asarray(ours)).max() <= 1  # at most the rounding to 8 bits


@pytest.mark.parametrize("name", DEFAULTS)
def test_latents_of_a_default_are_its_pixels(name):
    pipe = DEFAULTS[name](TEXTS)
    family = generator.prepare(pipe).family
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels[1], pixels[2, :, :16] = 1.0, -1.0
    latents = family.encode_images(pipe, pixels)
    assert (latents - pixels).abs().max() < 1e-4
    latents.requires_grad_()
    decoded = family.decode(pipe, latents)
    assert (decoded - pixels).abs().max() < 1e-4  # a 40th of a step of an 8-bit picture
    (gradient,) = torch.autograd.grad(decoded.sum(), latents)  # a reward's gradient passes unchanged
    assert (gradient - 1).abs().max() < 1e-2


def test_every_8_bit_picture_survives_the_identity_vae():
    vae = tiny_pipelines.identity_vae(16)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    processor = diffusers.image_processor.VaeImageProcessor(vae_scale_factor=1)
    with torch.no_grad():
        latents = vae.encode(processor.preprocess(Image.fromarray(every))).latent_dist.mode()
        (back,) = processor.postprocess(vae.decode(latents).sample, output_type="pil")
    assert np.array_equal(np.asarray(back), every)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_learns(name):
    """Forty steps on two flat pictures, told apart by their prompts, beat any constant guess at other noise."""
    torch.manual_seed(0)
    mine = generator.prepare(DEFAULTS[name](TEXTS, size=16))
    family = mine.family
    text = {key: rows.repeat_interleave(4, 0) for key, rows in family.encode_prompts(mine.pipe, TEXTS[:2]).items()}
    clean = torch.tensor([0.8, -0.8]).repeat_interleave(4)[:, None, None, None].expand(8, 3, 16, 16)

    def error(timesteps, noise):
        level = sampling.levels_at(mine, timesteps)[:, None, None, None]
        if family.PREDICTION == "flow":
            noisy, target = (1 - level) * clean + level * noise, noise - clean
        else:
            noisy, target = level.sqrt() * clean + (1 - level).sqrt() * noise, noise
        return (mine.predict(noisy, timesteps, text) - target).square().mean()

    held_out = torch.linspace(200, 900, 8).long(), torch.randn(8, 3, 16, 16)
    constant = 1 + 0.8**2 if family.PREDICTION == "flow" else 1.0  # the variance of the target
    optimiser = torch.optim.AdamW(mine.parameters(), lr=2e-3)
    for _ in range(40):
        error(torch.randint(1, 1000, (8,)), torch.randn(8, 3, 16, 16)).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert error(*held_out).item() < 0.75 * constant


@pytest.mark.parametrize("build", [*DEFAULTS.values(), lambda texts, **o: tiny_pipelines.build("flux", texts, **o)])
def test_the_same_arguments_give_the_same_pipeline(build):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = build(TEXTS), build(TEXTS), build(TEXTS, seed=1)
    assert torch.equal(torch.rand(1), expected)  # the caller's generator is left alone
    module = "unet" if "unet" in one.components else "transformer"
    for component in (module, "text_encoder"):
        weights = [pipe.components[component].state_dict() for pipe in (one, two, other)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
        assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])
    assert one.tokenizer.get_vocab() == two.tokenizer.get_vocab()


def test_prompts_differ_in_untrained_embeddings():
    """Frozen random encoders must tell prompts apart: with CLIP's own 0.02 all pooled outputs are nearly one."""
    torch.manual_seed(0)
    clip = tiny_text.clip_tokenizer(TEXTS)
    encoder = tiny_text.clip_encoder(clip, width=64, projection=64)
    with torch.no_grad():
        pooled = encoder(**clip(TEXTS[:3], padding="max_length", return_tensors="pt")).text_embeds
    assert (pooled.std(0).mean() / pooled.std()) > 0.15


def test_tokenizers_read_any_text_and_tell_its_words_apart():
    clip, t5 = tiny_text.clip_tokenizer(TEXTS), tiny_text.t5_tokenizer(TEXTS)
    assert clip.decode(clip("a Red ball 😀 红色")["input_ids"], skip_special_tokens=True) == "a red ball 😀 红色"
    ids = clip("a red ball", padding="max_length")["input_ids"]
    assert ids[0] == clip.bos_token_id and len(ids) == tiny_pipelines.TOKENS and set(ids[5:]) == {clip.eos_token_id}
    assert t5("A red ball")["input_ids"][-1] == t5.eos_token_id
    assert t5.convert_ids_to_tokens(t5("A red ball, close-up.")["input_ids"]) == [
        "▁A", "▁red", "▁ball", ",", "▁close-up", ".", "</s>",
    ]  # fmt: skip
    assert t5.decode(t5("lean blue")["input_ids"], skip_special_tokens=True) == "lean blue"  # an unknown word: letters
    assert t5("红")["input_ids"][-2] == t5.unk_token_id
    for text in TEXTS:  # nothing of a picture's caption is cut
        assert len(t5(text)["input_ids"]) <= tiny_pipelines.TOKENS >= len(clip(text)["input_ids"])


def test_sizes_and_names_that_cannot_be():
    with pytest.raises(ModelError, match=r"tiny pipelines are stable_diffusion, .*'sora' is none"):
        tiny_pipelines.build("sora", TEXTS)
    with pytest.raises(ModelError, match="size 30 must divide by patch_size 4"):
        tiny_pipelines.flow_default(TEXTS, size=30)
    with pytest.raises(ModelError, match="size 34 must divide by 4, each of the widths"):
        tiny_pipelines.epsilon_default(TEXTS, size=34)
