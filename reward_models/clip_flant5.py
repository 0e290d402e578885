"""VQAScore's own model, CLIP-FlanT5: P("Yes") after the paper's question, Lin et al. 2024, arXiv 2404.01291.

    score = load("cuda", model="zhiqiulin/clip-flant5-xl")
    score(prompts=["two red balls"], completions=[image])                       # in [0, 1]

CLIP ViT-L/14 at 336 pixels, the last layer but one, through two linear layers into FlanT5's encoder, where `<image>`
stands (https://github.com/linzhiqiu/t2v_metrics, clip_t5_model.py and clip_t5/). transformers has no such class; its T5
and CLIP are put together here. Kept from the original: each piece of text around the picture ends with </s>, pictures
are padded to squares with CLIP's mean colour, tokens beyond the tokenizer's are not counted, and the score is the
geometric mean over the answer's tokens, "Yes" and </s>. Deviation: a video scores the mean over its frames.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from reward_models.published.checkpoint import (
    dtype_of,
    fetch,
    load_strictly,
    pretrained,
    read_folder,
    refuse,
    tokenizer_of,
)
from reward_models.published.clip_pairs import POSITION_IDS, Scores, same_length
from reward_models.published.inputs import mean_over_frames, rows
from reward_models.published.pixels import CLIP_MEAN, Pixels, Square, check_pixels
from reward_models.vqa_score import QUESTION

BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)
AFTER = "\n{} ASSISTANT: "
TOWER = "vision_tower.vision_tower."
RULES = [
    (rf"{re.escape(TOWER)}{POSITION_IDS}", None),
    (rf"{re.escape(TOWER)}(vision_model\.)?(.*)", r"vision.\2"),
    (r"mm_projector\.(0|2)\.(weight|bias)", r"projector.\1.\2"),
    (r"embed_tokens\.weight", None),  # the encoder's, under one more name
    (r"(shared|encoder|decoder|lm_head)\.(.*)", r"language.\1.\2"),
]


class ClipFlanT5(nn.Module):
    """The picture's patches as words of the question that T5 answers."""

    def __init__(self, config: dict[str, Any], vision: nn.Module):
        from transformers import T5Config, T5ForConditionalGeneration

        super().__init__()
        self.vision = vision
        self.layer = config["mm_vision_select_layer"]
        self.language = T5ForConditionalGeneration(T5Config.from_dict(config | {"model_type": "t5"}))
        width, vocabulary = self.language.config.d_model, self.language.config.vocab_size
        if not config["tie_word_embeddings"]:  # transformers 5 ties T5's head whatever the config says
            self.language.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.projector = nn.Sequential(nn.Linear(config["mm_hidden_size"], width), nn.GELU(), nn.Linear(width, width))

    def forward(
        self, pixels: Pixels, before: Sequence[int], after: Sequence[Sequence[int]], answer: Sequence[int], words: int
    ) -> Float[Tensor, " batch"]:
        """Geometric mean of the probabilities of the answer's tokens among the first `words` of the vocabulary."""
        hidden = self.vision(pixel_values=pixels.to(self.vision.dtype), output_hidden_states=True).hidden_states
        seen = self.projector(hidden[self.layer][:, 1:])
        embed, device = self.language.get_input_embeddings(), pixels.device
        asked = [
            torch.cat([embed(torch.tensor(before, device=device)), one, embed(torch.tensor(ids, device=device))])
            for one, ids in zip(seen, after, strict=True)
        ]
        mask = pad_sequence([torch.ones(len(one), dtype=torch.long, device=device) for one in asked], batch_first=True)
        start = self.language.config.decoder_start_token_id
        said = torch.tensor([[start, *answer]], device=device).expand(len(asked), -1)
        logits = self.language(
            inputs_embeds=pad_sequence(asked, batch_first=True), attention_mask=mask, decoder_input_ids=said[:, :-1]
        ).logits
        losses = F.cross_entropy(logits[..., :words].float().transpose(1, 2), said[:, 1:], reduction="none")
        return (-losses.mean(-1)).exp()


def load(
    device: str = "cpu",
    *,
    model: str = "zhiqiulin/clip-flant5-xxl",
    tokenizer: str = "google/flan-t5-xxl",
    revision: str | None = None,
    question: str = QUESTION,
    answer: str = "Yes",
    dtype: str = "bfloat16",
    batch_size: int = 8,
    max_frames: int | None = None,
) -> Callable[..., list[float | None]]:
    """`score`, and `score.score_tensors(prompts=, pixels=)` for pixels [batch, 3, H, W] in [0, 1], differentiable.

    `question` has one {} for the text. `batch_size` counts images; of a video with more than `max_frames`, that many
    frames count. The picture's tower is the config's mm_vision_tower where the file has none. Raises CheckpointError
    unless every tensor came from the files, ValueError for a question without {}.
    """
    if question.count("{}") != 1:
        raise ValueError(f"question is {question!r}, expected one {{}} where the text belongs.")
    config = json.loads(fetch(model, "config.json", revision).read_text(encoding="utf-8"))
    network = _network(model, revision, config, device, dtype)
    words = tokenizer_of(tokenizer)
    before, said = words(BEFORE)["input_ids"], words(answer)["input_ids"]
    square = Square(network.vision.config.image_size, crop="floor")

    def of_pixels(texts: Sequence[str], pixels: Pixels) -> Scores:
        after = words([AFTER.format(question.replace("{}", text)) for text in texts])["input_ids"]
        return network(pixels.to(device), before, after, said, len(words))

    def score(
        *, prompts: Sequence[Any], completions: Sequence[Any], images: Any = None, videos: Any = None, **_: Any
    ) -> list[float | None]:
        return mean_over_frames(
            lambda texts, pictures: of_pixels(texts, square.images([_padded(one) for one in pictures])),
            rows(prompts, completions, images=images, videos=videos),
            batch_size=batch_size,
            max_frames=max_frames,
        )

    def score_tensors(*, prompts: Sequence[str], pixels: Pixels) -> Scores:
        return of_pixels(prompts, square.tensors(_padded_tensor(same_length(prompts, pixels))))

    score.score_tensors = score_tensors
    return score


def _network(model: str, revision: str | None, config: dict[str, Any], device: str, dtype: str) -> ClipFlanT5:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    state = read_folder(model, revision)
    refuse(model, [] if "shared.weight" in state else ["shared.weight"], [])
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        state.setdefault(name, state["shared.weight"])  # one tensor, which safetensors keeps once
    own_tower = any(name.startswith(TOWER) for name in state)
    tower, unread = config["mm_vision_tower"], [POSITION_IDS, r"text_model\..*", ".*projection.weight", "logit_scale"]
    if own_tower:
        with torch.device(device):
            vision = CLIPVisionModel(CLIPVisionConfig.from_pretrained(tower))
    else:
        vision = pretrained(CLIPVisionModel, tower, device=device, dtype="float32", ignore=unread)
        state |= {f"{TOWER}{name}": tensor for name, tensor in vision.state_dict().items()}
    with torch.device(device):
        network = ClipFlanT5(config, vision)
    load_strictly(network, state, source=model, rules=RULES)
    return network.to(dtype_of(dtype)).eval().requires_grad_(False)


def _padded(image: Image.Image) -> Image.Image:
    side = max(image.size)
    padded = Image.new("RGB", (side, side), tuple(int(255 * value) for value in CLIP_MEAN))
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return padded


def _padded_tensor(pixels: Pixels) -> Pixels:
    check_pixels(pixels)
    height, width = pixels.shape[-2:]
    side = max(height, width)
    padded = torch.tensor([int(255 * value) / 255 for value in CLIP_MEAN], device=pixels.device, dtype=pixels.dtype)
    padded = padded[:, None, None].repeat(len(pixels), 1, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    padded[..., top : top + height, left : left + width] = pixels
    return padded
