"""LLaVA-OneVision: plain 1-D positions; frame order is token order and time in seconds does not reach the model."""

import torch
from jaxtyping import Int
from torch import Tensor

# image_newline closes every clip and is part of the features, so it is frozen with the tower.
VISION = r"model\.(vision_tower\.|multi_modal_projector\.|image_newline)"


def positions(model, inputs: dict[str, Tensor]) -> Int[Tensor, "1 prefix"]:
    """0, 1, 2, ...: the language model is a plain Qwen2."""
    return torch.arange(inputs["input_ids"].shape[1])[None]


def features(model, media: dict[str, Tensor]) -> dict:
    """The vision tower's, projector's and pooling's outputs, as `mm_encoder_outputs` takes them."""
    outputs = {}
    if "pixel_values" in media:
        outputs["image"] = model.get_image_features(
            media["pixel_values"], media["image_sizes"], batch_num_images=media.get("batch_num_images")
        )
    if "pixel_values_videos" in media:
        outputs["video"] = model.get_video_features(media["pixel_values_videos"])
    return outputs


def time_table(model, processor, inputs: dict[str, Tensor]) -> list[float]:
    """Frame numbers: all this family knows of time is which frame comes first."""
    return [float(number) for number in range(inputs["pixel_values_videos"].shape[1])]
