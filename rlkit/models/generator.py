"""Generators: diffusers pipelines, what of them is trained, and the three companions of the policy.

    policy      what is trained: a LoRA adapter on the denoiser, or all of its weights
    reference   the pipeline as it was loaded; never changes (KL, DPO's reference)
    old         the behaviour policy that made the rollouts; moves only by `follow` (NFT, AWM, GRPO)
    ema         a running average of the policy, for evaluation; moves only by `follow`

With LoRA the reference is the denoiser with its adapter disabled, `old` and `ema` are further adapters; with full
fine-tuning each is a frozen copy. One file per family holds what differs, as plain functions of one set:
    PIPELINE DENOISER PREDICTION MEDIUM LORA_TARGETS takes_guidance encode_prompts latent_shape set_timesteps
    shift_arguments predict encode_images decode
"""

import copy
import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from rlkit.errors import ModelError
from rlkit.running import ranks, sharding

if TYPE_CHECKING:
    from rlkit.recipe import Lora

POLICY, REFERENCE, OLD, EMA = "policy", "reference", "old", "ema"
ADAPTER = "default"  # the policy's adapter; the name diffusers' own training scripts leave it
FAMILIES = {
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl",
    "StableDiffusion3Pipeline": "stable_diffusion_3",
    "FluxPipeline": "flux",
    "WanPipeline": "wan",
}


@dataclass
class Generator:
    """A pipeline, its family's functions, and the companions of its policy."""

    pipe: Any
    """The diffusers pipeline; its denoiser is the policy, so `pipe(...)` samples from what is being trained."""
    family: ModuleType
    trained: Literal["lora", "full"]
    keep: tuple[str, ...] = ()
    """Which of old and ema exist (and, with full fine-tuning, whether the reference does)."""
    copies: dict[str, nn.Module] = field(default_factory=dict, repr=False)
    """Full fine-tuning: name -> frozen copy of the denoiser."""
    layers: list[Any] = field(default_factory=list, repr=False)
    """LoRA: PEFT's layers, whose adapter is switched by `using`."""
    trainable: list[nn.Parameter] = field(default_factory=list, repr=False)
    """What an optimiser trains."""

    @property
    def denoiser(self) -> nn.Module:
        """The transformer or UNet that is trained."""
        return self.pipe.components[self.family.DENOISER]

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return self.denoiser.device

    @contextmanager
    def using(self, name: str) -> Iterator[nn.Module]:
        """The denoiser as `name` (policy, reference, old or ema) inside the block.

        Raises ModelError for a companion that was not asked for when the generator was made.
        """
        if name == POLICY:
            yield self.denoiser
        elif self.trained == "full" and name in self.copies:
            yield self.copies[name]
        elif self.trained == "lora" and (name == REFERENCE or name in self.keep):
            for layer in self.layers:
                if name == REFERENCE:
                    layer.enable_adapters(False)
                else:
                    layer.set_adapter(name, inference_mode=True)
            try:
                yield self.denoiser
            finally:
                for layer in self.layers:
                    if name == REFERENCE:
                        layer.enable_adapters(True)
                    else:
                        layer.set_adapter(ADAPTER)
                for parameter in self.trainable:  # PEFT's switches leave out parts that a gathered layer hides
                    parameter.requires_grad_(True)
        else:
            raise ModelError(f"this generator keeps no {name!r}; it was made with keep={self.keep}.")

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains; of shared-out weights the parts of this process."""
        return list(self.trainable)

    def weights(self, name: str = POLICY) -> dict[str, Tensor]:
        """The trained weights of policy, old or ema under PEFT's (full: the denoiser's) names. Where they are shared
        out among processes, all of these call this, and all get them whole; elsewhere they share the model's memory."""
        return {key: sharding.whole(part) for key, part in self._held(name).items()}

    def _held(self, name: str) -> dict[str, Tensor]:
        """What this process holds of `weights(name)`, sharing its memory."""
        if self.trained == "full":
            if name != POLICY and name not in self.copies:
                raise ModelError(f"this generator keeps no {name!r}; it was made with keep={self.keep}.")
            return (self.denoiser if name == POLICY else self.copies[name]).state_dict()
        from peft import get_peft_model_state_dict

        if name != POLICY and (name not in self.keep or name == REFERENCE):
            raise ModelError(f"this generator has no adapter for {name!r}; it was made with keep={self.keep}.")
        return get_peft_model_state_dict(self.denoiser, adapter_name=ADAPTER if name == POLICY else name)

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor], name: str = POLICY) -> None:
        """Put back what `weights(name)` gave; raises ModelError when names or shapes differ."""
        mine = self._held(name)
        wrong = {key for key in mine.keys() & weights.keys() if mine[key].shape != weights[key].shape}
        wrong |= mine.keys() ^ weights.keys()
        if wrong:
            raise ModelError(f"{len(wrong)} weights of {name!r} do not fit, e.g. {min(wrong)}: another model or rank?")
        for key, tensor in mine.items():
            sharding.own(tensor).copy_(sharding.own(sharding.like(weights[key], tensor)))
        self._moved(name)

    @torch.no_grad()
    def follow(self, name: str, decay: float) -> None:
        """name <- decay * name + (1 - decay) * policy; decay 0 copies the policy exactly. The reference never moves."""
        if name == REFERENCE:
            raise ModelError("the reference is what was loaded and never moves; old and ema follow the policy.")
        policy = self._held(POLICY)
        for key, held in self._held(name).items():
            mine, now = sharding.own(held), sharding.own(policy[key])
            if mine.is_floating_point():
                mine.lerp_(now, 1.0 - decay)
            else:
                mine.copy_(now)
        self._moved(name)

    def shard(self) -> None:
        """Share the denoiser and its copies out among the processes of the run (rlkit/running/sharding.py)."""
        for network in (self.denoiser, *self.copies.values()):
            sharding.shard(network)
        self.trainable = _trained(self)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, processes may call the generator differently often, without gradients, though its weights are shared
        out."""
        with ExitStack() as stack:
            for network in (self.denoiser, *self.copies.values()):
                stack.enter_context(sharding.gathered(network))
            yield

    def _moved(self, name: str) -> None:
        sharding.forget(self.denoiser if self.trained == "lora" or name == POLICY else self.copies[name])

    def predict(
        self,
        latents: Float[Tensor, "batch ..."],
        timesteps: Num[Tensor, " batch"],
        text: dict[str, Tensor],
        *,
        guidance_scale: float = 1.0,
        negative: dict[str, Tensor] | None = None,
        name: str = POLICY,
    ) -> Float[Tensor, "batch ..."]:
        """Velocity (PREDICTION flow) or noise (epsilon) in fp32, by the policy or a companion.

        `text` holds a row per sample, `negative` one row for all (encode_prompts(pipe, [None]) is the pipeline's own).
        guidance_scale > 1 means CFG, uncond + scale * (cond - uncond) on one doubled batch, except for
        guidance-distilled pipelines (FLUX dev), which take the scale as an input. Raises ModelError where CFG has no
        `negative`, and where a distilled pipeline is given one.
        """
        with self.using(name) as denoiser:
            if self.family.takes_guidance(self.pipe):
                if negative is not None:
                    raise ModelError(
                        f"{self.family.PIPELINE} is guidance-distilled: guidance_scale is its input, not CFG; give no "
                        "negative prompt."
                    )
                return self.family.predict(self.pipe, denoiser, latents, timesteps, text, guidance_scale)
            if guidance_scale <= 1.0:  # as in diffusers: no CFG
                return self.family.predict(self.pipe, denoiser, latents, timesteps, text)
            if negative is None:
                raise ModelError(
                    f"guidance_scale is {guidance_scale}, which needs the unconditional embeddings too: "
                    "negative=encode_prompts(pipe, [None])."
                )
            both = {key: torch.cat([negative[key].expand_as(rows), rows]) for key, rows in text.items()}
            doubled = torch.cat([latents, latents])
            prediction = self.family.predict(self.pipe, denoiser, doubled, torch.cat([timesteps, timesteps]), both)
        without, with_text = prediction.chunk(2)
        return without + guidance_scale * (with_text - without)

    @torch.no_grad()
    def pictures(self, latents: Float[Tensor, "batch ..."]) -> list[Any]:
        """Decoded samples: PIL images, or for video uint8 frames [time, height, width, 3]; what reward_models take."""
        decoded = torch.cat([self.family.decode(self.pipe, one) for one in latents.split(1)])  # one at a time: memory
        pixels = (decoded / 2 + 0.5).clamp(0, 1)
        if self.family.MEDIUM == "image":
            return self.pipe.image_processor.postprocess(
                pixels, output_type="pil", do_denormalize=[False] * len(pixels)
            )
        frames = (pixels.permute(0, 2, 3, 4, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return list(np.ascontiguousarray(frames))


def load(
    model_id: str,
    *,
    lora: "Lora | None" = None,
    keep: Sequence[str] = (),
    medium: Literal["image", "video"] | None = None,
    adapter: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    device: str | torch.device = "cpu",
) -> Generator:
    """Load the pipeline of a hub id or folder, safetensors only, and prepare it for training.

    `adapter` is a LoRA folder or file to merge into the pipeline first: the start, and with it the reference, is one
    plain pipeline. `medium` is what the recipe expects. The VAE stays in fp32. Raises ModelError when it does not load,
    is not one of FAMILIES, or makes the other medium.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ModelError("generators need diffusers, which is not installed: pip install diffusers") from error
    pipeline_class = _pipeline_class(model_id, revision)
    family = family_module(pipeline_class)
    if medium not in (None, family.MEDIUM):
        raise ModelError(
            f"model.id {model_id!r} is a {pipeline_class}, which makes {family.MEDIUM}s, but {medium} is asked for."
        )
    try:
        pipe = DiffusionPipeline.from_pretrained(
            model_id, dtype=getattr(torch, dtype), use_safetensors=True, revision=revision
        )
        if adapter is not None:
            pipe.load_lora_weights(adapter)
            pipe.fuse_lora()
            pipe.unload_lora_weights()
    except (OSError, ValueError, KeyError, ImportError, TypeError, RuntimeError) as error:
        what = f"model.id {model_id!r}" + (f" with the adapter {adapter!r}" if adapter else "")
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{what} cannot be loaded as a {pipeline_class}: {first_line}") from error
    return prepare(pipe.to(device), lora=lora, keep=keep)


def prepare(pipe, *, lora: "Lora | None" = None, keep: Sequence[str] = ()) -> Generator:
    """Freeze, adapt and copy a loaded pipeline.

    `lora` has the fields of recipe.Lora; `all-linear` means the family's LORA_TARGETS. Adapters are fp32 whatever the
    pipeline's dtype, and `lora=None` trains the whole denoiser in fp32. `keep` names the companions wanted: old, ema,
    and with full fine-tuning reference; the reference of a LoRA costs nothing and is always there.
    """
    family = family_module(type(pipe).__name__)
    unknown = set(keep) - {REFERENCE, OLD, EMA}
    if unknown:
        raise ModelError(f"keep names {sorted(unknown)}; the companions of a policy are reference, old and ema.")
    _refuse_unsupported(pipe, family)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
    pipe.vae.float()
    pipe.set_progress_bar_config(disable=True)
    generator = Generator(pipe, family, "full" if lora is None else "lora", tuple(keep))
    if lora is None:
        denoiser = generator.denoiser.float()
        generator.copies = {name: copy.deepcopy(denoiser) for name in keep}
        denoiser.requires_grad_(True)
    else:
        _add_adapters(generator, lora)
    generator.trainable = _trained(generator)
    return generator


def _trained(generator: Generator) -> list[nn.Parameter]:
    return [parameter for parameter in generator.denoiser.parameters() if parameter.requires_grad]


def save(generator: Generator, folder: str | Path, name: str = POLICY) -> None:
    """Policy, old or ema as diffusers reads it: a LoRA for pipe.load_lora_weights(folder), or a pipeline folder.

    Called by all processes; the main one writes.
    """
    from rlkit.models import adapters

    writes = adapters.save_lora if generator.trained == "lora" else adapters.save_pipeline
    writes(generator, Path(folder), name)
    ranks.wait()


def family_module(pipeline_class: str) -> ModuleType:
    """The family's file; raises ModelError for a pipeline without one."""
    if pipeline_class not in FAMILIES:
        raise ModelError(f"the pipeline is a {pipeline_class}; rlkit trains {', '.join(FAMILIES)}.")
    return importlib.import_module(f"rlkit.models.{FAMILIES[pipeline_class]}")


def _pipeline_class(model_id: str, revision: str | None) -> str:
    """The class that model_index.json names, read before gigabytes of weights are."""
    from diffusers import DiffusionPipeline

    folder = Path(model_id)
    if folder.is_dir() and not (folder / "model_index.json").exists():
        found = "a LoRA: give the pipeline as model.id" if list(folder.glob("*lora*.safetensors")) else "something else"
        raise ModelError(
            f"model.id {model_id!r} has no model_index.json, so it is no diffusers pipeline but {found}; a pipeline is "
            "what pipe.save_pretrained writes."
        )
    try:
        return DiffusionPipeline.load_config(model_id, revision=revision)["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.id {model_id!r} is neither a pipeline folder nor a known hub id: {first_line}"
        ) from error


def _refuse_unsupported(pipe, family: ModuleType) -> None:
    """Variants of a supported class whose maths is another."""
    config = pipe.scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if family.PREDICTION == "epsilon" and kind != "epsilon":
        raise ModelError(f"this {family.PIPELINE} predicts {kind}; rlkit trains {family.PIPELINE} as epsilon only.")
    if family.PREDICTION == "flow" and config.get("stochastic_sampling"):
        raise ModelError("the scheduler has stochastic_sampling on: a sample would not follow from its seed.")
    if pipe.config.get("boundary_ratio") is not None:
        raise ModelError(
            "this Wan pipeline has two denoisers (boundary_ratio is set); rlkit trains one. Use Wan 2.1 T2V or Wan 2.2 "
            "TI2V-5B."
        )


def _add_adapters(generator: Generator, lora: "Lora") -> None:
    """The policy's adapter, and one for each of old and ema that starts as its copy."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    if lora.lora_dropout:
        raise ModelError(
            f"model.lora.lora_dropout is {lora.lora_dropout}; generators need 0: rollout and training would differ."
        )
    denoiser = generator.denoiser
    targets = generator.family.LORA_TARGETS if lora.target_modules == "all-linear" else lora.target_modules
    targets = [targets] if isinstance(targets, str) else targets
    companions = [name for name in generator.keep if name != REFERENCE]
    try:
        for name in (*companions, ADAPTER):  # the last one added is the active one
            config = LoraConfig(
                r=lora.r, lora_alpha=lora.lora_alpha, target_modules=targets, init_lora_weights="gaussian"
            )
            denoiser.add_adapter(config, adapter_name=name)
    except ValueError as error:
        raise ModelError(
            f"model.lora.target_modules {targets} name no layer of {type(denoiser).__name__}: {error}"
        ) from error
    generator.layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
    for parameter_name, parameter in denoiser.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = parameter.data.float()
    for name in companions:
        generator.follow(name, 0.0)
