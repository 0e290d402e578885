"""VQAScore on three families of chat models: as one step of generate gives it, and the traps of the answer's token."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from reward_models import vqa_score
from reward_models.published.checkpoint import CheckpointError
from rlkit.models import tiny
from tests.reward_models.tiny_checkpoints import PROMPTS, clip_frames, picture

TEXTS = [*PROMPTS, vqa_score.QUESTION, "Yes", "No", " Yes", "Yes Yes"] * 3


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = tiny.build(request.param, TEXTS, hidden_size=64, num_layers=2, initializer_range=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def score(folder):
    return vqa_score.load(model=str(folder), dtype="float32")


def shown():
    return [picture(seed, 56, 56) for seed in range(len(PROMPTS))]


def one_step(folder, content, **inputs):
    """P("Yes") by transformers' generate, which places positions and masks itself."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    encoded = processor(text=[chat], return_tensors="pt", **inputs)
    step = model.generate(
        **encoded, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    token = processor.tokenizer.convert_tokens_to_ids("Yes")
    return step.logits[0].float().softmax(-1)[0, token].item()


def test_equals_one_step_of_generate(folder, score):
    expected = [
        one_step(
            folder,
            [
                {"type": "image"},
                {"type": "text", "text": f'Does this figure show "{prompt}"? Please answer yes or no.'},
            ],
            images=[[image]],
        )
        for prompt, image in zip(PROMPTS, shown(), strict=True)
    ]
    found = score(prompts=PROMPTS, completions=shown())
    assert found == pytest.approx(expected, rel=1e-3)
    assert np.ptp(np.log(found)) > 0.1


def test_a_clip_is_shown_as_one_video(folder, score):
    frames = clip_frames(1, 4, 56, 56)
    content = [
        {"type": "video"},
        {"type": "text", "text": f'Does this figure show "{PROMPTS[0]}"? Please answer yes or no.'},
    ]
    expected = one_step(folder, content, videos=[frames], videos_kwargs={"do_sample_frames": False})
    assert score(prompts=PROMPTS[:1], completions=[frames]) == pytest.approx([expected], rel=1e-3)
    longer = np.repeat(frames, 3, axis=0)
    ends = vqa_score.load(model=str(folder), dtype="float32", max_frames=4)(prompts=PROMPTS[:1], completions=[longer])
    assert ends == pytest.approx(score(prompts=PROMPTS[:1], completions=[frames]), rel=1e-3)


def test_the_batch_a_row_is_in_does_not_change_its_score(folder, score):
    completions = [*shown()[:3], clip_frames(1, 4, 56, 56)]
    one_by_one = vqa_score.load(model=str(folder), dtype="float32", batch_size=1)
    plain = one_by_one(prompts=PROMPTS, completions=completions)
    assert score(prompts=PROMPTS, completions=completions) == pytest.approx(plain, rel=1e-3)
    turned = score(prompts=PROMPTS[::-1], completions=completions[::-1])
    assert turned == pytest.approx(plain[::-1], rel=1e-3)


def test_missing_rows_have_no_score_and_captions_are_judged(score):
    plain = score(prompts=PROMPTS[:2], completions=shown()[:2])
    assert score(prompts=[PROMPTS[0], None], completions=shown()[:2]) == [pytest.approx(plain[0], rel=1e-3), None]
    assert score(prompts=PROMPTS[:2], completions=[None, shown()[1]]) == [None, pytest.approx(plain[1], rel=1e-3)]
    captions = score(prompts=["Describe."] * 2, completions=PROMPTS[:2], images=shown()[:2])
    assert captions == pytest.approx(plain, rel=1e-3)


def test_a_text_that_holds_a_special_token_has_no_score(score):
    with pytest.warns(UserWarning, match=r"the text of row 1 holds <\|im_end\|> and has no score"):
        found = score(prompts=["a dog", "a dog<|im_end|>"], completions=shown()[:2])
    assert found[0] is not None and found[1] is None


def test_two_answers_add_up(folder, score):
    no = vqa_score.load(model=str(folder), dtype="float32", answers=["No"])(
        prompts=PROMPTS[:1], completions=shown()[:1]
    )
    both = vqa_score.load(model=str(folder), dtype="float32", answers=["Yes", "No", "Yes"])
    yes = score(prompts=PROMPTS[:1], completions=shown()[:1])
    assert both(prompts=PROMPTS[:1], completions=shown()[:1]) == pytest.approx([yes[0] + no[0]], rel=1e-3)


def test_the_token_of_yes_is_not_that_of_space_yes_and_never_the_one_that_begins_a_text(folder):
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    (yes,), (space_yes,) = vqa_score.answer_ids(tokenizer, ["Yes"]), vqa_score.answer_ids(tokenizer, [" Yes"])
    assert tokenizer.convert_ids_to_tokens([yes, space_yes]) == ["Yes", "\u0120Yes"]
    assert vqa_score.answer_ids(tokenizer, ["Yes", " Yes", "Yes"]) == [yes, space_yes]
    with pytest.raises(ValueError, match=r"answers: 'Yes No' is \[.*\], expected one token"):
        vqa_score.answer_ids(tokenizer, ["Yes No"])


class BeginsWithBos:
    """A tokenizer as Llama's and PaliGemma's are: encode(answer)[0] is the begin token, not the answer."""

    unk_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [7]}


def test_a_begin_token_is_not_taken_for_the_answer():
    assert BeginsWithBos()("Yes")["input_ids"][0] == 1
    assert vqa_score.answer_ids(BeginsWithBos(), ["Yes"]) == [7]


def test_the_question_needs_a_place_for_the_text(folder):
    with pytest.raises(ValueError, match=r"question is 'Is it good\?', expected one \{\}"):
        vqa_score.load(model=str(folder), question="Is it good?")
    score = vqa_score.load(model=str(folder), dtype="float32", question="{}")
    assert score(prompts=["a {} dog"], completions=shown()[:1])[0] is not None


def test_a_missing_language_head_is_refused(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    dropped = next(name for name in state if "embed_tokens" in name)
    kept = {name: tensor for name, tensor in state.items() if name != dropped}
    (copy / "model.safetensors").unlink()
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: .*(embed_tokens|lm_head)"):
        vqa_score.load(model=str(copy), dtype="float32")


def test_half_precision_stays_near_full(folder, score):
    half = vqa_score.load(model=str(folder))(prompts=PROMPTS, completions=shown())
    full = score(prompts=PROMPTS, completions=shown())
    assert torch.tensor(half).log().sub(torch.tensor(full).log()).abs().max() < 1.0
