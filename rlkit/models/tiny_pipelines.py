"""Tiny generators of the real diffusers classes, with their real tokenizers and text encoders, built offline.

    pipe = build("flux", texts); pipe.save_pretrained(folder)      # DiffusionPipeline.from_pretrained(folder) runs it
    pipe = flow_default(texts)                                     # what the recipes train when model.id is null

Weights are random and follow from (texts, sizes, seed). `build` gives the smallest thing of each family that still has
every part; its pictures are noise. `flow_default` and `epsilon_default` are for training on pictures of size x size
pixels. Their VAE is an ordinary AutoencoderKL whose weights make it the identity (`identity_vae`): nothing to train, no
blur between denoiser and reward, and the latents are the pixels in [-1, 1]; the price is a denoiser at full resolution,
which small pictures allow. Their text encoders are random as well: frozen, they tell prompts apart well enough.

SD3, FLUX and Wan pad their T5 to 256, 512 and 512 tokens, which would cost more than the picture. Here its tokenizer's
limit is TOKENS, and rlkit goes by that limit; stock code gives the same picture when it is told so:
pipe(..., max_sequence_length=TOKENS).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from rlkit.errors import ModelError
from rlkit.models import tiny_text

TOKENS = 16
"""Of a prompt, in every tokenizer: "A red ball on a grey background, close-up." has 13. Longer ones are cut."""
# Stable Diffusion's noise schedule
SD_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip


def build(family: str, texts: Sequence[str], *, seed: int = 0):
    """The tiny pipeline of `family` (a key of FAMILIES); raises ModelError for another name."""
    if family not in FAMILIES:
        raise ModelError(f"the tiny pipelines are {', '.join(FAMILIES)}; {family!r} is none of them.")
    with _seeded(seed):
        pipe = FAMILIES[family](list(texts))
    return _ready(pipe)


def stable_diffusion_3(texts: list[str]) -> StableDiffusion3Pipeline:
    """SD3.5's shape: qk norm, dual attention in the first block, two CLIPs and T5."""
    clip, t5 = tiny_text.clip_tokenizer(texts, max_length=TOKENS), tiny_text.t5_tokenizer(texts, max_length=TOKENS)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64,
            pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(latent_channels=4, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False),
        text_encoder=tiny_text.clip_encoder(clip, projection=32),
        tokenizer=clip,
        text_encoder_2=tiny_text.clip_encoder(clip, projection=32),
        tokenizer_2=clip,
        text_encoder_3=tiny_text.t5_encoder(t5, width=64),
        tokenizer_3=t5,
    )  # fmt: skip


def stable_diffusion(texts: list[str]) -> StableDiffusionPipeline:
    """SD 1.5's shape: UNet with two levels, one CLIP, 1000 scaled-linear betas."""
    clip = tiny_text.clip_tokenizer(texts, max_length=TOKENS)
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32, attention_head_dim=2, norm_num_groups=8,
        ),
        scheduler=DDIMScheduler(**SD_NOISE),
        vae=vae(latent_channels=4, scaling_factor=0.18215),
        text_encoder=tiny_text.clip_encoder(clip),
        tokenizer=clip,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_xl(texts: list[str]) -> StableDiffusionXLPipeline:
    """SDXL's shape: added size and pooled-text conditions, two CLIPs, zeros for the unconditional prompt, Euler."""
    clip = tiny_text.clip_tokenizer(texts, max_length=TOKENS)
    return StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64, attention_head_dim=(2, 4), norm_num_groups=8, use_linear_projection=True,
            transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                         timestep_spacing="leading", steps_offset=1),
        vae=vae(latent_channels=4, scaling_factor=0.13025),
        text_encoder=tiny_text.clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=tiny_text.clip_encoder(clip, projection=32),
        tokenizer_2=clip,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )  # fmt: skip


def flux(texts: list[str]) -> FluxPipeline:
    """FLUX.1-dev's shape: double and single blocks, guidance embedding, resolution-dependent shift."""
    clip, t5 = tiny_text.clip_tokenizer(texts, max_length=TOKENS), tiny_text.t5_tokenizer(texts, max_length=TOKENS)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False),
        text_encoder=tiny_text.clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=tiny_text.t5_encoder(t5),
        tokenizer_2=t5,
    )  # fmt: skip


def wan(texts: list[str]) -> WanPipeline:
    """Wan 2.1's shape: UMT5, a VAE with 8 x 8 x 4 compression and causal convolutions, UniPC with flow_shift 3."""
    t5 = tiny_text.t5_tokenizer(texts, max_length=TOKENS)
    return WanPipeline(
        transformer=WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=32, freq_dim=32,
            ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        ),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        vae=AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[-0.7571, -0.7089, -0.9113, 0.1075], latents_std=[2.8184, 1.4541, 2.3275, 2.6558],
        ),
        text_encoder=tiny_text.t5_encoder(t5, umt5=True),
        tokenizer=t5,
    )  # fmt: skip


FAMILIES: dict[str, Callable] = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "flux": flux,
    "wan": wan,
}


def flow_default(
    texts: Sequence[str], *, size: int = 32, patch_size: int = 4, width: int = 96, layers: int = 4, seed: int = 0
):
    """A small SD3 for pictures of `size` x `size`, with two CLIPs and a T5 of one layer.

    Raises ModelError for sizes that do not divide by patch_size or widths not by 32.
    """
    if size % patch_size or width % 32:
        raise ModelError(f"size {size} must divide by patch_size {patch_size}, width {width} by 32.")
    texts = list(texts)
    with _seeded(seed):
        clip, t5 = (make(texts, max_length=TOKENS) for make in (tiny_text.clip_tokenizer, tiny_text.t5_tokenizer))
        pipe = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=size, patch_size=patch_size, in_channels=3, out_channels=3, num_layers=layers,
                attention_head_dim=32, num_attention_heads=width // 32, joint_attention_dim=128,
                caption_projection_dim=width, pooled_projection_dim=128, pos_embed_max_size=size // patch_size,
                qk_norm="rms_norm",
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=identity_vae(size),
            text_encoder=tiny_text.clip_encoder(clip, width=64, projection=64),
            tokenizer=clip,
            text_encoder_2=tiny_text.clip_encoder(clip, width=64, projection=64),
            tokenizer_2=clip,
            text_encoder_3=tiny_text.t5_encoder(t5, width=128, layers=1),
            tokenizer_3=t5,
        )  # fmt: skip
    return _ready(pipe)


def epsilon_default(
    texts: Sequence[str], *, size: int = 32, widths: tuple[int, ...] = (16, 32, 64), layers: int = 1, seed: int = 0
):
    """A small SD 1.5 for pictures of `size` x `size`: a UNet with one level per width, attention below the first.

    Raises ModelError for sizes that do not halve between the levels or widths that do not divide by 8.
    """
    if size % 2 ** (len(widths) - 1) or any(width % 8 for width in widths):
        raise ModelError(f"size {size} must divide by {2 ** (len(widths) - 1)}, each of the widths {widths} by 8.")
    deeper = len(widths) - 1
    with _seeded(seed):
        clip = tiny_text.clip_tokenizer(list(texts), max_length=TOKENS)
        pipe = StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=size, in_channels=3, out_channels=3, block_out_channels=widths, layers_per_block=layers,
                down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * deeper,
                up_block_types=("CrossAttnUpBlock2D",) * deeper + ("UpBlock2D",),
                cross_attention_dim=64, attention_head_dim=4, norm_num_groups=8,
            ),
            scheduler=DDIMScheduler(**SD_NOISE),
            vae=identity_vae(size),
            text_encoder=tiny_text.clip_encoder(clip, width=64),
            tokenizer=clip,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    return _ready(pipe)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Weights drawn inside follow from `seed`; the caller's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _ready(pipe):
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    return pipe


def vae(*, latent_channels: int, scaling_factor: float, shift_factor: float | None = None, use_quant_conv: bool = True):
    """A small AutoencoderKL with random weights that halves each side."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=use_quant_conv,
        use_post_quant_conv=use_quant_conv,
    )


def identity_vae(size: int) -> AutoencoderKL:
    """An AutoencoderKL that returns what it is given, to about 1e-5: three latent channels, the pixels themselves.

    conv_in writes (x, -x, K, -K); the residual blocks add nothing; the group norm over all channels has mean 0 and,
    K being large, a constant deviation K / 2, so it divides by K / 2; silu(y) - silu(-y) = y undoes the activation in
    conv_out. The posterior's log-variance is the least AutoencoderKL allows.
    """
    large = 1000.0
    model = AutoencoderKL(
        block_out_channels=(8,), latent_channels=3, norm_num_groups=1, sample_size=size, scaling_factor=1.0,
        shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
        force_upcast=False,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for half in (model.encoder, model.decoder):
            half.conv_norm_out.weight.fill_(1.0)
            for channel in range(3):
                half.conv_in.weight[channel, channel, 1, 1] = 1.0
                half.conv_in.weight[channel + 3, channel, 1, 1] = -1.0
                half.conv_out.weight[channel, channel, 1, 1] = large / 2
                half.conv_out.weight[channel, channel + 3, 1, 1] = -large / 2
            half.conv_in.bias[6], half.conv_in.bias[7] = large, -large
        model.encoder.conv_out.bias[3:] = -30.0
    return model
