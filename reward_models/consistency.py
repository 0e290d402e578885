"""Does a caption tell what its clip shows? By a video-language model that `algorithm: reward` trained.

    score = reward_models.load("runs/reward_consistency/final")
    score(prompts=["Describe the video."], completions=["A red circle spins."], videos=[frames], timestamps=[seconds])

The score is what the clip adds to the caption's probability, log p(caption | clip) - log p(caption), in nats:
VisualGPTScore without its language prior (https://huggingface.co/papers/2306.01879). Nothing of it is a fresh head: the
model is an ordinary transformers folder, and judge.json in it has the question that the caption answers. One caption is
scored at a time here; rlkit scores all captions of a clip in one row, with the same result.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from reward_models.completions import text_of
from reward_models.timestamps import video_metadata


def load(device: str = "cpu", *, model: str, dtype: str = "float32") -> Callable[..., list[float | None]]:
    """The judge in the folder `model`. Raises ValueError for a folder that holds no judge.

    Columns of `score`: `videos`, frames uint8 [T, H, W, 3] or None, and when they are: `timestamps` in seconds [T], or
    `fps` where they are evenly spaced. A row without a video scores None. Prompts are not read: the judge has one
    question, which it was trained with. Raises ValueError where neither timestamps nor fps are given.
    """
    told = Path(model) / "judge.json"
    if not told.is_file():
        raise ValueError(f"{model}: no judge.json, so this is no judge; expected the final/ of `algorithm: reward`.")
    asked = json.loads(told.read_text(encoding="utf-8"))
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
    processor = AutoProcessor.from_pretrained(model)

    def score(
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        videos: Sequence[np.ndarray | None],
        timestamps: Sequence[Sequence[float]] | None = None,
        fps: Sequence[float] | None = None,
        **_: Any,
    ) -> list[float | None]:
        if timestamps is None and fps is None:
            raise ValueError("a judge of clips needs the column timestamps (seconds of each frame) or fps.")
        if timestamps is None:
            timestamps = [
                [] if frames is None else np.arange(len(frames)) / rate
                for frames, rate in zip(videos, fps, strict=True)
            ]
        return [
            None if frames is None else _one(network, processor, asked, text_of(caption), frames, times)
            for caption, frames, times in zip(completions, videos, timestamps, strict=True)
        ]

    return score


def _one(network, processor, asked: dict[str, Any], caption: str, frames: np.ndarray, times: Sequence[float]) -> float:
    """Log-probability of the caption with the clip less that without it."""
    question = {"type": "text", "text": asked["question"]}
    media = {"videos": [frames], "video_metadata": [video_metadata(times)], "do_sample_frames": False}
    shown = _log_prob(network, processor, [{"type": "video"}, question], caption, media)
    return shown - _log_prob(network, processor, [question], caption, {})


@torch.no_grad()
def _log_prob(network, processor, asked: list[dict[str, Any]], caption: str, media: dict[str, Any]) -> float:
    """Sum over the tokens of the caption and its end token."""
    user = {"role": "user", "content": asked}
    answer = {"role": "assistant", "content": [{"type": "text", "text": caption}]}
    prompt = processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    text = processor.apply_chat_template([user, answer], tokenize=False)[len(prompt) :]
    end = processor.tokenizer.eos_token
    text = text[: text.rindex(end)] + end if end in text else text + end
    inputs = processor(text=[prompt + text], return_tensors="pt", **media).to(network.device)
    told = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    logits = network(**inputs).logits[0, -told - 1 : -1].float()
    target = inputs["input_ids"][0, -told:]
    return float(logits.log_softmax(-1).gather(1, target[:, None]).sum())
