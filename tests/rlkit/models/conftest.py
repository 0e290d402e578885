"""Tiny pipelines, built once per test session, generators around copies of them, and both ways to sample from them."""

import copy

import pytest

PROMPTS = ["A red ball moves left.", "A blue bar grows.", "A green ring on a grey background.", "A white pole shakes."]
SIZE = {"height": 16, "width": 16}


@pytest.fixture(scope="session")
def tiny_pipe():
    """family -> its tiny pipeline; not to be changed."""
    pytest.importorskip("diffusers")
    from rlkit.models import tiny_pipelines

    built = {}

    def get(family):
        if family not in built:
            built[family] = tiny_pipelines.build(family, PROMPTS * 4)
            built[family].set_progress_bar_config(disable=True)
        return built[family]

    return get


@pytest.fixture(scope="session")
def pipeline_folder(tiny_pipe, tmp_path_factory):
    """family -> folder of its tiny pipeline, as save_pretrained wrote it."""
    folders = {}

    def folder(family):
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            tiny_pipe(family).save_pretrained(folders[family])
        return str(folders[family])

    return folder


@pytest.fixture
def make_generator(tiny_pipe):
    """(family, options of prepare) -> Generator on a copy of the tiny pipeline."""
    from rlkit.models import generator

    return lambda family, **options: generator.prepare(copy.deepcopy(tiny_pipe(family)), **options)


@pytest.fixture(scope="session")
def nudge():
    """Move a policy away from its start, by the same amount every time."""
    import torch

    def move(generator, scale=0.05):
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=drawn))

    return move


@pytest.fixture(scope="session")
def frames():
    """family -> num_frames where it makes video."""
    return lambda family: {"num_frames": 5} if family == "wan" else {}


@pytest.fixture(scope="session")
def sample_ours(frames):
    """(generator, options of rollout) -> Rollout of the first prompts, one per seed."""
    from rlkit.models import sampling

    def sample(generator, *, seeds=(11, 12), guidance_scale=1.0, steps=3, **options):
        family = generator.family
        text = family.encode_prompts(generator.pipe, PROMPTS[: len(seeds)])
        negative = None
        if guidance_scale > 1 and not family.takes_guidance(generator.pipe):
            negative = family.encode_prompts(generator.pipe, [None])
        options = SIZE | frames(family.__name__.rsplit(".", 1)[1]) | options
        return sampling.rollout(generator, text, seeds, num_inference_steps=steps, guidance_scale=guidance_scale,
                                negative=negative, **options)  # fmt: skip

    return sample


@pytest.fixture(scope="session")
def sample_stock(frames):
    """(pipe, options of its __call__) -> diffusers' own samples of the same prompts and seeds; latents unpacked."""
    import torch

    from rlkit.models.generator import FAMILIES
    from rlkit.models.tiny_pipelines import TOKENS

    def sample(pipe, *, seeds=(11, 12), guidance_scale=1.0, output_type="latent", steps=3, **options):
        family = FAMILIES[type(pipe).__name__]
        if family not in ("stable_diffusion", "stable_diffusion_xl"):
            options["max_sequence_length"] = TOKENS
        result = pipe(
            prompt=PROMPTS[: len(seeds)], **SIZE, **frames(family), num_inference_steps=steps,
            guidance_scale=guidance_scale, generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type=output_type, **options,
        )[0]  # fmt: skip
        if family == "flux" and output_type == "latent":
            result = pipe._unpack_latents(result, SIZE["height"], SIZE["width"], pipe.vae_scale_factor)
        return result

    return sample
