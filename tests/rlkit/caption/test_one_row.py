"""One row equals separate rows, and the known wrong ways do not."""

import shutil

import pytest
import torch

from rlkit.caption import one_row, row_attention, rows
from rlkit.errors import ModelError
from rlkit.models import family_module, prepare, tiny


@pytest.fixture
def batch_of(make_record, make_clip, make_image):
    """A batch of two clips whose prompts, frame counts and answers differ in length."""

    def get(captioner, k=1, kind="video", spacing=0.5):
        same_frames = captioner.family == "llava_onevision"
        examples = []
        for number in range(2):
            prompt = "Describe the video." + " Then spins." * number
            record = make_record(k, kind, offset=2 * number, prompt=prompt)
            clip = make_clip(6 if same_frames else 4 + 2 * number, spacing, seed=number) if kind == "video" else None
            images = [make_image(number)] if kind == "image" else None
            examples.append(rows.encode(captioner, record, clip, images=images))
        return rows.collate(examples)

    return get


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_one_row_equals_separate_rows(tiny_captioner, batch_of, family, k, kind):
    captioner = tiny_captioner(family)
    batch = batch_of(captioner, k, kind)
    weights = torch.randn(batch["targets"].shape, generator=torch.Generator().manual_seed(0))
    results, gradients = [], []
    for forward in (one_row.log_probs, one_row.separate_log_probs):
        captioner.model.zero_grad()
        log_probs, mask = forward(captioner, batch)
        (log_probs * weights)[mask].sum().backward()
        results.append(log_probs.detach()[mask])
        gradients.append(gradient(captioner.model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=0)
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[1].norm()


def test_text_only_rows_equal_separate_rows(tiny_captioner, make_record):
    captioner = tiny_captioner("qwen2_5_vl")
    batch = rows.collate([rows.encode(captioner, make_record(2, "text"))])
    mask = batch["target_mask"]
    ours, separate = (f(captioner, batch)[0][mask] for f in (one_row.log_probs, one_row.separate_log_probs))
    torch.testing.assert_close(ours, separate, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_other_attentions_give_the_same(tiny_captioner, batch_of, name):
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 2)
    ours, mask = one_row.log_probs(captioner, batch)
    assert captioner.base.config.text_config._attn_implementation == row_attention.NAME
    captioner.base.config.text_config._attn_implementation = name
    other, _ = one_row.log_probs(captioner, batch)
    torch.testing.assert_close(other[mask], ours[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_flex_attention_gives_the_same(tiny_captioner, batch_of):
    """Forward only: without CUDA it has no backward pass. Compiling takes half a minute."""
    if shutil.which("g++") is None:
        pytest.skip("torch compiles FlexAttention with g++, which is not there")
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 2)
    with torch.no_grad():
        ours, mask = one_row.log_probs(captioner, batch)
        captioner.base.config.text_config._attn_implementation = "flex_attention"
        flex, _ = one_row.log_probs(captioner, batch)
    torch.testing.assert_close(flex[mask], ours[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("attention", [row_attention.NAME, "flex_attention"])
def test_gradients_on_cuda_equal_those_of_separate_rows(tiny_model, batch_of, family, attention):
    captioner = prepare(*tiny_model(family))
    captioner.model.to("cuda")
    text, gradients = captioner.base.config.get_text_config(), []
    for name, forward in ((attention, one_row.log_probs), ("sdpa", one_row.separate_log_probs)):
        text._attn_implementation = name
        batch = {key: tensor.to("cuda") for key, tensor in batch_of(captioner, 3).items()}
        captioner.model.zero_grad()
        log_probs, mask = forward(captioner, batch)
        log_probs[mask].sum().backward()
        gradients.append(gradient(captioner.model))
    assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[1].norm()


def test_an_answer_does_not_see_the_others(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 2)
    before, mask = one_row.log_probs(captioner, batch)
    first_rejected = batch["segments"] == 2
    batch["input_ids"] = torch.where(first_rejected, batch["input_ids"].flip(1) % 200, batch["input_ids"])
    after, _ = one_row.log_probs(captioner, batch)
    torch.testing.assert_close(after[:, [0, 2]][mask[:, [0, 2]]], before[:, [0, 2]][mask[:, [0, 2]]], rtol=1e-5, atol=0)


def test_gradient_checkpointing_gives_the_same_gradient(tiny_captioner, batch_of):
    """The forward is run again during backward, outside the call that built the mask."""
    captioner = tiny_captioner("qwen2_5_vl")
    batch, gradients = batch_of(captioner, 2), []
    captioner.model.train()
    for checkpointing in (False, True):
        captioner.model.zero_grad()
        if checkpointing:
            captioner.model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            log_probs, mask = one_row.log_probs(captioner, batch)
            log_probs[mask].sum().backward()
        finally:
            captioner.model.activation_checkpointing_disable()
        gradients.append(gradient(captioner.model))
    captioner.model.eval()
    assert (gradients[0] - gradients[1]).norm() <= 1e-6 * gradients[0].norm()


# ---- the known wrong ways -------------------------------------------------------------------------------------------


def test_positions_after_the_largest_prompt_position_are_wrong(tiny_captioner, batch_of):
    """Qwen2.5-VL's temporal positions run beyond the text that follows the video, so max() + 1 is too far."""
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 1, spacing=8.0)
    right, mask = one_row.log_probs(captioner, batch)
    separate, _ = one_row.separate_log_probs(captioner, batch)
    wrong = dict(batch, position_ids=batch["position_ids"].clone())
    for row, length in enumerate(batch["prompt_lengths"]):
        prompt = batch["position_ids"][:, row, :length]
        wrong["position_ids"][:, row, length:] += prompt.max() - prompt[0, -1]
    off, _ = one_row.log_probs(captioner, wrong)
    error = (off - separate)[mask].abs().max()
    assert error > 100 * (right - separate)[mask].abs().max()
    assert error > 1e-4


def test_answers_restart_after_the_last_prompt_token(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 2, spacing=8.0)
    for row, length in enumerate(batch["prompt_lengths"]):
        last = batch["position_ids"][:, row, length - 1]
        assert batch["position_ids"][:, row, :length].max() > last.max()  # the trap is set
        for answer in (1, 2, 3):
            first = int((batch["segments"][row] == answer).nonzero()[0])
            assert torch.equal(batch["position_ids"][:, row, first], last + 1)


def test_missing_mm_token_type_ids_is_refused(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    example = rows.encode(captioner, make_record(), make_clip())
    prompt = {key: value for key, value in example.prompt.items() if key != "mm_token_type_ids"}
    for family in ("qwen2_5_vl", "qwen3_vl"):
        with pytest.raises(ModelError, match="mm_token_type_ids"):
            family_module(family).positions(captioner.base, prompt)


def test_without_mm_token_type_ids_transformers_falls_back_silently(tiny_captioner, batch_of):
    """What the refusal above protects from: no error, other log-probs."""
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 1)
    right, mask = one_row.log_probs(captioner, batch)
    without = {key: value for key, value in batch.items() if key != "mm_token_type_ids"}
    wrong, _ = one_row.separate_log_probs(captioner, without)
    assert (right - wrong)[mask].abs().max() > 1e-4


def test_stale_rope_deltas_do_not_reach_the_row(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 1)
    before, _ = one_row.log_probs(captioner, batch)
    captioner.model.model.rope_deltas = torch.full((2, 1), 1000)  # as an earlier generate() would leave them
    after, mask = one_row.log_probs(captioner, batch)
    assert torch.equal(before[mask], after[mask])
    embeddings = captioner.model.get_input_embeddings()(batch["input_ids"])
    mask_1d = (batch["segments"] >= 0).long()
    stale = captioner.model(inputs_embeds=embeddings, attention_mask=mask_1d).logits
    captioner.model.model.rope_deltas = None
    fresh = captioner.model(inputs_embeds=embeddings, attention_mask=mask_1d).logits
    assert (stale - fresh).abs().max() > 1e-4  # the wrong way is silent and wrong


def test_missing_second_per_grid_ts_is_refused(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    example = rows.encode(captioner, make_record(), make_clip())
    prompt = {key: value for key, value in example.prompt.items() if key != "second_per_grid_ts"}
    with pytest.raises(ModelError, match="second_per_grid_ts"):
        family_module("qwen2_5_vl").positions(captioner.base, prompt)


def test_wrong_second_per_grid_ts_changes_the_result(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl")
    batch = batch_of(captioner, 1, spacing=8.0)
    right, mask = one_row.log_probs(captioner, batch)
    wrong = dict(batch, second_per_grid_ts=torch.ones_like(batch["second_per_grid_ts"]))
    off, _ = one_row.separate_log_probs(captioner, wrong)
    assert (right - off)[mask].abs().max() > 1e-4


# ---- the vision tower -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_features_serve_several_passes_and_are_not_mutated(tiny_captioner, batch_of, family):
    captioner = tiny_captioner(family, vision="frozen")
    batch = batch_of(captioner, 1)
    features = one_row.vision_features(captioner, batch)
    keys, kept = list(features), {name: dict(output) for name, output in features.items()}
    first, mask = one_row.log_probs(captioner, batch, features)
    second, _ = one_row.log_probs(captioner, batch, features)
    alone, _ = one_row.log_probs(captioner, batch)
    assert torch.equal(first[mask], second[mask])
    assert torch.equal(first[mask], alone[mask])
    assert list(features) == keys
    for name, output in features.items():
        assert all(output[key] is value for key, value in kept[name].items())


def test_deepstack_features_are_passed_whole(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen3_vl", vision="frozen")
    features = one_row.vision_features(captioner, batch_of(captioner))
    assert len(features["video"].deepstack_features) == 1


def test_a_frozen_tower_runs_without_gradient(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl", vision="frozen")
    batch = batch_of(captioner)
    log_probs, _ = one_row.log_probs(captioner, batch)
    log_probs.sum().backward()
    graded = {name for name, p in captioner.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert graded and not any(name.startswith("model.visual.") for name in graded)


def test_the_tower_runs_once_per_row(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl", vision="frozen")
    batch, calls = batch_of(captioner, 4), []
    hook = captioner.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        features = one_row.vision_features(captioner, batch)
        one_row.log_probs(captioner, batch, features)
        one_row.log_probs(captioner, batch, features)
    finally:
        hook.remove()
    assert len(calls) == 1


def test_the_lm_head_sees_only_positions_that_predict_answers(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl")
    batch, seen = batch_of(captioner, 2), []
    hook = captioner.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    try:
        one_row.log_probs(captioner, batch)
    finally:
        hook.remove()
    lengths = batch["answer_lengths"]
    assert seen[0].numel() // seen[0][-1] == int((lengths - 1).sum()) + len(lengths)


# ---- the ratio ------------------------------------------------------------------------------------------------------


def test_sharing_ratio_counts_the_tokens_processed(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl")
    batch = rows.collate([rows.encode(captioner, make_record(4), make_clip())])
    one_row.log_probs(captioner, batch)
    prompt, answers = int(batch["prompt_lengths"]), batch["answer_lengths"]
    expected = float(5 * prompt + answers.sum()) / float(prompt + answers.sum())
    assert one_row.sharing_ratio(batch) == pytest.approx(expected)


def test_sharing_that_does_not_engage_is_an_error(tiny_captioner, batch_of):
    captioner = tiny_captioner("qwen2_5_vl", sharing="off")
    batch = batch_of(captioner, 2)
    with pytest.raises(ModelError, match="before any forward"):
        one_row.sharing_ratio(batch)
    one_row.log_probs(captioner, batch)
    assert one_row.sharing_ratio(batch) <= 1
    with pytest.raises(ModelError, match="as many tokens as separate rows"):
        one_row.check_sharing(captioner, batch, "on")


def test_half_precision_logits_are_summed_in_fp32():
    logits = (4 * torch.randn(600, 5000, generator=torch.Generator().manual_seed(0))).bfloat16().requires_grad_()
    found = one_row._log_sum_exp(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.detach().float().logsumexp(-1))
    found.sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().float().softmax(-1).bfloat16())


def test_bfloat16_rows_agree_with_separate_rows_up_to_its_noise(tiny_model, batch_of):
    model, processor = tiny_model("qwen2_5_vl")
    captioner = prepare(model.bfloat16(), processor)
    batch = batch_of(captioner, 2)
    mask = batch["target_mask"]
    ours, separate = (f(captioner, batch)[0][mask] for f in (one_row.log_probs, one_row.separate_log_probs))
    assert ours.dtype == torch.float32
    assert (ours - separate).abs().max() < 0.1
