"""Qwen2.5-VL: 3-row M-RoPE, one time step per temporal grid, placeholders without timestamps."""

import torch
from jaxtyping import Int
from torch import Tensor

from rlkit.errors import ModelError

# The tower and its merger; nothing here may carry an adapter when features are shared with the reference.
VISION = r"model\.visual\."
PACKED_TOWER = True  # all its patches are one sequence, cut into windows or frames by cu_seqlens


def positions(model, inputs: dict[str, Tensor]) -> Int[Tensor, "3 prefix"]:
    """M-RoPE positions of one prompt, from the model's own get_rope_index.

    mm_token_type_ids and second_per_grid_ts are demanded, not defaulted: without the first transformers falls back to
    text positions, without the second it takes one second per grid, both silently.
    """
    ids = inputs["input_ids"]
    if "video_grid_thw" not in inputs and "image_grid_thw" not in inputs:
        return torch.arange(ids.shape[1]).expand(3, -1)
    if "mm_token_type_ids" not in inputs:
        raise ModelError("the processor returned no mm_token_type_ids; without them the model counts text positions.")
    if "video_grid_thw" in inputs and "second_per_grid_ts" not in inputs:
        raise ModelError("the processor returned no second_per_grid_ts; the model would assume one second per grid.")
    table, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
        second_per_grid_ts=inputs.get("second_per_grid_ts"),
    )
    return table[:, 0]


def features(model, media: dict[str, Tensor]) -> dict:
    """The vision tower's whole outputs, as `mm_encoder_outputs` takes them."""
    outputs = {}
    if "pixel_values" in media:
        outputs["image"] = model.get_image_features(media["pixel_values"], media["image_grid_thw"])
    if "pixel_values_videos" in media:
        outputs["video"] = model.get_video_features(media["pixel_values_videos"], media["video_grid_thw"])
    return outputs


def time_table(model, processor, inputs: dict[str, Tensor]) -> list[float]:
    """Seconds of each temporal grid as the model sees them, from its own temporal positions."""
    video = inputs["mm_token_type_ids"][0] == 2
    temporal = positions(model, inputs)[0, video]
    per_second = model.config.vision_config.tokens_per_second
    tokens = int(inputs["video_grid_thw"][0].prod()) // model.config.vision_config.spatial_merge_size**2
    per_grid = tokens // int(inputs["video_grid_thw"][0, 0])
    first = temporal[:tokens:per_grid]
    return [float(step - first[0]) / per_second for step in first]
