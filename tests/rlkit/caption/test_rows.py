"""Rows: true time, the template's tokens, nothing truncated, and layouts that waste little."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from rlkit.caption import rows
from rlkit.errors import DataError
from rlkit.models import family_module


def example_of(captioner, make_record, make_clip, **clip):
    return rows.encode(captioner, make_record(), make_clip(**clip))


@pytest.mark.parametrize("spacing", [0.25, 0.5, 1.0, 2.5])
def test_qwen2_5_vl_gets_the_clips_own_seconds_per_grid(tiny_captioner, make_record, make_clip, spacing):
    captioner = tiny_captioner("qwen2_5_vl")
    example = example_of(captioner, make_record, make_clip, spacing=spacing)
    assert example.prompt["second_per_grid_ts"].tolist() == pytest.approx([2 * spacing])  # two frames per grid
    table = family_module("qwen2_5_vl").time_table(captioner.base, captioner.processor, example.prompt)
    tick = 1 / captioner.base.config.vision_config.tokens_per_second
    assert table == pytest.approx([0, 2 * spacing, 4 * spacing], abs=tick)
    assert all(late > early for early, late in itertools.pairwise(table))


def test_qwen3_vl_reads_the_mean_time_of_each_pair_of_frames(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen3_vl")
    clip = dataclasses.replace(make_clip(6), timestamps=np.array([0.0, 0.4, 1.0, 2.0, 5.0, 7.0]))
    example = rows.encode(captioner, make_record(), clip)
    table = family_module("qwen3_vl").time_table(captioner.base, captioner.processor, example.prompt)
    assert table == pytest.approx([0.2, 1.5, 6.0])  # uneven frames keep their own times


def test_llava_knows_the_order_only(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("llava_onevision")
    example = example_of(captioner, make_record, make_clip)
    table = family_module("llava_onevision").time_table(captioner.base, captioner.processor, example.prompt)
    assert table == [0, 1, 2, 3, 4, 5]


def test_timestamps_that_do_not_grow_are_refused(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    for times in ([0.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, float("nan")]):
        clip = dataclasses.replace(make_clip(3), timestamps=np.array(times))
        with pytest.raises(DataError, match="grow from frame to frame"):
            rows.encode(captioner, make_record(), clip)


def test_every_frame_reaches_the_model(tiny_captioner, make_record, make_clip):
    """Qwen3-VL's processor would sample the clip again, at 2 fps, if it were let."""
    captioner = tiny_captioner("qwen3_vl")
    example = example_of(captioner, make_record, make_clip, num_frames=12, spacing=0.1)
    assert int(example.prompt["video_grid_thw"][0, 0]) == 6


def test_tokens_are_those_of_the_chat_template(tiny_captioner, make_record):
    captioner = tiny_captioner("qwen2_5_vl")
    record = make_record(2, "text")
    example = rows.encode(captioner, record)
    for answer, messages in zip(example.answers, [record["chosen"], *record["rejected"]], strict=True):
        text = captioner.processor.apply_chat_template([*record["prompt"], *messages], tokenize=False)
        whole = captioner.processor.tokenizer(text.removesuffix("\n"))["input_ids"]
        assert example.prompt["input_ids"][0].tolist() + answer.tolist() == whole
        assert answer[-1] == captioner.processor.tokenizer.eos_token_id


def test_trls_single_rejected_answer_is_read_too(tiny_captioner, make_record):
    captioner = tiny_captioner("qwen2_5_vl")
    record = make_record(1, "text")
    single = rows.encode(captioner, {**record, "rejected": record["rejected"][0]})
    assert torch.equal(single.answers[1], rows.encode(captioner, record).answers[1])


def test_hiding_the_frames_leaves_the_text(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    blind = rows.encode(captioner, make_record(), None)
    text = captioner.processor.tokenizer.decode(blind.prompt["input_ids"][0])
    assert text == "<|im_start|>user\nDescribe the video.<|im_end|>\n<|im_start|>assistant\n"
    assert "pixel_values_videos" not in blind.prompt


def test_shuffling_permutes_frames_under_the_same_times(make_clip):
    clip = make_clip(8)
    control = rows.shuffled(clip, seed=3)
    assert np.array_equal(control.timestamps, clip.timestamps)
    assert not np.array_equal(control.frames, clip.frames)
    assert sorted(frame.tobytes() for frame in control.frames) == sorted(frame.tobytes() for frame in clip.frames)
    assert np.array_equal(control.frames, rows.shuffled(clip, seed=3).frames)


def answer(text):
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\nA red circle.", "merges with the end of the prompt"),
        ("A <|video_pad|> circle.", "placeholder token"),
    ],
)
def test_answers_that_would_train_the_wrong_thing_are_refused(tiny_captioner, make_record, text, message):
    captioner = tiny_captioner("qwen2_5_vl")
    record = make_record(1, "text") | {"rejected": [answer(text)], "pair_id": "p7"}
    with pytest.raises(DataError, match=rf"row p7, rejected\[0\].*{message}"):
        rows.encode(captioner, record)


def test_long_prompts_are_not_truncated(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    captioner.processor.tokenizer.model_max_length, before = 16, captioner.processor.tokenizer.model_max_length
    try:
        example = rows.encode(captioner, make_record(), make_clip(24))
    finally:
        captioner.processor.tokenizer.model_max_length = before
    placeholder = captioner.processor.video_token_id
    assert int((example.prompt["input_ids"] == placeholder).sum()) == 12 * 4


def test_edit_spans_mark_the_tokens_they_touch(tiny_captioner, make_record):
    captioner = tiny_captioner("qwen2_5_vl")
    record = make_record(1, "text")
    chosen = record["chosen"][0]["content"][0]["text"]
    start = chosen.index("blue")
    record["edit"] = [{"spans": [[start, start + 4]], "rejected_spans": []}]
    example = rows.encode(captioner, record)
    marked = captioner.processor.tokenizer.decode(example.answers[0][example.spans[0]])
    assert marked.strip() == "blue"
    assert not example.spans[1].any()


def test_layout_places_every_answer_after_the_prompt(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    examples = [example_of(captioner, make_record, make_clip), rows.encode(captioner, make_record(3, offset=1), None)]
    batch = rows.collate(examples)
    for row, example in enumerate(examples):
        for number, ids in enumerate(example.answers):
            assert torch.equal(batch["input_ids"][row][batch["segments"][row] == number + 1], ids)
    assert batch["answer_mask"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch["input_ids"].shape[1] == max(example.length for example in examples)


def test_clips_of_different_shapes_cannot_be_stacked_for_llava(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("llava_onevision")
    examples = [example_of(captioner, make_record, make_clip, num_frames=count) for count in (4, 6)]
    with pytest.raises(DataError, match=r"pixel_values_videos.*data\.num_frames"):
        rows.collate(examples)


def test_buckets_hold_every_row_once_and_waste_little():
    lengths = np.random.default_rng(0).integers(20, 400, 1000)
    batches = rows.bucketed(lengths, 8, seed=1)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))

    def waste(batches):
        padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
        return padded / lengths.sum() - 1

    unsorted = [list(range(start, start + 8)) for start in range(0, 1000, 8)]
    assert waste(batches) < 0.05 < waste(unsorted)


def test_buckets_are_deterministic_in_seed_and_epoch():
    lengths = list(range(100))
    assert rows.bucketed(lengths, 8, seed=1, epoch=2) == rows.bucketed(lengths, 8, seed=1, epoch=2)
    assert rows.bucketed(lengths, 8, seed=1, epoch=2) != rows.bucketed(lengths, 8, seed=1, epoch=3)


def test_media_the_processor_refuses_are_one_sentence(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen3_vl")
    with pytest.raises(DataError, match=r"row 3: the processor refuses.*t:1 must be larger"):
        rows.encode(captioner, make_record(), make_clip(1), index=3)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_a_second_clip_of_the_same_shape_is_encoded_as_if_it_were_the_first(
    tiny_captioner, make_record, make_clip, family
):
    first, second = make_clip(seed=1), make_clip(seed=2)
    warm, cold = tiny_captioner(family), tiny_captioner(family)
    rows.encode(warm, make_record(), first)
    assert warm.layouts
    again, alone = rows.encode(warm, make_record(), second), rows.encode(cold, make_record(), second)
    assert again.prompt.keys() == alone.prompt.keys()
    assert all(torch.equal(again.prompt[key], alone.prompt[key]) for key in alone.prompt)
    assert torch.equal(again.positions, alone.positions)


def test_other_timestamps_are_another_layout(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    slow = rows.encode(captioner, make_record(), make_clip(spacing=1.0))
    fast = rows.encode(captioner, make_record(), make_clip(spacing=0.25))
    assert slow.prompt["second_per_grid_ts"].tolist() != fast.prompt["second_per_grid_ts"].tolist()
    assert not torch.equal(slow.positions, fast.positions)
