"""Scores per second of a reward against the bare backbone's forward pass on the same windows, same batch.

    python tests/bench/scoring.py [--device cuda] [--repetitions 7]

`tensors`: VisionReward on prepared windows, heads and pooling included, against the backbone on the same pixels.
`pictures`: the whole of `score` from uint8 pictures against the backbone's own processor and forward pass on as many
windows. `ratio` is backbone over reward: 0.9 means nine tenths of the backbone's throughput.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import (
    BitImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextV2Config,
    ConvNextV2Model,
    Dinov2Config,
    Dinov2Model,
)

import reward_models
from reward_models.vision.encoder import Spec, VisionReward
from reward_models.vision.heads import Outputs
from reward_models.vision.views import ViewPlan, Views

ITEMS, CROPS = 4, 3
ATTRIBUTES = ("overall", "composition", "exposure", "colour", "sharpness", "artefacts")


def backbones() -> dict[str, tuple[torch.nn.Module, int, str, bool]]:
    """name -> (backbone, window, features, whether measures stand beside them): the widths of ViT-Ti with fewer layers,
    CLIP's ViT-B/16, ConvNeXt V2 atto, the recipe's."""
    clip = CLIPVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=3, patch_size=16
    )
    dino = Dinov2Config(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, image_size=224)
    base = CLIPVisionConfig(patch_size=16)
    tiny = ConvNextV2Config(hidden_sizes=[32, 64, 128], depths=[1, 1, 1], num_stages=3, image_size=64)
    atto = ConvNextV2Config(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], image_size=224)
    return {
        "clip, 4 layers of 192": (CLIPVisionModel(clip), 224, "pooled", False),
        "clip vit-b/16, measures": (CLIPVisionModel(base), 224, "pooled", True),
        "dinov2, 4 layers of 192": (Dinov2Model(dino), 224, "pooled", False),
        "convnextv2 atto": (ConvNextV2Model(atto), 224, "pooled", False),
        "convnextv2 atto, statistics": (ConvNextV2Model(atto), 224, "statistics", False),
        "convnextv2 atto, statistics, measures": (ConvNextV2Model(atto), 224, "statistics", True),
        "recipe's convnextv2, statistics": (ConvNextV2Model(tiny), 128, "statistics", False),
        "recipe's convnextv2, statistics, measures": (ConvNextV2Model(tiny), 128, "statistics", True),
    }


def save_reward(folder: Path, backbone: torch.nn.Module, window: int, features: str, measures: bool) -> None:
    """A VisionReward with fresh weights, as `rlkit reward score` and `reward_models.load` read it."""
    plan, square = ViewPlan(CROPS, True), {"height": window, "width": window}
    processor = BitImageProcessor(size=square, crop_size=square)
    outputs = Outputs(ATTRIBUTES, ("anatomy", "artefact"), 5, experts=("general", "portrait"))
    spec = Spec(outputs, plan, features, measures)
    VisionReward(backbone.eval(), Views(processor, plan), spec).eval().save(folder)


def seconds(ours: Callable[[], object], peer: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Medians of alternating repetitions, after one of each; on a CPU the process's own time, so that what else the
    machine does is not counted."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    taken: dict[Callable, list[float]] = {ours: [], peer: []}
    for number in range(repetitions + 1):
        for function in (ours, peer) if number % 2 else (peer, ours):
            began = clock()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                taken[function].append(clock() - began)
    return statistics.median(taken[ours]), statistics.median(taken[peer])


def main() -> None:
    """Measure every backbone; one JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    cases = []
    for name, (backbone, window, features, measures) in backbones().items():
        with tempfile.TemporaryDirectory() as folder:
            save_reward(Path(folder) / "final", backbone, window, features, measures)
            score = reward_models.load(Path(folder) / "final", device=options.device)
        bare, processor = score.reward.backbone, score.reward.views.processor
        size = 2 * window
        pictures = list(np.random.default_rng(0).integers(0, 256, (ITEMS, size, size, 3), dtype=np.uint8))
        batch = {k: v.to(options.device) for k, v in score.reward.views.batch(pictures).items()}
        flat = batch["pixel_values"].flatten(0, 1)
        cut = [one[:window, :window] for one in pictures for _ in range(CROPS)]

        @torch.no_grad()
        def heads(score=score, batch=batch):
            return score.reward(**batch).score

        @torch.no_grad()
        def forward(bare=bare, flat=flat):
            return bare(pixel_values=flat)

        def whole(score=score, pictures=pictures):
            return score(prompts=[""] * ITEMS, completions=pictures)

        @torch.no_grad()
        def processed(bare=bare, cut=cut, pictures=pictures, processor=processor):
            pixels = [processor(images=cut, do_resize=False, return_tensors="pt")["pixel_values"]]
            pixels.append(processor(images=pictures, return_tensors="pt")["pixel_values"])
            return bare(pixel_values=torch.cat(pixels).to(options.device))

        for kind, ours, peer in (("tensors", heads, forward), ("pictures", whole, processed)):
            mine, other = seconds(ours, peer, options.repetitions)
            case = {"case": f"{name}, {kind}", "ours_s": round(mine, 5), "peer_s": round(other, 5)}
            cases.append(case | {"ratio": round(other / mine, 3)})
            print(cases[-1], flush=True)
    print(json.dumps({"bench": "scoring", "cases": cases}))


if __name__ == "__main__":
    main()
