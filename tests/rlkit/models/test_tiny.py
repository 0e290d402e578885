"""Tiny captioners are real: they reload through the Auto classes, and the same inputs give the same weights."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rlkit.errors import ModelError
from rlkit.models import tiny

TEXTS = ["A red circle moves left.", "红色的圆形向左移动，然后旋转。", "Describe the video."] * 10
SMALL = {"hidden_size": 32, "num_layers": 1, "vision_hidden_size": 32, "vision_depth": 1}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_saved_folder_is_an_ordinary_hugging_face_folder(tmp_path, tiny_model, family):
    model, processor = tiny_model(family)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    processor_again = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor_again) is type(processor)
    assert processor_again.chat_template == processor.chat_template
    assert processor_again.tokenizer(TEXTS[1])["input_ids"] == processor.tokenizer(TEXTS[1])["input_ids"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_frame_of_56_pixels_stays_56(tiny_model, make_clip, family):
    _, processor = tiny_model(family)
    video = processor(text=["<|video_pad|><video>"], videos=[make_clip(4).frames], do_sample_frames=False,
                      return_tensors="pt")  # fmt: skip
    if family == "llava_onevision":
        assert video["pixel_values_videos"].shape == (1, 4, 3, 56, 56)
    else:
        assert video["video_grid_thw"].tolist() == [[2, 4, 4]]  # 2 grids of 4 x 4 patches of 14 pixels


def test_the_same_arguments_give_the_same_model_and_tokenizer():
    one, two = (tiny.build("qwen2_5_vl", TEXTS, **SMALL) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(one[0].state_dict().values(), two[0].state_dict().values(), strict=True)
    )
    assert one[1].tokenizer.get_vocab() == two[1].tokenizer.get_vocab()


def test_another_seed_gives_other_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = (tiny.build("qwen2_5_vl", TEXTS, seed=seed, **SMALL)[0] for seed in (0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(one.lm_head.weight, two.lm_head.weight)


def test_tokenizer_round_trips_any_text():
    tokenizer = tiny.train_tokenizer(TEXTS, 512)
    for text in (*TEXTS[:3], "Ωmega 😀 \t 三个"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_training_texts_take_few_tokens():
    tokenizer = tiny.train_tokenizer(TEXTS, 1024)
    assert len(tokenizer("A red circle moves left.")["input_ids"]) == 6  # one per word, and the full stop


def test_template_writes_qwens_turns(tiny_model):
    _, processor = tiny_model("qwen2_5_vl")
    turns = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Yes"},
    ]
    assert processor.apply_chat_template(turns, tokenize=False) == (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Hi<|im_end|>\n"
        "<|im_start|>assistant\nYes<|im_end|>\n"
    )


def test_qwen3_vl_has_deepstack(tiny_model):
    assert len(tiny_model("qwen3_vl")[0].config.vision_config.deepstack_visual_indexes) >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "qwen9"}, "tiny families are qwen2_5_vl"),
        ({"family": "qwen3_vl", "frame_size": 50}, "multiple of 2"),
        ({"family": "qwen3_vl", "hidden_size": 30}, "multiple of 4"),
    ],
)
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        tiny.build(texts=TEXTS, **arguments)
