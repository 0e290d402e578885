"""VideoReward: Qwen2-VL-2B scores visual quality, motion quality and text alignment of a clip, arXiv 2501.13918.

    score = load("cuda", attribute="Overall")
    score(prompts=["a dog runs"], completions=[frames], fps=[24.0])             # frames uint8 [T, H, W, 3]
    score.attributes(prompts=..., completions=..., fps=...)                     # raw and normalised, by name

Liu et al. 2025; https://github.com/KwaiVGI/VideoAlign, inference.py and trainer.py. The instruction ends each
criterion with a token of its own, at which a linear head is read. Overall is VQ + MQ + TA after each was normalised
by the mean and deviation in the checkpoint's config; raw and normalised values are never called by the same name.

As in the original: frames at the config's `fps` (at least 4, an even number, ends included), resized by torchvision
to multiples of 28 between 100,352 and `max_frame_pixels` pixels; and positions that simply count tokens. The original
ran on transformers 4.45.2, which gives this call no positions of time, height and width, and was trained so; newer
versions give it such positions by themselves, and other scores. Deviations: LoRA is merged into the weights in fp32,
and the head runs in fp32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reward_models.published.checkpoint import (
    CheckpointError,
    dtype_of,
    fetch_folder,
    load_strictly,
    processor_of,
    refuse,
)
from reward_models.published.clip_pairs import Scores
from reward_models.published.inputs import Row, batched, finite, readable_rows, rows
from reward_models.published.pixels import check_pixels
from reward_models.published.qwen_frames import Clip, frame_indices, frame_indices_of, patchify, resized
from reward_models.published.video_reward_files import CONFIG, FILES, RULES, read_config, state_of, statistics_of
from reward_models.published.video_reward_prompt import TEMPLATE, TOKENS

OVERALL = "Overall"


class VideoReward(nn.Module):
    """Qwen2-VL without its language head, and the head that is read at the three tokens `token_ids`."""

    def __init__(self, config: Any, outputs: int, token_ids: Sequence[int]):
        from transformers import Qwen2VLModel

        super().__init__()
        self.model = Qwen2VLModel(config)
        self.head = nn.Linear(config.text_config.hidden_size, outputs, bias=False)
        self.token_ids = list(token_ids)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"],
        patches: Float[Tensor, "patches values"],
        grids: Int[Tensor, "batch 3"],
    ) -> Float[Tensor, "batch 3"]:
        """Raw VQ, MQ and TA. Texts are padded on the right."""
        batch, length = input_ids.shape
        hidden = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values_videos=patches.to(self.model.dtype),
            video_grid_thw=grids,
            position_ids=torch.arange(length, device=input_ids.device).expand(3, batch, length),
            use_cache=False,
        ).last_hidden_state
        where = torch.stack([(input_ids == token).int().argmax(-1) for token in self.token_ids], -1)
        read = self.head(hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1])).float())
        return read[..., 0] if read.shape[-1] == 1 else read.diagonal(dim1=1, dim2=2)


def load(
    device: str = "cpu",
    *,
    model: str = "KwaiVGI/VideoReward",
    base: str | None = None,
    revision: str | None = None,
    step: int | None = None,
    attribute: str = OVERALL,
    normalise: bool = True,
    fps: float | None = None,
    num_frames: int | None = None,
    video_fps: float | None = None,
    max_frame_pixels: int | None = None,
    dtype: str = "bfloat16",
    batch_size: int = 1,
) -> Callable[..., list[float | None]]:
    """`score`, `score.attributes`, and the differentiable `score.score_tensors(prompts=, frames=)`.

    `model`: hub id or folder with model_config.json and checkpoint-<step>/ (`step`; the last by default), which holds
    model.pth (whole, or with LoRA beside its layers) or adapter_model.safetensors and non_lora_state_dict.pth on top
    of `base`, by default the config's model_name_or_path. `attribute`: VQ, MQ, TA or Overall. `fps` (frames a second
    that the model sees), `num_frames` (instead of it) and `max_frame_pixels` replace the config's. `video_fps`: frames
    a second of the frames given, where rows have no column `fps`.

    score_tensors takes frames [batch, time, 3, H, W] in [0, 1], which are all seen, an even number of them. A prompt
    with one of the model's special tokens has no score, with a warning. Raises CheckpointError unless every tensor
    came from the files, ValueError for bad options, and for rows without frames or `fps`.
    """
    if attribute not in (*TOKENS, OVERALL):
        raise ValueError(f"attribute is {attribute!r}, expected one of {', '.join((*TOKENS, OVERALL))}.")
    folder = fetch_folder(model, FILES, revision)
    config = read_config(folder / CONFIG)
    statistics = statistics_of(config, required=normalise)
    base = base or config["model_config"]["model_name_or_path"]
    data = config["data_config"]
    choice = _Choice(
        fps=fps or data["fps"],
        num_frames=num_frames if num_frames or fps else data.get("num_frames"),
        video_fps=video_fps,
        max_pixels=max_frame_pixels or data["max_frame_pixels"],
    )
    processor = processor_of(base)
    token_ids = _add_tokens(processor.tokenizer)
    network = _network(state_of(folder, step, base, config), str(folder), base, token_ids, device, dtype)

    def raw_of(texts: Sequence[str], clips: Sequence[Clip]) -> Float[Tensor, "batch 3"]:
        patches, grids = zip(*(patchify(clip, processor.video_processor) for clip in clips), strict=True)
        encoded = _encoded(processor, texts, grids).to(device)
        grid = torch.tensor(grids, device=device)
        return network(encoded["input_ids"], encoded["attention_mask"], torch.cat(patches).to(device), grid)

    def normalised(raw: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
        mean, std = (torch.tensor(values, device=raw.device) for values in statistics)
        return (raw - mean) / std

    def raw_rows(prompts: Any, completions: Any, videos: Any, fps: Any) -> list[Float[Tensor, "1 3"] | None]:
        asked = rows(prompts, completions, videos=videos)
        if fps is not None and len(fps) != len(asked):
            raise ValueError(f"fps has {len(fps)} values, expected {len(asked)}, one for each completion.")
        found: list[Float[Tensor, "1 3"] | None] = [None] * len(asked)
        for batch in batched(readable_rows(asked, processor.tokenizer), batch_size):
            clips = [choice.clip(row, None if fps is None else fps[index], index) for index, row in batch]
            with torch.inference_mode():
                values = raw_of([row.text for _, row in batch], clips).cpu()
            for (index, _), value in zip(batch, values, strict=True):
                found[index] = value[None]
        return found

    def score(
        *, prompts: Sequence[Any], completions: Sequence[Any], videos: Any = None, fps: Any = None, **_: Any
    ) -> list[float | None]:
        found = raw_rows(prompts, completions, videos, fps)
        values = [None if one is None else normalised(one) if normalise else one for one in found]
        return finite([None if one is None else _chosen(one, attribute).item() for one in values])

    def attributes(
        *, prompts: Sequence[Any], completions: Sequence[Any], videos: Any = None, fps: Any = None, **_: Any
    ) -> list[dict[str, dict[str, float]] | None]:
        found = raw_rows(prompts, completions, videos, fps)
        return [
            None
            if one is None
            else {"raw": _named(one)} | ({"normalised": _named(normalised(one))} if statistics else {})
            for one in found
        ]

    def score_tensors(*, prompts: Sequence[str], frames: Float[Tensor, "batch time 3 height width"]) -> Scores:
        if len(prompts) != len(frames):
            raise ValueError(f"{len(prompts)} prompts and {len(frames)} clips, expected one clip for each prompt.")
        check_pixels(frames.flatten(0, 1))
        raw = raw_of(prompts, [resized(clip.float(), choice.max_pixels) for clip in frames])
        return _chosen(normalised(raw) if normalise else raw, attribute)

    score.attributes = attributes
    score.score_tensors = score_tensors
    return score


@dataclass(frozen=True)
class _Choice:
    """Which frames are seen, and how large."""

    fps: float
    num_frames: int | None
    video_fps: float | None
    max_pixels: int

    def clip(self, row: Row, video_fps: float | None, index: int) -> Clip:
        """The frames of row `index` that are seen, resized, in [0, 1]."""
        if not isinstance(row.picture, np.ndarray):
            raise ValueError(f"row {index} has an image, expected frames uint8 [T, H, W, 3] with T >= 2.")
        video_fps = video_fps or self.video_fps
        total = len(row.picture)
        if self.num_frames:
            indices = frame_indices_of(total, self.num_frames)
        elif video_fps:
            indices = frame_indices(total, video_fps=video_fps, fps=self.fps)
        else:
            raise ValueError(
                f"row {index} has no frames a second: pass the column `fps`, or load with video_fps= or num_frames=."
            )
        frames = torch.from_numpy(np.ascontiguousarray(row.picture[indices])).permute(0, 3, 1, 2)
        return resized(frames, self.max_pixels).float() / 255


def _add_tokens(tokenizer: Any) -> list[int]:
    """The ids of the three tokens, added after the tokenizer's own as in training."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS.values())})
    return tokenizer.convert_tokens_to_ids(list(TOKENS.values()))


def _network(
    state: dict[str, Tensor], source: str, base: str, token_ids: Sequence[int], device: str, dtype: str
) -> VideoReward:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    embeddings = [tensor for name, tensor in state.items() if name.endswith("embed_tokens.weight")]
    absent = [] if embeddings else ["model.embed_tokens.weight"]
    refuse(source, absent + ([] if "rm_head.weight" in state else ["rm_head.weight"]), [])
    config.text_config.vocab_size = len(embeddings[0])
    outputs = len(state["rm_head.weight"])
    if outputs not in (1, 3) or max(token_ids) >= len(embeddings[0]):
        raise CheckpointError(
            f"{source} has {outputs} outputs and {len(embeddings[0])} embeddings, expected 1 or 3, and one embedding "
            f"for each token up to {max(token_ids)}; is {base} the base it was trained from?"
        )
    with torch.device(device):
        network = VideoReward(config, outputs, token_ids)
    load_strictly(network, state, source=source, rules=RULES)
    network = network.to(dtype_of(dtype)).eval().requires_grad_(False)
    network.head.float()
    return network


def _encoded(processor: Any, texts: Sequence[str], grids: Sequence[tuple[int, int, int]]) -> Any:
    """Token ids and mask of the chat around each clip, in which every two by two patches stand as one token."""
    merged = processor.video_processor.merge_size**2
    chats = []
    for text, (time, height, width) in zip(texts, grids, strict=True):
        content = [{"type": "video"}, {"type": "text", "text": TEMPLATE.format(text_prompt=text)}]
        chat = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pads = processor.video_token * (time * height * width // merged)
        chats.append(chat.replace(processor.video_token, pads, 1))
    return processor.tokenizer(chats, padding=True, padding_side="right", return_tensors="pt")


def _chosen(values: Float[Tensor, "batch 3"], attribute: str) -> Scores:
    return values.sum(-1) if attribute == OVERALL else values[:, list(TOKENS).index(attribute)]


def _named(values: Float[Tensor, "1 3"]) -> dict[str, float]:
    return {name: _chosen(values, name).item() for name in (*TOKENS, OVERALL)}
