"""A vision encoder that scores pictures and frames: backbone, views, pooling over time, heads.

    reward = VisionReward.load("runs/reward_aesthetic/final")
    judged = reward(**reward.views.batch([picture]))      # heads.Judged

The backbone is any vision tower of transformers with one input, pixels: CLIP, SigLIP and SigLIP 2 (not its NaFlex
form), DINOv2, DINOv3, ConvNeXt. Its weights and its image processor lie in the folder as transformers writes them,
`heads.safetensors` and `reward.json` beside them; a LoRA adapter lies there as PEFT writes it, and its base stays where
it was. Loading refuses whatever would leave a number random.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from reward_models.vision.heads import Heads, Judged, Outputs
from reward_models.vision.measures import measures
from reward_models.vision.views import CROP, PADDING, REGION, WHOLE, ViewPlan, Views

HEADS = "heads.safetensors"
MANIFEST = "reward.json"
FREQUENCIES = 4  # of the clock that attention over frames sees


@dataclass(frozen=True)
class Spec:
    """What stands on the backbone; stored in reward.json."""

    outputs: Outputs = field(default_factory=Outputs)
    views: ViewPlan = field(default_factory=ViewPlan)
    features: Literal["pooled", "statistics"] = "pooled"
    """pooled: the backbone's own pooled output. statistics: mean and log standard deviation over places, of every
    stage: small textures leave no trace in the last layer's mean."""
    measures: bool = False
    """Also light, colour, edges, contrast, lattices, spectrum, steps and layout of the pixels (measures.py)."""
    pooling: Literal["mean", "attention"] = "mean"
    """Over views and frames. mean does not know their order; attention weighs them by content and time."""


class Pool(nn.Module):
    """A weighted mean over the views of an item. Its weights start equal, and stay so for `mean`."""

    def __init__(self, width: int, pooling: str) -> None:
        super().__init__()
        self.weigh = nn.Linear(width + 2 * FREQUENCIES, 1) if pooling == "attention" else None
        if self.weigh is not None:
            nn.init.zeros_(self.weigh.weight)
            nn.init.zeros_(self.weigh.bias)

    def forward(
        self,
        features: Float[Tensor, "items views width"],
        mask: Bool[Tensor, "items views"],
        time: Float[Tensor, "items views"],
    ) -> Float[Tensor, "items width"]:
        """`time` runs from 0 to 1 over the item's frames. An item without views gets zeros."""
        logits = torch.zeros_like(time)
        if self.weigh is not None:
            angle = time[..., None] * math.pi * torch.arange(1, FREQUENCIES + 1, device=time.device)
            logits = self.weigh(torch.cat([features, angle.sin(), angle.cos()], -1))[..., 0]
        weight = logits.masked_fill(~mask, -1e9).softmax(-1) * mask
        return (weight[..., None] * features).sum(1)


class VisionReward(nn.Module):
    """Backbone, pooling and heads as one module; `views` turns pictures into its input."""

    def __init__(self, backbone: nn.Module, views: Views, spec: Spec) -> None:
        super().__init__()
        self.backbone, self.views, self.spec = backbone, views, spec
        for name, value in zip(("shift", "scale"), normalisation(views.processor), strict=True):
            self.register_buffer(name, value, persistent=False)
        width = feature_width(backbone, spec.features, views.window)
        width += measures(torch.zeros(1, 3, views.window, views.window)).shape[1] if spec.measures else 0
        self.pool = Pool(width, spec.pooling)
        kinds = bool(views.plan.crops) + views.plan.whole
        self.heads = Heads(kinds * width, spec.outputs)

    def forward(
        self,
        pixel_values: Float[Tensor, "items views 3 height width"],
        view: Int[Tensor, "items views"],
        time: Float[Tensor, "items views"],
        expert: Int[Tensor, " items"],
    ) -> Judged:
        """`view`: views.CROP, WHOLE, REGION or PADDING, which costs nothing. `expert`: see Heads."""
        return self.heads(*self.pooled(pixel_values, view, time), expert)

    def pooled(
        self,
        pixel_values: Float[Tensor, "items views 3 height width"],
        view: Int[Tensor, "items views"],
        time: Float[Tensor, "items views"],
    ) -> tuple[Float[Tensor, "items width"], Float[Tensor, "items width"]]:
        """What the heads read of every item: its crops beside its whole, and its region beside its whole."""
        real = view != PADDING
        seen = self.features(pixel_values[real])
        features = seen.new_zeros(*view.shape, seen.shape[-1])
        features[real] = seen
        crops, region = view == CROP, view == REGION
        near = torch.where(region.any(1, keepdim=True), region, crops)  # no region: the crops stand in for it
        plan = self.views.plan
        whole = [self.pool(features, view == WHOLE, time)] if plan.whole else []
        common = [self.pool(features, crops, time)] if plan.crops else []
        special = [self.pool(features, near, time)] if plan.crops else []
        return torch.cat(common + whole, -1), torch.cat(special + whole, -1)

    def features(self, pixels: Float[Tensor, "windows 3 height width"]) -> Float[Tensor, "windows width"]:
        """Of single windows, as the spec says."""
        found = features_of(self.backbone, pixels, self.spec.features)
        if not self.spec.measures:
            return found
        plain = (pixels.float() * self.scale + self.shift).clamp(0, 1)
        return torch.cat([found, measures(plain).to(found.dtype)], -1)

    def save(self, folder: str | Path) -> None:
        """Write the folder that `load` reads, safetensors and JSON only."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.save_pretrained(folder)
        self.views.processor.save_pretrained(folder)
        tensors = {f"{part}.{name}": t for part in ("pool", "heads") for name, t in self._part(part).items()}
        save_file(tensors, folder / HEADS)
        told = {"reward": "aesthetic", "options": {}, "spec": asdict(self.spec)}
        (folder / MANIFEST).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "VisionReward":
        """A trained reward, in eval mode.

        Raises FileNotFoundError for a folder without heads, ValueError where a tensor is missing, has another shape, or
        has no place: a model with a number drawn at random does not score.
        """
        folder = Path(folder)
        for name in (MANIFEST, HEADS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder}: no {name}. A backbone alone scores nothing, since its heads would be random numbers; "
                    "train them with `algorithm: reward`, or give the folder of a trained reward."
                )
        reward = build(folder, stored_spec(folder), complete=True)
        reward.load_heads(folder)
        return reward.eval()

    def load_heads(self, folder: str | Path) -> None:
        """The tensors beside the backbone's; all of them, and none else. Raises ValueError."""
        path = Path(folder) / HEADS
        try:
            stored = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file ({error}).") from error
        wanted = {f"{part}.{name}": t for part in ("pool", "heads") for name, t in self._part(part).items()}
        wrong = [f"{name} is missing" for name in wanted if name not in stored]
        wrong += [f"{name} has no place" for name in stored if name not in wanted]
        both = [name for name in wanted if name in stored]
        shapes = [(name, tuple(stored[name].shape), tuple(wanted[name].shape)) for name in both]
        wrong += [
            f"{name} has shape {found}, expected {expected}" for name, found, expected in shapes if found != expected
        ]
        if wrong:
            raise ValueError(
                f"{path}: {'; '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}. A head with random numbers does "
                "not score; this file and reward.json must be of one training."
            )
        for part in ("pool", "heads"):
            own = {name.removeprefix(f"{part}."): t for name, t in stored.items() if name.startswith(f"{part}.")}
            self.get_submodule(part).load_state_dict(own)

    def _part(self, name: str) -> dict[str, Tensor]:
        return {key: tensor.contiguous() for key, tensor in self.get_submodule(name).state_dict().items()}


def build(model: str | Path, spec: Spec, *, revision: str | None = None, complete: bool = False) -> VisionReward:
    """Fresh heads on the backbone of a hub id or folder. `complete`: refuse where the checkpoint lacks a tensor."""
    processor = AutoImageProcessor.from_pretrained(model, **({} if revision is None else {"revision": revision}))
    return VisionReward(backbone_of(model, revision=revision, complete=complete), Views(processor, spec.views), spec)


def backbone_of(model: str | Path, *, revision: str | None = None, complete: bool = False) -> nn.Module:
    """The vision tower of a checkpoint; of CLIP and SigLIP, which have two towers, the one that sees. An adapter of
    PEFT is merged into its base. Raises ValueError for a model without a plain picture input."""
    options = {} if revision is None else {"revision": revision}
    if (Path(model) / "adapter_config.json").is_file():
        from peft import PeftConfig, PeftModel

        base = PeftConfig.from_pretrained(str(model)).base_model_name_or_path
        return PeftModel.from_pretrained(backbone_of(base, complete=complete), str(model)).merge_and_unload()
    config = AutoConfig.from_pretrained(model, **options)
    if "vision_config" in config.sub_configs:
        config = config.vision_config
    if config.model_type.startswith("siglip2"):
        raise ValueError(
            f"{model}: SigLIP 2's NaFlex form takes patches; use a fixed resolution (patch16-224 and so on)."
        )
    network, told = AutoModel.from_pretrained(model, config=config, output_loading_info=True, **options)
    missing = sorted(told["missing_keys"])
    if complete and missing:
        raise ValueError(
            f"{model}: the backbone lacks {', '.join(missing[:5])}; random numbers in their place score nothing."
        )
    if network.main_input_name != "pixel_values":
        raise ValueError(f"{model}: {config.model_type} takes {network.main_input_name}; expected a vision encoder.")
    return network


def normalisation(processor: Any) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """(mean, deviation) by which the processor normalised pixels in [0, 1]; (0, 1) where it does not."""
    if not processor.do_normalize:
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return tuple(torch.tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))


def features_of(backbone: nn.Module, pixels: Float[Tensor, "windows 3 height width"], kind: str) -> Tensor:
    """[windows, width]: the pooled output, or the statistics of every stage."""
    if kind == "pooled":
        return backbone(pixel_values=pixels).pooler_output
    stages = backbone(pixel_values=pixels, output_hidden_states=True).hidden_states
    return torch.cat([part for stage in stages for part in _statistics(stage)], -1)


def _statistics(stage: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation over the places of [windows, channels, h, w] or [windows, places, channels]."""
    places = (2, 3) if stage.ndim == 4 else (1,)
    mean = stage.mean(places, keepdim=True)
    variance = (stage - mean).square().mean(places)  # torch.var_mean takes ten times as long on a CPU
    return mean.flatten(1), (variance + 1e-4).log() / 2


def feature_width(backbone: nn.Module, kind: str, window: int) -> int:
    """Found by trying: families name their sizes differently. Raises ValueError for a tower without a pooled output."""
    like = next(backbone.parameters())
    with torch.no_grad():
        pixels = torch.zeros(1, 3, window, window, device=like.device, dtype=like.dtype)
        found = features_of(backbone, pixels, kind)
    if found is None:
        raise ValueError(f"{type(backbone).__name__} has no pooled output; use features: statistics.")
    return found.shape[-1]


def stored_spec(folder: Path) -> Spec:
    """The spec in a trained reward's reward.json."""
    told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["spec"]
    outputs = {k: tuple(v) if isinstance(v, list) else v for k, v in told["outputs"].items()}
    return Spec(Outputs(**outputs), ViewPlan(**told["views"]), told["features"], told["measures"], told["pooling"])
