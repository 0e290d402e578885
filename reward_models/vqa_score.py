"""VQAScore: P("Yes") of a vision-language model asked whether the picture shows the text, Lin et al., arXiv 2404.01291.

    score = load("cuda", model="Qwen/Qwen2.5-VL-7B-Instruct")
    score(prompts=["two red balls"], completions=[image])                       # in [0, 1]

Any chat model of transformers' AutoModelForImageTextToText, by its own chat template. The question is the paper's; the
answer's probability is that of its one token after the template, over the whole vocabulary, as
https://github.com/linzhiqiu/t2v_metrics does for such models. (That repository asks Qwen a shorter question,
`Does this image show "{}"?`; say so with `question=`.) The paper's own CLIP-FlanT5 is not in transformers:
`clip_flant5`. Deviations: a video is shown as one video where there are frames, and not as a grid of them.

The token of "Yes" is not that of " Yes". Which one a model says is its template's matter: after "assistant\\n" it is
"Yes", after "ASSISTANT:" often " Yes". `answers=("Yes", " Yes")` adds both up; one that is not one token is an error.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from reward_models.published.checkpoint import pretrained, processor_of
from reward_models.published.inputs import Row, batched, finite, frames_of, readable_rows, rows

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'


def load(
    device: str = "cpu",
    *,
    model: str,
    revision: str | None = None,
    question: str = QUESTION,
    answers: Sequence[str] = ("Yes",),
    dtype: str = "bfloat16",
    batch_size: int = 4,
    max_frames: int | None = 8,
) -> Callable[..., list[float | None]]:
    """`score`, of pictures and of clips uint8 [T, H, W, 3].

    `question` has one {} for the text. Of a clip with more than `max_frames`, that many frames are shown. There is no
    `score_tensors`: processors of these models round pixels to 8 bits. A text that holds one of the model's special
    tokens has no score, with a warning. Raises CheckpointError unless every tensor of the model came from the file,
    ValueError for a question without {} and for an answer of several tokens.
    """
    from transformers import AutoModelForImageTextToText

    if question.count("{}") != 1:
        raise ValueError(f"question is {question!r}, expected one {{}} where the text belongs.")
    processor = processor_of(model, revision)
    said = answer_ids(processor.tokenizer, answers)
    network = pretrained(AutoModelForImageTextToText, model, device=device, dtype=dtype, revision=revision)

    def score(
        *, prompts: Sequence[Any], completions: Sequence[Any], images: Any = None, videos: Any = None, **_: Any
    ) -> list[float | None]:
        asked = rows(prompts, completions, images=images, videos=videos)
        found: list[float | None] = [None] * len(asked)
        readable = list(readable_rows(asked, processor.tokenizer))
        for kind in (list, np.ndarray):  # a batch is of images or of videos
            for batch in batched((pair for pair in readable if isinstance(pair[1].picture, kind)), batch_size):
                encoded = _encoded(processor, [row for _, row in batch], question, max_frames).to(device)
                with torch.inference_mode():
                    values = next_token(network, encoded)[:, said].sum(-1)
                for (index, _), value in zip(batch, values.tolist(), strict=True):
                    found[index] = value
        return finite(found)

    return score


def answer_ids(tokenizer: Any, answers: Sequence[str]) -> list[int]:
    """The ids of the answers, each once. Raises ValueError for an answer that is not one token of this tokenizer."""
    found: list[int] = []
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(
                f"answers: {answer!r} is {tokenizer.convert_ids_to_tokens(ids)}, expected one token; VQAScore reads "
                "the next token alone."
            )
        found += ids
    return list(dict.fromkeys(found))


def next_token(network: nn.Module, encoded: Any) -> Float[Tensor, "batch vocabulary"]:
    """Probabilities of the token after each text; texts are padded on the right, so positions need no care."""
    last = encoded["attention_mask"].sum(-1) - 1
    positions, place = last.unique(return_inverse=True)
    logits = network(**encoded, logits_to_keep=positions, use_cache=False).logits
    return logits[torch.arange(len(place), device=place.device), place].float().softmax(-1)


def _encoded(processor: Any, asked: Sequence[Row], question: str, max_frames: int | None) -> Any:
    chats, images, videos = [], [], []
    for row in asked:
        shown = frames_of(row.picture, max_frames)
        if isinstance(row.picture, np.ndarray):
            videos.append(np.stack([np.asarray(one) for one in shown]))
            content = [{"type": "video"}]
        else:
            images.append(shown)
            content = [{"type": "image"}] * len(shown)
        content = [*content, {"type": "text", "text": question.replace("{}", row.text)}]
        chats.append(
            processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )
    return processor(
        text=chats,
        images=images or None,
        videos=videos or None,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
