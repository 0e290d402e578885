"""Losses of reward models equal their formulas and ignore masked cells."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logsumexp, softmax
from scipy.stats import norm

from rlkit import reward_losses as losses

SHAPE = (6, 3)  # 6 pairs of 3 attributes, or 6 lists of 3 items
NAMES = [
    "bradley_terry",
    "rao_kupper",
    "davidson",
    "regression",
    "huber",
    "ordinal",
    "distribution",
    "emd",
    "ranking",
    "gaussian",
]


def example(name, dtype=torch.float32):
    """(loss, its cells, its constants); `call` puts them together."""
    generator = torch.Generator().manual_seed(NAMES.index(name))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def pairs():
        return {"better": normal(*SHAPE), "worse": normal(*SHAPE), "tie": torch.rand(SHAPE, generator=generator) < 0.4}

    def labels():
        return {"logits": normal(*SHAPE, 5), "target": normal(*SHAPE, 5).softmax(-1)}

    if name == "bradley_terry":
        return losses.bradley_terry, {"chosen": normal(*SHAPE), "rejected": normal(*SHAPE)}, {"margin": normal(3)}
    if name == "rao_kupper":
        return losses.rao_kupper, pairs(), {"log_threshold": normal(3).abs() + 0.1}
    if name == "davidson":
        return losses.davidson, pairs(), {"log_nu": normal(3)}
    if name in ("regression", "huber"):
        function = losses.regression if name == "regression" else huber
        return function, {"score": normal(*SHAPE), "target": normal(*SHAPE)}, {}
    if name == "gaussian":
        return losses.gaussian, {key: normal(*SHAPE) for key in ("score", "log_variance", "target")}, {}
    if name == "ordinal":
        level = torch.randint(0, 4, SHAPE, generator=generator)
        return losses.ordinal, {"score": normal(*SHAPE), "level": level}, {"cutpoints": normal(3, 3).sort(-1).values}
    if name == "ranking":
        ranks = torch.stack([torch.randperm(3, generator=generator) for _ in range(6)])
        return losses.ranking, {"scores": normal(*SHAPE), "ranks": ranks}, {}
    return getattr(losses, name), labels(), {}


def huber(score, target, mask=None):
    return losses.regression(score, target, mask, delta=0.7)


def some_mask():
    """A list with no, one, two and three valid items, among others."""
    return torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)


def expected_cells(name, values):
    """The formula of each cell in numpy's float64, without care for overflow."""
    if name == "bradley_terry":
        return -np.log(expit(values["chosen"] - values["rejected"] - values["margin"]))
    if name == "rao_kupper":
        theta = np.exp(values["log_threshold"])
        better, worse = np.exp(values["better"]), np.exp(values["worse"])
        win = better / (better + theta * worse)
        return -np.log(np.where(values["tie"], (theta**2 - 1) * win * worse / (worse + theta * better), win))
    if name == "davidson":
        better, worse = np.exp(values["better"]), np.exp(values["worse"])
        draw = np.exp(values["log_nu"]) * np.sqrt(better * worse)
        return -np.log(np.where(values["tie"], draw, better) / (better + worse + draw))
    if name == "regression":
        return (values["score"] - values["target"]) ** 2
    if name == "gaussian":
        return (
            -norm(values["score"], np.exp(values["log_variance"] / 2)).logpdf(values["target"])
            - math.log(2 * math.pi) / 2
        )
    if name == "huber":
        error = np.abs(values["score"] - values["target"])
        return np.where(error <= 0.7, error**2 / 2, 0.7 * (error - 0.35))
    if name == "ordinal":
        below = expit(values["cutpoints"] - values["score"][..., None])  # P(level <= k)
        shares = np.diff(below, axis=-1, prepend=0, append=1)
        return -np.log(np.take_along_axis(shares, values["level"][..., None], -1)[..., 0])
    if name == "distribution":
        return -(values["target"] * log_softmax(values["logits"], -1)).sum(-1)
    assert name == "emd"
    return ((softmax(values["logits"], -1).cumsum(-1) - values["target"].cumsum(-1)) ** 2).mean(-1)


def expected_ranking(scores, ranks, mask):
    total = []
    for row, order, valid in zip(scores, ranks, mask, strict=True):
        left = [row[item] for item in np.argsort(order) if valid[item]]
        if len(left) > 1:
            total.append(sum(logsumexp(left[stage:]) - left[stage] for stage in range(len(left))))
    return np.mean(total)


# ---- every loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_is_the_mean_of_its_formula_over_valid_cells(name, masked):
    loss, cells, constants = example(name, torch.float64)
    mask = some_mask() if masked else None
    found = loss(**cells, **constants, mask=mask)
    valid = np.ones(SHAPE, bool) if mask is None else mask.numpy()
    values = {key: tensor.numpy() for key, tensor in {**cells, **constants}.items()}
    if name == "ranking":
        expected = expected_ranking(values["scores"], values["ranks"], valid)
    else:
        expected = expected_cells(name, values)[valid].mean()
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name):
    loss, cells, constants = example(name, torch.float64)
    fixed = {key: value for key, value in cells.items() if key == "target" or not value.is_floating_point()}
    moving = {key: value for key, value in {**cells, **constants}.items() if key not in fixed}

    def function(*tensors):
        return loss(**fixed, **dict(zip(moving, tensors, strict=True)), mask=some_mask())

    assert torch.autograd.gradcheck(function, [value.requires_grad_() for value in moving.values()])


def spoiled(values, mask):
    """`values` with garbage in masked cells and in two more rows."""
    values = torch.cat([values, values[:2]])
    hidden = ~torch.cat([mask, torch.zeros_like(mask[:2])])
    if values.is_floating_point():
        garbage = torch.tensor([torch.nan, torch.inf, -torch.inf])[torch.arange(hidden.sum()) % 3].to(values)
        values[hidden] = garbage.reshape(-1, *[1] * (values.ndim - 2))
    else:
        values[hidden] = True if values.dtype == torch.bool else 99
    return values


@pytest.mark.parametrize("name", NAMES)
def test_garbage_in_masked_cells_changes_neither_value_nor_gradients(name):
    loss, cells, constants = example(name)
    mask = some_mask()
    padded = {key: spoiled(value, mask) for key, value in cells.items()}
    longer = torch.cat([mask, torch.zeros_like(mask[:2])])
    results = []
    for inputs, valid in ((cells, mask), (padded, longer)):
        leaves = {key: value.clone() for key, value in {**inputs, **constants}.items()}
        tracked = [value.requires_grad_() for value in leaves.values() if value.is_floating_point()]
        value = loss(**leaves, mask=valid)
        gradients = torch.autograd.grad(value, tracked)
        results.append([value, *(gradient[: len(mask)] for gradient in gradients)])
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert all(not gradient[len(mask) :].any() for gradient in gradients)
    for clean, garbage in zip(*results, strict=True):
        assert garbage.isfinite().all()
        torch.testing.assert_close(garbage, clean)


@pytest.mark.parametrize("name", NAMES)
def test_no_valid_cell_gives_zero_with_a_graph(name):
    loss, cells, constants = example(name)
    leaves = {key: value.clone() for key, value in {**cells, **constants}.items()}
    tracked = [value.requires_grad_() for value in leaves.values() if value.is_floating_point()]
    value = loss(**leaves, mask=torch.zeros(SHAPE, dtype=torch.bool))
    value.backward()
    assert value.item() == 0 and all(not leaf.grad.any() for leaf in tracked)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_becomes_fp32_and_fp64_stays(name):
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2):
        loss, cells, constants = example(name, dtype)
        value = loss(**cells, **constants)
        widened = {key: tensor.to(wanted) if tensor.is_floating_point() else tensor for key, tensor in cells.items()}
        assert value.dtype == wanted
        assert value.item() == loss(**widened, **{key: tensor.to(wanted) for key, tensor in constants.items()}).item()


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_mask_is_refused(name):
    loss, cells, constants = example(name)
    for mask in (torch.ones(SHAPE, dtype=torch.int64), torch.ones(6, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"mask is torch.* of shape \(6,.*expected torch.bool of shape \(6, 3\)"):
            loss(**cells, **constants, mask=mask)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_input_of_another_shape_is_refused(name):
    loss, cells, constants = example(name)
    second = list(cells)[1]
    cells[second] = cells[second][:, :1]  # would broadcast
    with pytest.raises(ValueError, match=rf"{second} has shape \(6, 1.*expected \(6, 3"):
        loss(**cells, **constants)


# ---- pairs ----------------------------------------------------------------------------------------------------------


def pair(difference, **kwargs):
    return {"better": torch.tensor([difference], **kwargs), "worse": torch.zeros(1, **kwargs)}


@pytest.mark.parametrize("difference", [-3.0, 0.0, 0.4, 7.0])
@pytest.mark.parametrize("log_constant", [1e-3, 0.5, 4.0])
@pytest.mark.parametrize("loss", [losses.rao_kupper, losses.davidson])
def test_win_tie_and_loss_have_probability_one(loss, log_constant, difference):
    constant = torch.tensor([log_constant], dtype=torch.float64)
    scores = pair(difference, dtype=torch.float64)
    swapped = {"better": scores["worse"], "worse": scores["better"]}
    win = loss(**scores, tie=torch.tensor([False]), **named(loss, constant))
    lose = loss(**swapped, tie=torch.tensor([False]), **named(loss, constant))
    draw = loss(**scores, tie=torch.tensor([True]), **named(loss, constant))
    swapped_draw = loss(**swapped, tie=torch.tensor([True]), **named(loss, constant))
    assert sum(math.exp(-value) for value in (win, lose, draw)) == pytest.approx(1, abs=1e-12)
    assert swapped_draw.item() == pytest.approx(draw.item(), rel=1e-12)


def named(loss, constant):
    return {"log_threshold" if loss is losses.rao_kupper else "log_nu": constant}


@pytest.mark.parametrize(("loss", "without_ties"), [(losses.rao_kupper, 0.0), (losses.davidson, -torch.inf)])
def test_a_constant_without_ties_gives_bradley_terry(loss, without_ties):
    _, cells, _ = example("bradley_terry")
    constant = torch.tensor(without_ties, requires_grad=loss is losses.rao_kupper)
    chosen, rejected = (value.requires_grad_() for value in cells.values())
    found = loss(chosen, rejected, torch.zeros(SHAPE, dtype=torch.bool), constant)
    expected = losses.bradley_terry(chosen, rejected)
    torch.testing.assert_close(found, expected)
    for leaf in (chosen, rejected):
        torch.testing.assert_close(
            *(torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (found, expected))
        )
    if constant.requires_grad:
        assert torch.autograd.grad(found, constant)[0].isfinite()


def test_rao_kupper_is_the_ordinal_model_of_win_tie_and_loss():
    _, cells, _ = example("rao_kupper", torch.float64)
    log_threshold = torch.tensor(0.8, dtype=torch.float64)
    difference, level = cells["better"] - cells["worse"], torch.where(cells["tie"], 1, 2)
    ordinal = losses.ordinal(difference, level, torch.stack([-log_threshold, log_threshold]))
    torch.testing.assert_close(losses.rao_kupper(**cells, log_threshold=log_threshold), ordinal)


@pytest.mark.parametrize("log_threshold", [1e-30, 1e-12, 1e-4, 1.0, 80.0])
@pytest.mark.parametrize("difference", [-90.0, 0.0, 90.0])
def test_rao_kupper_ties_are_stable_in_fp32(log_threshold, difference):
    constant = torch.tensor([log_threshold], requires_grad=True)
    scores = pair(difference)
    value = losses.rao_kupper(**scores, tie=torch.tensor([True]), log_threshold=constant)
    value.backward()
    # log(theta^2 - 1) = log expm1(2 log theta), in Python's float64
    expected = -math.log(math.expm1(2 * constant.item()))
    expected -= sum(-np.logaddexp(0, constant.item() - d) for d in (difference, -difference))
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert constant.grad.isfinite().all()


def test_margin_of_llama_2_shifts_the_difference():
    chosen, rejected = torch.tensor([2.0, 0.5]), torch.tensor([1.0, 1.0])
    found = losses.bradley_terry(chosen, rejected, margin=torch.tensor([1.0, 1 / 3]))
    assert found.item() == pytest.approx((math.log(2) + math.log1p(math.exp(0.5 + 1 / 3))) / 2, rel=1e-6)


# ---- single items ---------------------------------------------------------------------------------------------------


def test_cutpoints_increase_from_the_first_raw_value():
    raw = torch.tensor([[-1.0, 0.0, -3.0], [2.0, 5.0, 1.0]])
    cutpoints = losses.ordered_cutpoints(raw)
    steps = np.log1p(np.exp(raw.numpy()[:, 1:]))
    np.testing.assert_allclose(cutpoints[:, 0], raw[:, 0])
    np.testing.assert_allclose(np.diff(cutpoints.numpy(), axis=1), steps, rtol=1e-6)


def test_probabilities_of_all_levels_sum_to_one():
    score = torch.tensor([-4.0, 0.3, 6.0], dtype=torch.float64)
    cutpoints = losses.ordered_cutpoints(torch.tensor([-1.0, 0.2, 0.4, -2.0], dtype=torch.float64))
    for one in score.split(1):
        shares = [math.exp(-losses.ordinal(one, torch.tensor([level]), cutpoints)) for level in range(5)]
        assert sum(shares) == pytest.approx(1, abs=1e-12)


def test_levels_far_from_the_score_keep_finite_losses_and_gradients():
    cutpoints = torch.tensor([-1.0, 1.0], requires_grad=True)
    score = torch.tensor([200.0, 200.0, -200.0], requires_grad=True)
    value = losses.ordinal(score, torch.tensor([0, 1, 2]), cutpoints)
    value.backward()
    # log sigmoid(-x) = -x to 1e-80; the middle level has sigmoid(-199) (1 - e^-2)
    assert value.item() == pytest.approx((201 + 199 - math.log1p(-math.exp(-2)) + 201) / 3, rel=1e-6)
    assert score.grad.isfinite().all() and cutpoints.grad.isfinite().all()


def test_emd_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30]]).log()
    target = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    first, second = (0.5**2 + 0.75**2 + 0) / 3, (1 + 0 + 0) / 3
    assert losses.emd(logits, target).item() == pytest.approx((first + second) / 2, rel=1e-6)
    far = losses.emd(logits[1:], torch.tensor([[0.0, 0.0, 1.0]]))
    assert far.item() == pytest.approx(2 / 3)  # cross-entropy would not tell that this is farther


def test_emd_has_a_gradient_at_a_perfect_fit():
    logits = torch.randn(2, 4, requires_grad=True)
    losses.emd(logits, logits.detach().softmax(-1)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(2, 4), rtol=0, atol=1e-6)


def test_cross_entropy_is_torchs():
    logits, target = torch.randn(7, 5), torch.randn(7, 5).softmax(-1)
    torch.testing.assert_close(losses.distribution(logits, target), torch.nn.functional.cross_entropy(logits, target))


# ---- lists and composition ------------------------------------------------------------------------------------------


def test_all_rank_orders_of_four_items_have_probability_one():
    scores = torch.tensor([[0.3, -1.2, 2.0, 0.7]], dtype=torch.float64)
    orders = [torch.tensor([order]) for order in itertools.permutations(range(4))]
    assert sum(math.exp(-losses.ranking(scores, order)) for order in orders) == pytest.approx(1, abs=1e-12)


def test_two_items_give_bradley_terry():
    _, cells, _ = example("bradley_terry")
    chosen, rejected = cells["chosen"], cells["rejected"]
    ranks = torch.tensor([3, 8]).expand(*SHAPE, 2)
    expected = losses.bradley_terry(chosen, rejected)
    torch.testing.assert_close(losses.ranking(torch.stack([chosen, rejected], -1), ranks), expected)
    torch.testing.assert_close(losses.ranking(torch.stack([rejected, chosen], -1), ranks.flip(-1)), expected)


def test_a_list_of_one_item_is_not_counted():
    scores, ranks = torch.tensor([[1.0, 0.0], [5.0, 2.0]]), torch.tensor([[0, 1], [0, 0]])
    mask = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(losses.ranking(scores, ranks, mask), losses.ranking(scores[:1], ranks[:1]))


def test_veto_gate_multiplies_the_strength_by_the_chance_of_no_veto():
    soft, veto = torch.tensor([1.5, -2.0]), torch.tensor([[-1.0, 0.5], [2.0, -3.0]])
    passed = (1 - expit(veto.double().numpy())).prod(-1)
    np.testing.assert_allclose(losses.veto_gate(soft, veto).exp(), np.exp(soft.numpy()) * passed, rtol=1e-5)


def test_veto_gate_of_unlikely_certain_and_masked_vetoes():
    soft, veto = torch.ones(3), torch.tensor([[-100.0, -100.0], [-100.0, 1e4], [torch.nan, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, True], [False, True]])
    gated = losses.veto_gate(soft, veto, mask)
    np.testing.assert_allclose(gated.detach(), [1, 1 - 1e4, 1 - math.log(2)], rtol=1e-6)
    gated.sum().backward()
    np.testing.assert_allclose(veto.grad, [[0, 0], [0, -1], [0, -0.5]], atol=1e-6)


# ---- errors ---------------------------------------------------------------------------------------------------------

ONE, NO_TIE = torch.zeros(1), torch.tensor([False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.bradley_terry(ONE, ONE, margin=torch.zeros(2)),
            r"margin has shape \(2,\).*broadcasts to \(1,\)",
        ),
        (lambda: losses.bradley_terry(ONE, ONE, margin=torch.zeros(1, 1)), r"margin has shape \(1, 1\)"),
        (lambda: losses.rao_kupper(ONE, ONE, NO_TIE, torch.tensor(-0.1)), r"log_threshold is -0.1, expected >= 0"),
        (lambda: losses.rao_kupper(ONE, ONE, NO_TIE, torch.tensor(torch.nan)), r"log_threshold is nan, expected >= 0"),
        (lambda: losses.rao_kupper(ONE, ONE, ONE, torch.tensor(0.1)), r"tie is torch.float32, expected torch.bool"),
        (
            lambda: losses.davidson(ONE, ONE, NO_TIE.long(), torch.tensor(0.1)),
            r"tie is torch.int64, expected torch.bool",
        ),
        (lambda: losses.davidson(ONE, ONE, NO_TIE, torch.zeros(3)), r"log_nu has shape \(3,\)"),
        (lambda: losses.regression(ONE, ONE, delta=0.0), r"delta is 0.0, expected above 0"),
        (lambda: losses.ordinal(ONE, torch.tensor([3]), torch.tensor([0.0, 1.0])), r"level .* 3 to 3, .* from 0 to 2"),
        (lambda: losses.ordinal(ONE, torch.tensor([-1]), torch.tensor([0.0, 1.0])), r"level .* -1 to -1, .* 0 to 2"),
        (lambda: losses.ordinal(ONE, ONE, torch.tensor([0.0, 1.0])), r"level is torch.float32"),
        (lambda: losses.ordinal(ONE, torch.tensor([1]), torch.tensor([1.0, 0.0])), r"cutpoints decrease"),
        (lambda: losses.ordinal(ONE, torch.tensor([1]), torch.zeros(2, 3)), r"cutpoints has shape \(2, 3\)"),
        (lambda: losses.distribution(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]])), r"target sums to 4 to 4"),
        (lambda: losses.emd(torch.zeros(1, 2), torch.tensor([[1.5, -0.5]])), r"target .* expected shares >= 0"),
        (lambda: losses.ranking(torch.zeros(1, 3), torch.tensor([[0, 1, 1]])), r"ranks has ties"),
        (lambda: losses.veto_gate(ONE, torch.zeros(2, 3)), r"veto_logit has shape \(2, 3\), expected \(1, 'vetoes'\)"),
    ],
)
def test_wrong_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
