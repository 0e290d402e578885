"""Every measure against a picture made to show what it measures."""

import math

import pytest
import torch

from reward_models.vision import measures as m

SIDE = 96


def smooth(seed=0):
    """[1, 3, SIDE, SIDE], soft blobs of colour in the middle of the scale with a little grain."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 6, generator=generator) * 0.5 + 0.25
    picture = torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bicubic", align_corners=False)
    return (picture + 0.01 * torch.randn(1, 3, SIDE, SIDE, generator=generator)).clamp(0, 1)


def lattice_of(period):
    columns = torch.arange(SIDE) % period == 1
    return (smooth() - 0.08 * columns).clamp(0, 1)


def test_quantiles_are_of_the_values():
    values = torch.linspace(0, 1, 101).repeat(2, 1)
    assert m.quantiles(values, (0.1, 0.5, 0.9))[1].tolist() == pytest.approx([0.1, 0.5, 0.9])


def test_quantiles_of_many_values_run_through_all_columns():
    """Every n-th value of a picture whose width n divides would be one column."""
    plane = torch.linspace(0, 1, 200).repeat(1, 200, 1)
    assert m.quantiles(plane, (0.25, 0.75))[0].tolist() == pytest.approx([0.25, 0.75], abs=0.02)


def test_grey_has_no_chroma_and_a_cast_leans_the_lights():
    grey = smooth().mean(1, keepdim=True).repeat(1, 3, 1, 1)
    _, red, yellow = m.opponent(grey)
    assert red.abs().max() == 0 and yellow.abs().max() < 1e-6
    _, red, yellow = m.opponent(grey * torch.tensor([1.1, 1.0, 0.8]).view(1, 3, 1, 1))
    assert red.mean() > 0.03 and yellow.mean() > 0.1


def test_light_counts_what_is_clipped():
    luma = torch.cat([torch.zeros(1, 10, 32), torch.full((1, 22, 32), 0.5)], 1)
    pixels = luma[:, None].repeat(1, 3, 1, 1)
    found = m.light(luma, pixels)[0]
    assert 10 / 32 in [pytest.approx(float(value)) for value in found[11:13]]


@pytest.mark.parametrize("period", m.PERIODS)
def test_a_lattice_stands_out_at_its_period(period):
    clean, found = (m.lattice(m.opponent(picture)[0]) for picture in (smooth(), lattice_of(period)))
    count = 2 * len(m.PERIODS)
    of_bends = slice(count, 2 * count)  # luma across columns: differences, bends, sizes of bends
    place = 2 * m.PERIODS.index(period)
    assert found[0, of_bends][place] > clean[0, of_bends][place] + 1


def test_blur_weakens_fine_edges_and_noise_strengthens_them():
    picture = smooth()
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(picture, (2, 2, 2, 2), mode="reflect"), 5, 1)
    noisy = (picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    soft, plain, rough = (m.edges(*m.opponent(one))[0, 0] for one in (blurred, picture, noisy))
    assert soft + 0.5 < plain < rough - 0.5


def test_waves_are_a_peak_of_their_ring():
    x = torch.arange(SIDE)
    waves = 0.1 * torch.sin(2 * math.pi * x / 4.5).expand(1, 1, SIDE, SIDE)
    ring = next(k for k, high in enumerate(m.RINGS[1:]) if 1 / 4.5 < high)
    clean, found = (m.spectrum(m.opponent(one)[0])[0, 4 * ring + 2] for one in (smooth(), smooth() + waves))
    assert found > clean + 3


def test_few_levels_are_steps():
    picture = torch.linspace(0.2, 0.8, SIDE).expand(1, 3, SIDE, SIDE)
    banded = (picture * 8).round() / 8
    clean, found = (m.steps(m.opponent(one)[0], one)[0] for one in (picture, banded))
    assert found[3] > clean[3] + 0.1  # jumps between flat runs
    assert found[5] < clean[5] - 1  # entropy of the levels


@pytest.mark.parametrize("degrees", [-12, 0, 12])
def test_layout_knows_which_way_edges_lean(degrees):
    y, x = torch.meshgrid(torch.arange(SIDE) * 1.0, torch.arange(SIDE) * 1.0, indexing="ij")
    angle = math.radians(degrees)
    stripes = 0.5 + 0.3 * torch.sin((x * math.cos(angle) + y * math.sin(angle)) / 3)
    found = m.layout(stripes[None], torch.zeros(1, SIDE, SIDE))[0, :13]
    assert 4 * (int(found.argmax()) - 6) == degrees


def test_windows_do_not_know_each_other_and_gradients_are_finite():
    pixels = torch.cat([smooth(0), torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, 3, SIDE, SIDE), smooth(1)])
    pixels.requires_grad_(True)
    together = m.measures(pixels)
    torch.testing.assert_close(together[3:], m.measures(pixels[3:]), atol=1e-3, rtol=1e-4)
    assert together.isfinite().all()
    together.sum().backward()
    assert pixels.grad.isfinite().all() and pixels.grad[0].abs().sum() > 0


def test_numbers_are_the_same_with_gradients_and_without():
    pixels = torch.cat([smooth(0), smooth(1)])
    assert torch.equal(m.measures(pixels), m.measures(pixels.clone().requires_grad_()).detach())


def test_small_windows_are_refused():
    with pytest.raises(ValueError, match="at least 32 x 32"):
        m.measures(torch.rand(1, 3, 31, 40))
