"""VideoReward against the original's numbers and equations, its file layouts, and the traps of positions and scales."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

import reward_models
from reward_models.published.checkpoint import CheckpointError
from reward_models.published.qwen_frames import frame_indices, frame_indices_of, patchify, resized, size
from reward_models.published.video_reward_files import merged
from reward_models.published.video_reward_prompt import TEMPLATE, TOKENS
from reward_models.video_reward import VideoReward
from tests.reward_models import tiny_checkpoints
from tests.reward_models.tiny_checkpoints import PROMPTS, VIDEO_REWARD_CONFIG, clip_frames

# Printed by VideoAlign's own forward, frame sampling and resizing on this checkpoint, with PEFT's LoRA beside its
# layers, in the original's environment (transformers 4.45.2): raw VQ, MQ, TA, and Overall after normalisation.
ORIGINALS = [[-1.66721, -2.91300, 1.20364], [-2.53419, -3.05057, 1.06627]]
OVERALL = [-5.96925, -6.50927]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """layout -> folder of the same model."""
    made = {}
    for layout in ("peft", "adapter", "merged"):
        made[layout] = tmp_path_factory.mktemp(layout)
        tiny_checkpoints.video_reward(made[layout], layout=layout)
    return made


@pytest.fixture
def folder(folders, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(folders["merged"], tmp_path / "copy")


def load(folder, **options):
    return reward_models.load("video_reward", model=str(folder), dtype="float32", **options)


@pytest.fixture(scope="module")
def score(folders):
    return load(folders["peft"])


@pytest.fixture(scope="module")
def asked():
    return {"prompts": PROMPTS[:2], "completions": [clip_frames(1, 10), clip_frames(2, 7, 60, 90)], "fps": [4.0, 2.0]}


def test_scores_as_the_original_code_does(score, asked):
    found = score.attributes(**asked)
    assert [[one["raw"][name] for name in TOKENS] for one in found] == [
        pytest.approx(one, abs=1e-4) for one in ORIGINALS
    ]
    assert score(**asked) == pytest.approx(OVERALL, abs=1e-4)


def test_normalised_and_raw_are_told_apart_and_related_by_the_config(folders, score, asked):
    told = VIDEO_REWARD_CONFIG["inference_config"]
    for one, overall in zip(score.attributes(**asked), score(**asked), strict=True):
        for name in TOKENS:
            expected = (one["raw"][name] - told[f"{name}_mean"]) / told[f"{name}_std"]
            assert one["normalised"][name] == pytest.approx(expected, abs=1e-5)
        assert one["normalised"]["Overall"] == pytest.approx(sum(one["normalised"][name] for name in TOKENS), abs=1e-5)
        assert one["raw"]["Overall"] == pytest.approx(sum(one["raw"][name] for name in TOKENS), abs=1e-5)
        assert overall == pytest.approx(one["normalised"]["Overall"], abs=1e-5)
        assert abs(one["raw"]["Overall"] - one["normalised"]["Overall"]) > 1  # the trap: they are not one scale
    motion = load(folders["peft"], attribute="MQ", normalise=False)
    assert motion(**asked) == pytest.approx([one[1] for one in ORIGINALS], abs=1e-4)


def test_every_layout_is_the_same_model(folders, score, asked):
    plain = score(**asked)
    for layout in ("adapter", "merged"):
        assert load(folders[layout])(**asked) == pytest.approx(plain, abs=1e-4)


def test_the_equations_with_positions_that_count_tokens(folders, score, asked):
    """The merged state dict through today's Qwen2-VL: the original's positions, and the trap of today's own."""
    folder = folders["merged"]
    state = torch.load(folder / "checkpoint-11352" / "model.pth")
    head = state.pop("rm_head.weight")[0]
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder / "base").eval()
    model.resize_token_embeddings(len(state["model.embed_tokens.weight"]))
    places = {"model": "model.language_model", "visual": "model.visual", "lm_head": "lm_head"}
    model.load_state_dict({places[k.split(".")[0]] + k[k.index(".") :]: v for k, v in state.items()})
    processor = Qwen2VLProcessor.from_pretrained(folder / "base")
    processor.tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS.values())})
    content = [{"type": "video"}, {"type": "text", "text": TEMPLATE.format(text_prompt=PROMPTS[0])}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    frames = torch.from_numpy(asked["completions"][0][[0, 3, 6, 9]]).permute(0, 3, 1, 2)
    as_given = {"do_resize": False, "do_sample_frames": False}
    inputs = processor(text=[chat], videos=[resized(frames, 200704)], videos_kwargs=as_given, return_tensors="pt")
    ids, grid = inputs["input_ids"], inputs["video_grid_thw"]
    at = [ids[0].tolist().index(processor.tokenizer.convert_tokens_to_ids(token)) for token in TOKENS.values()]
    with torch.no_grad():
        seen = torch.cat(model.model.get_video_features(inputs["pixel_values_videos"], grid).pooler_output)
        places = (ids == model.config.video_token_id)[..., None]
        embeds = model.get_input_embeddings()(ids).masked_scatter(places, seen)
        # transformers 4.45: no position_ids, so the language model counts
        counted = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        todays = model.model(**inputs).last_hidden_state
    expected, trap = ((hidden[0, at] @ head).tolist() for hidden in (counted, todays))
    raw = score.attributes(**{name: column[:1] for name, column in asked.items()})[0]["raw"]
    assert [raw[name] for name in TOKENS] == pytest.approx(expected, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(expected, trap, strict=True)) > 0.01


def test_the_batch_a_clip_is_in_does_not_change_its_score(folders, score, asked):
    assert load(folders["peft"], batch_size=2)(**asked) == pytest.approx(score(**asked), abs=1e-4)


def test_missing_rows_have_no_score(score, asked):
    clip = asked["completions"][0]
    found = score(prompts=["a", None, PROMPTS[0]], completions=[None, clip, clip], fps=[None, 4.0, 4.0])
    assert found[:2] == [None, None] and found[2] == pytest.approx(OVERALL[0], abs=1e-4)


@pytest.mark.parametrize("token", ["<|VQ_reward|>", "<|video_pad|>", "<|im_end|>"])
def test_a_prompt_that_holds_a_special_token_has_no_score(score, asked, token):
    with pytest.warns(UserWarning, match=r"the text of row 0 holds <\|\w+\|> and has no score"):
        found = score(**(asked | {"prompts": [f"a dog {token}", PROMPTS[1]]}))
    assert found[0] is None and found[1] == pytest.approx(OVERALL[1], abs=1e-4)


def test_tensors_score_as_clips_do_and_have_a_slope(score, asked):
    frames = torch.from_numpy(asked["completions"][0][[0, 3, 6, 9]]).permute(0, 3, 1, 2)[None] / 255
    frames.requires_grad_(True)
    value = score.score_tensors(prompts=PROMPTS[:1], frames=frames)
    assert value.item() == pytest.approx(OVERALL[0], abs=0.05)  # clips are rounded to 8 bits after resizing
    (slope,) = torch.autograd.grad(value.sum(), frames)
    assert slope.isfinite().all() and slope.flatten(2).abs().amax(-1).gt(0).all()
    after = score.score_tensors(prompts=PROMPTS[:1], frames=(frames + 1e-3 * slope / slope.abs().amax()).detach())
    assert after.item() > value.item()
    with pytest.raises(ValueError, match="3 frames, expected a multiple of 2"):
        score.score_tensors(prompts=PROMPTS[:1], frames=frames[:, :3])
    with pytest.raises(ValueError, match="2 prompts and 1 clips"):
        score.score_tensors(prompts=PROMPTS[:2], frames=frames)


def test_frames_a_second_are_asked_for(folders, score, asked):
    without = {"prompts": asked["prompts"], "completions": asked["completions"]}
    with pytest.raises(ValueError, match=r"row 0 has no frames a second: pass the column `fps`"):
        score(**without)
    with pytest.raises(ValueError, match=r"fps has 1 values, expected 2"):
        score(**without, fps=[4.0])
    given = load(folders["peft"], video_fps=4.0)(**without)
    assert given == pytest.approx(score(**(asked | {"fps": [4.0, 4.0]})), abs=1e-4)
    four = load(folders["peft"], num_frames=4)(**without)
    assert four[0] == pytest.approx(OVERALL[0], abs=1e-4)  # of 10 frames at 4 a second, 4 are seen
    with pytest.raises(ValueError, match=r"row 0 has an image, expected frames"):
        score(prompts=["a"], completions=[tiny_checkpoints.picture(0)], fps=[1.0])


def test_frame_indices_by_hand():
    # seconds x 2 frames, at least 4, even, at most all of them; round half to even as Python does
    assert frame_indices(49, video_fps=8, fps=2) == [round(i * 48 / 11) for i in range(12)]  # 12.25 -> 12
    assert frame_indices(10, video_fps=100, fps=2) == [0, 3, 6, 9]
    assert frame_indices(5, video_fps=1, fps=2) == [0, 1, 3, 4]
    assert frame_indices(3, video_fps=1, fps=2) == [0, 2]
    assert len(frame_indices(4000, video_fps=1, fps=2)) == 768
    assert frame_indices_of(10, 3) == [0, 3, 6, 9]  # 3 / 2 rounds to 2
    for total, count in ((1, 2), (4, 6), (4, 0)):
        with pytest.raises(ValueError, match="expected 2 to"):
            frame_indices_of(total, count)
    with pytest.raises(ValueError, match="a clip has 1 frame, expected at least 2"):
        frame_indices(1, video_fps=8, fps=2)


@pytest.mark.parametrize("shape", [(48, 48), (60, 90), (480, 832), (720, 1280), (1080, 608), (30, 500)])
def test_sizes_are_multiples_of_28_within_the_pixels_and_near_the_shape(shape):
    tall, wide = size(*shape, 200704)
    assert tall % 28 == wide % 28 == 0
    assert 100352 <= tall * wide <= 200704 or min(tall, wide) == 28
    assert math.log(tall / wide) == pytest.approx(math.log(shape[0] / shape[1]), abs=0.35)
    with pytest.raises(ValueError, match="differ by less than 200 times"):
        size(2, 500, 200704)


def test_patches_are_transformers(folders):
    processor = Qwen2VLProcessor.from_pretrained(folders["merged"] / "base").video_processor
    frames = clip_frames(5, 4, 56, 84)
    expected = processor(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
    patches, grid = patchify(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255, processor)
    torch.testing.assert_close(patches, expected["pixel_values_videos"], atol=1e-5, rtol=0)
    assert [list(grid)] == expected["video_grid_thw"].tolist()


def test_the_instruction_has_each_token_once_and_in_order():
    assert [TEMPLATE.count(token) for token in TOKENS.values()] == [1, 1, 1]
    assert sorted(TOKENS.values(), key=TEMPLATE.index) == list(TOKENS.values())
    assert TEMPLATE.startswith("\nYou are tasked") and TEMPLATE.endswith("<|TA_reward|>\nEND\n")
    assert "{curly}" in TEMPLATE.format(text_prompt="a {curly} prompt")


def change(folder, file, edit):
    path = folder / file
    if path.suffix == ".json":
        told = json.loads(path.read_text())
        edit(told)
        path.write_text(json.dumps(told))
    else:
        state = torch.load(path)
        edit(state)
        torch.save(state, path)


WEIGHTS = "checkpoint-11352/model.pth"


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        (WEIGHTS, lambda s: s.pop("rm_head.weight"), r"1 missing: rm_head\.weight"),
        (WEIGHTS, lambda s: s.pop("model.embed_tokens.weight"), r"1 missing: model\.embed_tokens\.weight"),
        (WEIGHTS, lambda s: s.pop("model.norm.weight"), r"1 missing: model\.language_model\.norm\.weight"),
        (WEIGHTS, lambda s: s.update({"rm_head.bias": torch.zeros(1)}), r"1 unexpected: rm_head\.bias"),
        (WEIGHTS, lambda s: s.update({"rm_head.weight": torch.zeros(2, 32)}), "has 2 outputs"),
        (
            WEIGHTS,
            lambda s: s.update({"model.embed_tokens.weight": s["model.embed_tokens.weight"][:-3]}),
            "one embedding for each token",
        ),
        (
            WEIGHTS,
            lambda s: s.update({"model.norm.lora_A.weight": torch.zeros(1, 1)}),
            "norm has lora_A, expected lora_A",
        ),
        ("model_config.json", lambda c: c["inference_config"].pop("MQ_std"), "inference_config lacks MQ_std"),
        ("model_config.json", lambda c: c["data_config"].update(sample_type="multi_pts"), "sample_type is 'multi_pts'"),
        ("model_config.json", lambda c: c["data_config"].update(eval_dim=["VQ"]), r"eval_dim is \['VQ'\]"),
    ],
)
def test_a_folder_that_does_not_fill_the_model_is_refused(folder, file, edit, said):
    change(folder, file, edit)
    with pytest.raises(CheckpointError, match=said):
        load(folder)


def test_without_statistics_raw_values_are_all_there_is(folder, asked):
    change(folder, "model_config.json", lambda told: told.pop("inference_config"))
    raw = load(folder, normalise=False)
    assert raw(**asked) == pytest.approx([sum(one) for one in ORIGINALS], abs=1e-3)
    assert raw.attributes(**asked)[0].keys() == {"raw"}
    with pytest.raises(CheckpointError, match="load with normalise=False for raw values"):
        load(folder)


def test_a_head_of_three_outputs_is_read_on_its_diagonal(folder, asked):
    rows = torch.stack([torch.full((32,), 0.1), torch.full((32,), -0.2), torch.full((32,), 0.3)])
    ones = torch.full((1, 32), 1.0)
    change(folder, WEIGHTS, lambda state: state.update({"rm_head.weight": ones}))
    sums = load(folder).attributes(**asked)[0]["raw"]
    change(folder, WEIGHTS, lambda state: state.update({"rm_head.weight": rows}))
    found = load(folder).attributes(**asked)[0]["raw"]
    for name, factor in zip(TOKENS, (0.1, -0.2, 0.3), strict=True):
        assert found[name] == pytest.approx(factor * sums[name], abs=1e-4)


def test_the_last_step_is_loaded_unless_another_is_asked_for(folder, asked):
    shutil.copytree(folder / "checkpoint-11352", folder / "checkpoint-900")
    change(folder, "checkpoint-900/model.pth", lambda state: state.update({"rm_head.weight": torch.zeros(1, 32)}))
    assert load(folder)(**asked) == pytest.approx(OVERALL, abs=1e-4)
    told = VIDEO_REWARD_CONFIG["inference_config"]
    zero = sum(-told[f"{name}_mean"] / told[f"{name}_std"] for name in TOKENS)
    assert load(folder, step=900)(**asked) == pytest.approx([zero, zero], abs=1e-4)
    with pytest.raises(CheckpointError, match=r"no checkpoint-7; its steps: 900, 11352"):
        load(folder, step=7)


def test_a_safetensors_file_is_taken_before_the_pickle(folder, asked):
    state = torch.load(folder / WEIGHTS)
    state.pop("lm_head.weight")  # the embeddings' own tensor, which the format does not store twice
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "checkpoint-11352" / "model.safetensors")
    (folder / WEIGHTS).unlink()
    assert load(folder)(**asked) == pytest.approx(OVERALL, abs=1e-4)


def test_lora_without_its_other_parts_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["adapter"], tmp_path / "copy")
    (folder / "checkpoint-11352" / "non_lora_state_dict.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no non_lora_state_dict\.pth, which holds the reward's head"):
        load(folder)
    (folder / "checkpoint-11352" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has neither model\.pth, model\.safetensors nor adapter_model"):
        load(folder)


def test_lora_is_added_by_its_scale_as_peft_does():
    generator = np.random.default_rng(0)
    weight, a, b = (torch.tensor(generator.normal(size=size)).float() for size in ((5, 3), (2, 3), (5, 2)))
    state = {"q.base_layer.weight": weight, "q.lora_A.default.weight": a, "q.lora_B.default.weight": b}
    found = merged(state, 1.5, "here")
    torch.testing.assert_close(found["q.weight"], weight + 1.5 * b @ a)
    half = merged({name: tensor.bfloat16() for name, tensor in state.items()}, 1.5, "here")["q.weight"]
    assert half.dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="no lora_r and lora_alpha"):
        merged(state, None, "here")


def test_options_are_checked(folders):
    with pytest.raises(ValueError, match="attribute is 'VA', expected one of VQ, MQ, TA, Overall"):
        load(folders["merged"], attribute="VA")
    with pytest.raises(CheckpointError, match=r"has no model_config\.json; expected VideoReward's folder"):
        load(folders["merged"] / "base")


def test_the_base_is_not_needed_for_its_weights_when_the_file_is_whole(folder, asked):
    for path in (folder / "base").glob("*.safetensors"):
        assert "model.visual.merger.ln_q.weight" in load_file(path) or "visual.merger.ln_q.weight" in load_file(path)
        path.unlink()
    change(
        folder, "model_config.json", lambda told: told["model_config"].update(model_name_or_path=str(folder / "base"))
    )
    assert load(folder)(**asked) == pytest.approx(OVERALL, abs=1e-4)


def test_the_published_size_has_the_published_tensors():
    """Qwen2-VL-2B by its config, without memory: its 2,208,985,600 parameters but for the embeddings that resizing cut,
    and of the 1,123 tensors that others report for checkpoint-11352/model.pth all but LoRA and the language head."""
    text = {
        "vocab_size": 151660, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1e6,
    }  # fmt: skip
    config = Qwen2VLConfig(text_config=text, vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 1536})
    with torch.device("meta"):
        network = VideoReward(config, 1, [151657, 151658, 151659])
    lora = 28 * 7 * 2  # two matrices beside each linear layer of the language model
    assert len(network.state_dict()) == 1123 - lora - 1
    assert sum(one.numel() for one in network.parameters()) == 2_208_985_600 - (151936 - 151660) * 1536 + 1536
