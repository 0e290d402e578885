"""Qwen3-VL: interleaved M-RoPE, DeepStack features, time written as text before each temporal grid."""

import re

import torch
from jaxtyping import Int
from torch import Tensor

from rlkit.errors import ModelError

VISION = r"model\.visual\."  # holds the DeepStack mergers too
PACKED_TOWER = True  # all its patches are one sequence, cut into windows or frames by cu_seqlens


def positions(model, inputs: dict[str, Tensor]) -> Int[Tensor, "3 prefix"]:
    """M-RoPE positions of one prompt, from the model's own get_rope_index; time is in the text, not in the table."""
    ids = inputs["input_ids"]
    if "video_grid_thw" not in inputs and "image_grid_thw" not in inputs:
        return torch.arange(ids.shape[1]).expand(3, -1)
    if "mm_token_type_ids" not in inputs:
        raise ModelError("the processor returned no mm_token_type_ids; without them the model counts text positions.")
    table, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
    )
    return table[:, 0]


def features(model, media: dict[str, Tensor]) -> dict:
    """The vision tower's whole outputs: the model reads `.deepstack_features` beside `.pooler_output`."""
    outputs = {}
    if "pixel_values" in media:
        outputs["image"] = model.get_image_features(media["pixel_values"], media["image_grid_thw"])
    if "pixel_values_videos" in media:
        outputs["video"] = model.get_video_features(media["pixel_values_videos"], media["video_grid_thw"])
    return outputs


def time_table(model, processor, inputs: dict[str, Tensor]) -> list[float]:
    """Seconds of each temporal grid as the model reads them in its prompt: `<1.5 seconds>`, to a tenth."""
    text = processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=False)
    return [float(seconds) for seconds in re.findall(r"<(\d+\.\d) seconds>", text)]
