"""Losses have TRL's values on TRL's own batches; listwise losses, weights and terms have their formulas' values."""

import math

import pytest
import torch
import torch.nn.functional as F

from rlkit import losses
from rlkit.caption import one_row, rows
from rlkit.errors import RecipeError
from rlkit.models import prepare

BETA = 0.3
PAIRWISE = list(losses.PAIRWISE)


@pytest.fixture(scope="module")
def trl_setup(tiny_model, tmp_path_factory):
    """kind -> (DPOTrainer whose policy has left its reference, its batch, our batch of the same ids and pixels)."""
    import numpy as np
    from datasets import Dataset
    from PIL import Image
    from transformers import AutoModelForImageTextToText
    from trl import DPOConfig, DPOTrainer

    model, processor = tiny_model("qwen2_5_vl")
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)  # TRL loads its reference from the model's path
    processor.save_pretrained(folder)
    captions = ["A red circle moves left. Then a blue square spins.", "A green star grows.", "A red circle spins."]

    def turns(kind, text):
        image = [] if kind == "text" else [{"type": "image"}]
        return [{"role": "user", "content": [*image, {"type": "text", "text": text}]}]

    def answer(text):
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

    def build(kind):
        columns = {
            "prompt": [turns(kind, "Describe the video."), turns(kind, "What spins, and then?")],
            "chosen": [answer(captions[0]), answer(captions[1])],
            "rejected": [answer(captions[1]), answer(captions[0] + " It grows.")],
        }
        if kind == "image":
            pixels = np.random.default_rng(0).integers(0, 255, (2, 56, 56, 3), dtype=np.uint8)
            columns["images"] = [[Image.fromarray(image)] for image in pixels]
        arguments = DPOConfig(
            output_dir=str(folder / kind), max_length=None, beta=BETA, label_smoothing=0.1, report_to=[],
            per_device_train_batch_size=2, gradient_checkpointing=False, use_cpu=True, bf16=False,
        )  # fmt: skip
        policy = AutoModelForImageTextToText.from_pretrained(folder)
        trainer = DPOTrainer(policy, args=arguments, train_dataset=Dataset.from_dict(columns),
                             processing_class=processor)  # fmt: skip
        inputs = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for parameter in trainer.model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        trainer.model.eval()
        return trainer, inputs, _our_batch(inputs)

    built = {}
    return lambda kind: built.get(kind) or built.setdefault(kind, build(kind))


def _our_batch(inputs):
    """Our rows from TRL's padded [chosen; rejected] batch."""
    examples, half = [], len(inputs["input_ids"]) // 2
    media = {key: inputs[key] for key in ("pixel_values", "image_grid_thw") if key in inputs}
    for row in range(half):
        answers = []
        for at in (row, row + half):
            answers.append(inputs["input_ids"][at][inputs["completion_mask"][at].bool()])
        in_prompt = inputs["attention_mask"][row].bool() & ~inputs["completion_mask"][row].bool()
        prompt = {"input_ids": inputs["input_ids"][row][in_prompt][None]}
        if media:
            patches = len(media["pixel_values"]) // (2 * half)
            prompt["pixel_values"] = media["pixel_values"][row * patches : (row + 1) * patches]
            prompt["image_grid_thw"] = media["image_grid_thw"][row : row + 1]
            prompt["mm_token_type_ids"] = inputs["mm_token_type_ids"][row][in_prompt][None]
        examples.append((prompt, answers))
    return examples


def _ours(trainer, examples):
    """(policy log-probs, reference log-probs, mask) by one row per clip."""
    from rlkit.models import family_module

    results = []
    for model in (trainer.model, trainer.ref_model):
        captioner = prepare(model, trainer.processing_class)
        module = family_module(captioner.family)
        laid_out = [
            rows.Example(p, module.positions(model, p), a, [torch.zeros(len(x), dtype=torch.bool) for x in a], [1.0])
            for p, a in examples
        ]
        with torch.no_grad():
            log_probs, mask = one_row.log_probs(captioner, rows.collate(laid_out))
        results.append(log_probs)
    return *results, mask


def _trls(trainer, inputs):
    """(policy log-probs, reference log-probs, mask) of TRL's own forward, [batch, 2, tokens] with the prompt masked."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    arguments = {key: value for key, value in inputs.items() if key != "completion_mask"} | {"labels": labels}
    scored = inputs["completion_mask"][:, 1:].bool()
    results = []
    for model in (trainer.model, trainer.ref_model):
        with torch.no_grad():
            per_token = model(**arguments, use_cache=False, fused_lm_head=True).log_probs
        results.append(torch.stack(per_token.chunk(2), 1))
    return *results, torch.stack(scored.chunk(2), 1)


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("name", [*PAIRWISE, "sft"])
def test_value_is_trls(trl_setup, kind, name):
    """On TRL's own log-probs to 1e-6; on ours, from one row, to fp32 rounding of sums of a hundred nats."""
    trainer, inputs, examples = trl_setup(kind)
    trainer.loss_types, trainer.loss_weights, trainer.ld_alpha = [name], [1.0], None
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model, dict(inputs)))
    options = losses.Options(beta=BETA, label_smoothing=0.1, discopop_tau=trainer.args.discopop_tau)
    for log_probs, tolerance in ((_trls(trainer, inputs), 1e-6), (_ours(trainer, examples), 1e-5)):
        loss, _ = losses.preference_loss(*log_probs, types={name: 1.0}, options=options)
        assert float(loss.mean()) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_f_divergences_are_trls(trl_setup, divergence):
    trainer, inputs, _ = trl_setup("text")
    trainer.loss_types, trainer.loss_weights, trainer.ld_alpha = ["sigmoid"], [1.0], None
    trainer.f_divergence_type, trainer.f_alpha_divergence_coef = divergence, 0.5
    try:
        with torch.no_grad():
            expected = float(trainer.compute_loss(trainer.model, dict(inputs)))
    finally:
        trainer.f_divergence_type = "reverse_kl"
    policy, reference, mask = _trls(trainer, inputs)
    options = losses.Options(beta=BETA, f_divergence_type=divergence)
    loss, _ = losses.preference_loss(policy, reference, mask, types={"sigmoid": 1.0}, options=options)
    assert float(loss.mean()) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_ld_dpo_and_mixing_are_trls(trl_setup):
    trainer, inputs, _ = trl_setup("image")
    trainer.loss_types, trainer.loss_weights, trainer.ld_alpha = ["sigmoid", "sft"], [1.0, 0.3], 0.25
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model, dict(inputs)))
    policy, reference, mask = _trls(trainer, inputs)
    loss, _ = losses.preference_loss(
        policy, reference, mask, types={"sigmoid": 1.0, "sft": 0.3}, options=losses.Options(beta=BETA), ld_alpha=0.25
    )
    assert float(loss.mean()) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_metrics_are_trls(trl_setup):
    trainer, inputs, examples = trl_setup("text")
    trainer.loss_types, trainer.loss_weights, trainer.ld_alpha = ["sigmoid"], [1.0], None
    trainer._metrics["eval"].clear()
    with torch.no_grad():
        trainer.compute_loss(trainer.model, dict(inputs))
    policy, reference, mask = _ours(trainer, examples)
    _, ours = losses.preference_loss(policy, reference, mask, types={"sigmoid": 1.0}, options=losses.Options(beta=BETA))
    for name, value in ours.items():
        assert float(value) == pytest.approx(trainer._metrics["eval"][name][-1], rel=1e-5, abs=1e-5)


# ---- formulas -------------------------------------------------------------------------------------------------------


@pytest.fixture
def random_case():
    """Log-probs of 3 clips with up to 4 answers of differing lengths; the last clip has one negative fewer."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[5, 3, 7, 4], [2, 6, 6, 1], [8, 4, 3, 0]])
    mask = torch.arange(8) < lengths[..., None]
    policy, reference = (-torch.rand(3, 4, 8, generator=generator) * 3 * mask for _ in range(2))
    return policy, reference, mask


def ratios(policy, reference, mask):
    return ((policy - reference) * mask).sum(-1)


def test_softmax_is_s_dpo(random_case):
    """S-DPO, Eq. 10: -log sigmoid(-log sum exp(beta * (rejected - chosen)))."""
    policy, reference, mask = random_case
    loss, _ = losses.preference_loss(policy, reference, mask, types={"softmax": 1.0}, options=losses.Options(beta=BETA))
    ratio, real = ratios(*random_case), mask.any(-1)
    for clip in range(3):
        gaps = [BETA * (ratio[clip, a] - ratio[clip, 0]) for a in (1, 2, 3) if real[clip, a]]
        expected = -F.logsigmoid(-torch.stack(gaps).exp().sum().log())
        assert float(loss[clip]) == pytest.approx(float(expected), rel=1e-6)


def test_softmax_does_not_overflow():
    loss = losses.softmax(torch.tensor([[-1e4, 5.0]]), torch.ones(1, 2, dtype=torch.bool), beta=1.0)
    assert float(loss) == pytest.approx(1e4)


def test_plackett_luce_is_the_mean_of_its_stages(random_case):
    policy, reference, mask = random_case
    loss, _ = losses.preference_loss(
        policy, reference, mask, types={"plackett_luce": 1.0}, options=losses.Options(beta=BETA)
    )
    ratio = BETA * ratios(*random_case)
    for clip, count in enumerate([4, 4, 3]):
        stages = [ratio[clip, i:count].logsumexp(0) - ratio[clip, i] for i in range(count - 1)]
        assert float(loss[clip]) == pytest.approx(float(sum(stages)) / (count - 1), rel=1e-6)


def test_plackett_luce_with_one_grade_is_softmax(random_case):
    policy, reference, mask = random_case
    grades = torch.tensor([[0, 1, 1, 1]]).expand(3, -1)
    options = losses.Options(beta=BETA)
    both = [
        losses.preference_loss(policy, reference, mask, types={name: 1.0}, options=options, grades=grades)[0]
        for name in ("softmax", "plackett_luce")
    ]
    torch.testing.assert_close(both[0], both[1])


@pytest.mark.parametrize("name", ["softmax", "plackett_luce"])
def test_listwise_with_one_negative_is_dpo(random_case, name):
    policy, reference, mask = (values[:, :2] for values in random_case)
    options = losses.Options(beta=BETA)
    for extra in ({}, {"ld_alpha": 0.3}, {"average_log_prob": True}, {"rejected_weight": torch.full((3, 1), 7.0)}):
        listwise, pairwise = (
            losses.preference_loss(policy, reference, mask, types={kind: 1.0}, options=options, **extra)[0]
            for kind in (name, "sigmoid")
        )
        torch.testing.assert_close(listwise, pairwise)


def test_pairwise_loss_is_the_weighted_mean_over_a_clips_negatives(random_case):
    policy, reference, mask = random_case
    weights = torch.tensor([[1.0, 2.0, 1.0], [0.0, 1.0, 1.0], [3.0, 1.0, 9.0]])
    loss, _ = losses.preference_loss(
        policy, reference, mask, types={"sigmoid": 1.0}, options=losses.Options(beta=BETA), rejected_weight=weights
    )
    ratio = ratios(*random_case)
    each = -F.logsigmoid(BETA * (ratio[:, :1] - ratio[:, 1:]))
    torch.testing.assert_close(loss[0], (each[0] * torch.tensor([1, 2, 1]) / 4).sum())
    torch.testing.assert_close(loss[2], (each[2] * torch.tensor([3, 1, 0]) / 4).sum())


@pytest.mark.parametrize("name", [*PAIRWISE, "softmax", "plackett_luce"])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"ld_alpha": 0.0},
        {"ld_alpha": 0.4},
        {"average_log_prob": True},
        {"span_weight": 5.0},
        {"ld_alpha": 0.4, "span_weight": 5.0, "average_log_prob": True},
    ],
    ids=str,
)
def test_policy_equal_to_reference_has_margin_zero(random_case, name, extra):
    """Answers of one clip differ in length, so an option that weighs only the policy would show at once."""
    policy, _, mask = random_case
    if extra.get("average_log_prob") and name in ("ipo", "sigmoid_norm"):
        pytest.skip("token means twice is refused")
    span_mask = mask & (torch.arange(8) % 3 == 0)
    options = losses.Options(beta=BETA, label_smoothing=0.1)
    loss, metrics = losses.preference_loss(
        policy, policy.clone(), mask, types={name: 1.0}, options=options, span_mask=span_mask, **extra
    )
    assert float(metrics["rewards/margins"]) == 0
    at_zero = losses.preference_loss(policy * 0, policy * 0, mask, types={name: 1.0}, options=options)[0]
    torch.testing.assert_close(loss, at_zero)


def test_span_weight_counts_edited_tokens_more(random_case):
    policy, reference, mask = (values[:, :2] for values in random_case)
    spans = torch.zeros_like(mask)
    spans[:, :, 1] = True
    pairs = losses.pair_up(policy, reference, mask, span_mask=spans & mask, span_weight=3.0)
    expected = (policy * mask).sum(-1) + 2 * policy[..., 1] * mask[..., 1]
    torch.testing.assert_close(pairs.chosen[:, 0], expected[:, 0])
    torch.testing.assert_close(pairs.rejected[:, 0], expected[:, 1])


def test_average_log_prob_divides_by_length(random_case):
    policy, reference, mask = random_case
    pairs = losses.pair_up(policy, reference, mask, average_log_prob=True)
    expected = (policy * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    torch.testing.assert_close(pairs.rejected, expected[:, 1:])


def test_anchor_and_video_conditional_terms(random_case):
    policy, reference, mask = random_case
    wrong = policy[:, 0] - 0.5 * mask[:, 0]
    loss, _ = losses.preference_loss(
        policy, reference, mask, types={}, options=losses.Options(beta=BETA), anchor_weight=2.0,
        video_conditional_weight=3.0, wrong_log_probs=wrong, wrong_ref_log_probs=reference[:, 0],
    )  # fmt: skip
    own = ratios(*random_case)[:, 0]
    gap = 0.5 * mask[:, 0].sum(-1)  # the wrong clip costs half a nat per token
    torch.testing.assert_close(loss, -2 * F.logsigmoid(BETA * own) - 3 * F.logsigmoid(BETA * gap))


def test_sft_term_is_additive_over_accumulation(random_case):
    policy, _, mask = random_case
    tokens_per_clip = float(mask[:, 0].sum()) / 3
    whole = losses.sft(policy[:, 0], mask[:, 0])
    parts = [losses.sft(policy[i : i + 1, 0], mask[i : i + 1, 0], num_items_in_batch=tokens_per_clip) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(parts))
    assert float(whole.mean()) == pytest.approx(float(-policy[:, 0][mask[:, 0]].mean()))


def test_gradients_are_finite_with_ragged_negatives(random_case):
    policy, reference, mask = random_case
    policy = policy.clone().requires_grad_()
    types = dict.fromkeys(losses.NAMES, 1.0)
    loss, _ = losses.preference_loss(
        policy, reference, mask, types=types, options=losses.Options(beta=BETA, label_smoothing=0.1)
    )
    loss.mean().backward()
    assert math.isfinite(loss.sum().item()) and policy.grad.isfinite().all()
    assert not policy.grad[~mask].any()


def test_unknown_loss_names_the_known_ones(random_case):
    with pytest.raises(RecipeError, match=r"sigmoyd.*known are sigmoid"):
        losses.preference_loss(*random_case, types={"sigmoyd": 1.0})


def test_token_means_twice_are_refused(random_case):
    with pytest.raises(RecipeError, match="token means twice, for ipo"):
        losses.preference_loss(*random_case, types={"ipo": 1.0}, average_log_prob=True)
