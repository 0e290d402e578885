"""GRPO's loss is the one that trl's GRPOTrainer, as installed, computes; what is left out reaches nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlkit.losses.grpo import grpo_loss, sampling_ratio

LONGEST = 9


def numbers(seed=0, rows=6, tokens=7):
    """log_probs, old, reference [rows, tokens], advantages [rows], mask [rows, tokens], padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    log_probs, old, reference = (-torch.rand(rows, tokens, generator=generator, dtype=torch.float64) for _ in range(3))
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    return log_probs, old, reference, advantages, torch.arange(tokens) < lengths[:, None]


def trl_loss(log_probs, old, reference, advantages, mask, weight=None, **settings):
    """The loss and metrics of GRPOTrainer._compute_loss, given the log-probs it would have computed, and the weights of
    what vLLM drew."""
    from trl import GRPOTrainer

    rows, tokens = mask.shape
    metrics = {"train": {}}
    told = metrics["train"].setdefault
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None),
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, aux_loss_enabled=False,
        use_vllm=weight is not None, vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False, model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST, beta=settings["beta"], loss_type=settings["loss_type"],
        importance_sampling_level=settings["importance_sampling_level"], epsilon_low=settings["epsilon"],
        epsilon_high=settings["epsilon_high"],
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda one, reduction: one, gather=lambda one: one),
        _metrics={"train": _Lists(told)},
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long), "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
        "completion_ids": torch.zeros(rows, tokens, dtype=torch.long), "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(), "importance_sampling_ratio": weight,
    }  # fmt: skip
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss, {name: values[-1] for name, values in metrics["train"].items()}


class _Lists:
    """A defaultdict(list) that tells its lists to another dict."""

    def __init__(self, told):
        self.told = told

    def __getitem__(self, name):
        return self.told(name, [])


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_loss_its_gradient_and_metrics_are_trls(loss_type, level, beta):
    pytest.importorskip("trl")
    log_probs, old, reference, advantages, mask = numbers()
    settings = {"loss_type": loss_type, "importance_sampling_level": level, "beta": beta}
    settings |= {"epsilon": 0.1, "epsilon_high": 0.3}
    ours, theirs = log_probs.clone().requires_grad_(), log_probs.clone().requires_grad_()
    found = grpo_loss(
        ours, old, advantages, mask, ref_log_probs=reference, max_completion_length=LONGEST,
        num_items_in_batch=float(mask.sum() / len(mask)), **settings,
    )  # fmt: skip
    expected, metrics = trl_loss(theirs, old, reference, advantages, mask, **settings)
    found.loss.mean().backward()
    expected.backward()
    torch.testing.assert_close(found.loss.mean(), expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    if level == "token":
        assert 0 < metrics["clip_ratio/region_mean"] < 1
        for name in found.metrics:
            assert found.metrics[name].item() == pytest.approx(metrics[name], abs=1e-6), name


def test_parts_of_a_batch_weighed_by_their_completions_are_the_whole():
    """8 x 1 = 1 x 8: dapo's tokens are those of the whole batch."""
    log_probs, old, _, advantages, mask = numbers()
    items = float(mask.sum() / len(mask))
    whole = grpo_loss(log_probs, old, advantages, mask, num_items_in_batch=items).loss
    parts = [
        grpo_loss(log_probs[s], old[s], advantages[s], mask[s], num_items_in_batch=items).loss
        for s in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts).sum(), whole.sum())


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_what_is_left_out_is_as_if_it_were_not_there(loss_type):
    """NaN included: a completion without a score has no advantage."""
    log_probs, old, reference, advantages, mask = numbers()
    counted = torch.tensor([True, False, True, True, False, True])
    log_probs[1], old[4], advantages[1], reference[4] = torch.nan, torch.nan, torch.nan, torch.inf
    log_probs[~mask] = torch.nan
    log_probs.requires_grad_()
    options = {"loss_type": loss_type, "beta": 0.1, "max_completion_length": LONGEST}
    found = grpo_loss(
        log_probs, old, advantages, mask, ref_log_probs=reference, completion_mask=counted, **options
    ).loss
    alone = [one[counted] for one in (log_probs, old, advantages, mask)]
    without = grpo_loss(*alone, ref_log_probs=reference[counted], **options).loss
    torch.testing.assert_close(found.sum() / counted.sum(), without.mean())
    found.sum().backward()
    assert log_probs.grad.isfinite().all() and not log_probs.grad[~counted].any()


def test_at_the_old_policy_the_gradient_is_the_policy_gradient():
    """d/dx of -A exp(x - x_old) at x = x_old is -A."""
    log_probs, _, _, advantages, mask = numbers()
    log_probs.requires_grad_()
    grpo_loss(
        log_probs, log_probs.detach(), advantages, mask, loss_type="dr_grpo", max_completion_length=1
    ).loss.sum().backward()
    torch.testing.assert_close(log_probs.grad, -advantages[:, None] * mask)


def test_no_completion_counts_no_gradient_flows():
    log_probs, old, _, advantages, mask = numbers()
    log_probs.requires_grad_()
    none = torch.zeros(len(mask), dtype=torch.bool)
    loss = grpo_loss(log_probs, old, advantages, mask, completion_mask=none).loss.sum()
    loss.backward()
    assert loss == 0 and not log_probs.grad.any()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"beta": 0.1}, "needs ref_log_probs"),
        ({"loss_type": "dr_grpo"}, "max_completion_length"),
        ({"loss_type": "ppo"}, "expected grpo, bnpo"),
        ({"importance_sampling_level": "word"}, "'token' or 'sequence'"),
    ],
)
def test_refusals(options, problem):
    log_probs, old, _, advantages, mask = numbers()
    with pytest.raises(ValueError, match=problem):
        grpo_loss(log_probs, old, advantages, mask, **options)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_weights_of_what_another_engine_drew(mode):
    """TRL's four modes, written out in numpy; tokens outside of the mask play no part."""
    here = np.array([[-1.0, -2.0, 9.0], [-0.5, -0.5, -3.0]])
    there = np.array([[-1.1, -2.4, 0.0], [-0.4, -0.7, -1.0]])
    mask = np.array([[1, 1, 0], [1, 1, 1]], dtype=bool)
    gap = np.where(mask, here - there, 0)
    ratio = np.exp(gap.sum(1, keepdims=True) if mode.startswith("sequence") else gap)
    expected = np.minimum(ratio, 1.3) if mode.endswith("truncate") else np.where(ratio > 1.3, 0, ratio)
    found = sampling_ratio(*(torch.tensor(one) for one in (here, there, mask)), mode=mode, clip_max=1.3)
    np.testing.assert_allclose(found, expected)
    assert (expected != ratio).any()


@pytest.mark.parametrize("columns", [1, 7])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_a_weighed_loss_is_trls(columns, loss_type):
    pytest.importorskip("trl")
    log_probs, old, reference, advantages, mask = numbers()
    weight = 2 * torch.rand(len(mask), columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    settings = {"loss_type": loss_type, "importance_sampling_level": "token", "beta": 0.3}
    settings |= {"epsilon": 0.1, "epsilon_high": 0.3}
    found = grpo_loss(
        log_probs, old, advantages, mask, ref_log_probs=reference, importance_sampling_ratio=weight,
        num_items_in_batch=float(mask.sum() / len(mask)), **settings,
    )  # fmt: skip
    expected, _ = trl_loss(log_probs, old, reference, advantages, mask, weight, **settings)
    torch.testing.assert_close(found.loss.mean(), expected)
