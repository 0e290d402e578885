"""A prompt and its clip as vLLM's `/inference/v1/generate` takes them: the very tokens and pixels of training.

vLLM's usual way of taking a video samples frames, resizes them and writes timestamps anew, by whatever transformers is
installed beside it. Here tokens and pixels go over as they are, in the layout of vLLM 0.32
(vllm/v1/serial_utils.py, vllm/entrypoints/scale_out/token_in_token_out/): msgpack with tensors as
[dtype, shape, bytes], in base64.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlkit.caption import rows
from rlkit.errors import ModelError

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
RAW_VIEW = 3  # vLLM's msgpack extension for the bytes of a tensor


def require_known(family: str) -> None:
    """Raises ModelError for a family whose clips cannot be sent."""
    if family not in FAMILIES:
        raise ModelError(f"grpo.use_vllm knows {' and '.join(FAMILIES)}; the model is {family}. Set use_vllm: false.")


def features(family: str, example: rows.Example, video_token_id: int, salt: str) -> dict[str, Any]:
    """The clip of one prompt: where in the tokens it stands, its pixels, and a hash, of `salt` too, under which vLLM
    keeps what the tower saw.

    Qwen3-VL writes times between the temporal grids of a clip, which vLLM's plain ranges cannot leave out; there every
    grid goes over as an image, which takes the same path through the tower.

    Raises ModelError for several clips in a prompt, and where vLLM would place the text after the clip
    elsewhere than transformers does: M-RoPE goes on after the largest position in vLLM, but after the largest side of
    a Qwen2.5-VL frame in transformers 5.23, so clips that are longer than wide are not the same prompt.
    """
    prompt, grids = example.prompt, example.prompt.get("video_grid_thw", torch.empty(0, 3))
    if len(grids) != 1 or "pixel_values" in prompt:
        raise ModelError(f"grpo.use_vllm takes prompts with one clip; row {example.index} has {len(grids)}.")
    pixels, (frames, height, width) = prompt["pixel_values_videos"], grids[0].tolist()
    runs = _runs(prompt["input_ids"][0] == video_token_id)
    _check_positions(example.positions, runs, example.index)
    if family == "qwen3_vl":
        kind, sides = "image", torch.tensor([1, height, width])
        parts = pixels.split(height * width)
        items = [{"pixel_values": _flat(part), "image_grid_thw": _batched(sides)} for part in parts]
    else:
        kind, seconds = "video", torch.as_tensor(prompt["second_per_grid_ts"]).float().flatten()[0]
        items = [
            {
                "pixel_values_videos": _flat(pixels),
                "video_grid_thw": _batched(torch.tensor([frames, height, width])),
                "second_per_grid_ts": _batched(seconds),
            }
        ]
    if len(items) != len(runs):
        raise ModelError(f"row {example.index}: {len(items)} pieces of the clip, {len(runs)} places for them.")
    packed = [_packed(item) for item in items]
    return {
        "mm_hashes": {kind: [hashlib.sha256(salt.encode() + one).hexdigest() for one in packed]},
        "mm_placeholders": {kind: [{"offset": start, "length": length} for start, length in runs]},
        "kwargs_data": {kind: [base64.b64encode(one).decode() for one in packed]},
    }


def _runs(mask: Bool[Tensor, " tokens"]) -> list[tuple[int, int]]:
    """(start, length) of every unbroken run."""
    edges = torch.diff(mask.int(), prepend=mask.new_zeros(1).int(), append=mask.new_zeros(1).int())
    starts, stops = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return [(start, stop - start) for start, stop in zip(starts, stops, strict=True)]


def _check_positions(positions: Int[Tensor, "rows prompt"], runs: list[tuple[int, int]], index: int) -> None:
    for start, length in runs:
        last, after = int(positions[:, start : start + length].max()), int(positions[0, start + length])
        if after != last + 1:
            raise ModelError(
                f"row {index}: transformers places the text after the clip at position {after}, vLLM at {last + 1}, so "
                "vLLM would speak for another prompt. Show fewer frames (data.num_frames), train a Qwen3-VL, or set "
                "grpo.use_vllm: false."
            )


def _tensor(tensor: Tensor) -> list[Any]:
    from msgpack import ExtType

    flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), ExtType(RAW_VIEW, flat.numpy().tobytes())]


def _flat(tensor: Tensor) -> dict[str, Any]:
    """A tensor whose first dimension vLLM joins over items."""
    cut = {"keep_on_cpu": False, "slices": [[0, len(tensor), None]], "dim": 0}
    return {"data": _tensor(tensor), "field": ["flat", cut]}


def _batched(tensor: Tensor) -> dict[str, Any]:
    """A tensor that vLLM stacks over items and reads on the host."""
    return {"data": _tensor(tensor), "field": ["batched", {"keep_on_cpu": True}]}


def _packed(item: Mapping[str, Any]) -> bytes:
    from msgpack import packb

    return packb(item)
