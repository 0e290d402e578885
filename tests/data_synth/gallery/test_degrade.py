"""Faults of pictures: visible, farther from the original the stronger, in the attribute they claim."""

from itertools import pairwise

import numpy as np
import pytest

from data_synth.gallery.degrade import ATTRIBUTES, DEGRADATIONS, difference, moved, visible, window
from data_synth.gallery.real import real_pictures
from data_synth.gallery.scenes import render

SWEEP = (0.2, 0.4, 0.6, 0.8, 1.0)
SIZE = 96


@pytest.fixture(scope="module")
def pictures():
    return [render(seed, size=SIZE, style="photo", wrong=False) for seed in range(12)]


def sweep(name, image, seed=0, box=None):
    return [DEGRADATIONS[name](image, s, np.random.default_rng(seed), box) for s in SWEEP]


def box_of(name, scene):
    return scene.box if name == "composition" else scene.face


def distance(one, two):
    """Root mean square over the whole picture, in levels."""
    return float(np.sqrt(np.mean((one.astype(float) - two) ** 2)))


def test_every_fault_has_an_attribute_and_every_attribute_a_fault():
    assert {one.attribute for one in DEGRADATIONS.values()} == set(ATTRIBUTES)
    names = "exposure_under exposure_over low_contrast colour_cast over_saturation desaturation blur motion_blur noise "
    names += "jpeg over_smoothed_skin missing_texture moire grid banding composition"
    assert set(DEGRADATIONS) == set(names.split())


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name not in ("banding", "composition")])
def test_a_stronger_fault_is_farther_from_the_original(name, pictures):
    for seed, scene in enumerate(pictures):
        steps = [distance(scene.image, one) for one in sweep(name, scene.image, seed, box_of(name, scene))]
        assert all(a < b for a, b in pairwise(steps)), (name, seed, steps)


def test_stronger_banding_leaves_fewer_levels_and_is_on_average_farther(pictures):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    levels = [len(np.unique(one)) for one in sweep("banding", ramp)]
    assert all(a > b for a, b in pairwise(levels)) and levels[0] <= 22
    far = [[distance(scene.image, one) for one in sweep("banding", scene.image)] for scene in pictures]
    assert (np.diff(np.mean(far, axis=0)) > 0).all()


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_it_shows_from_a_fifth_on(name, pictures):
    for seed, scene in enumerate(pictures):
        one = DEGRADATIONS[name](scene.image, 0.2, np.random.default_rng(seed), box_of(name, scene))
        assert visible(scene.image, one), (name, seed, difference(scene.image, one))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_shape_type_and_seed(name, pictures):
    image = np.ascontiguousarray(pictures[0].image[:70])  # not square
    before = image.copy()
    one, two = (DEGRADATIONS[name](image, 0.6, np.random.default_rng(5)) for _ in range(2))
    assert one.shape == image.shape and one.dtype == np.uint8
    assert np.array_equal(one, two) and np.array_equal(image, before)


@pytest.mark.parametrize(("strength", "dtype"), [(0.0, np.uint8), (1.1, np.uint8), (0.5, np.float32)])
def test_bad_arguments_are_refused(strength, dtype):
    with pytest.raises(ValueError, match="expected"):
        DEGRADATIONS["blur"](np.zeros((32, 32, 3), dtype), strength, np.random.default_rng(0))


def test_stops_of_exposure():
    grey = np.full((32, 32, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    darker, brighter = (DEGRADATIONS[f"exposure_{way}"](grey, 0.25, rng) for way in ("under", "over"))
    assert abs(int(darker[0, 0, 0]) - 255 * ((128 / 255) ** 2.2 / 2**0.8) ** (1 / 2.2)) <= 1
    assert abs(int(brighter[0, 0, 0]) - 255 * ((128 / 255) ** 2.2 * 2**0.6) ** (1 / 2.2)) <= 1


def test_full_desaturation_is_grey_and_colour_faults_keep_the_luminance(pictures):
    image = pictures[0].image
    grey = DEGRADATIONS["desaturation"](image, 1.0, np.random.default_rng(0))
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    luma = np.array([0.2126, 0.7152, 0.0722])
    cast = DEGRADATIONS["colour_cast"](image, 0.3, np.random.default_rng(0))
    linear = [((one / 255) ** 2.2 @ luma).mean() for one in (image, cast)]
    assert linear[1] == pytest.approx(linear[0], rel=0.05)


def test_a_grey_picture_has_no_colour_to_lose():
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (64, 64, 1), dtype=np.uint8), 3, axis=2)
    for name in ("desaturation", "over_saturation"):
        assert not visible(grey, DEGRADATIONS[name](grey, 1.0, np.random.default_rng(0)))


def test_smoothing_stays_in_the_face_and_spares_edges():
    scene = render(3, size=128, style="photo", subject="portrait")
    smooth = DEGRADATIONS["over_smoothed_skin"](scene.image, 1.0, np.random.default_rng(0), scene.face)
    left, top, right, bottom = (round(v * 128) for v in scene.face)
    changed = np.abs(smooth.astype(int) - scene.image).max(axis=2)
    assert (
        changed[top:bottom, left:right].mean() > 3
        and changed[:, : left - 12].max() == changed[bottom + 12 :].max() == 0
    )
    rng = np.random.default_rng(1)
    step = np.where(np.arange(64)[None, :, None] < 32, 60, 190) + rng.normal(0, 6, (64, 64, 3))
    flat = DEGRADATIONS["over_smoothed_skin"](step.astype(np.uint8), 1.0, rng).astype(float)
    assert flat[:, 5:25].std() < 2 < 6 - 2 and flat[:, 33].mean() - flat[:, 30].mean() > 0.75 * 130


def test_grid_has_its_period_and_moire_its_colours():
    flat = np.full((128, 128, 3), 128, np.uint8)
    lattice = DEGRADATIONS["grid"](flat, 1.0, np.random.default_rng(0))[..., 0].astype(float)
    power = np.abs(np.fft.rfft((lattice - lattice.mean()).mean(axis=0))) ** 2
    peak = int(np.argmax(power))
    assert peak in (128 // 16, 128 // 8, 128 // 4) and power[peak] > 10 * np.median(power)
    waves = DEGRADATIONS["moire"](flat, 1.0, np.random.default_rng(0)).astype(int)
    assert np.abs(waves[..., 0] - waves[..., 2]).mean() > 10


def test_the_border_cuts_the_subject_off_more_and_more():
    box, shape = (0.2, 0.3, 0.5, 0.7), (120, 160, 3)
    x, y = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    for seed in range(40):
        offsets = []
        for strength in SWEEP:
            matrix = window(shape, strength, np.random.default_rng(seed), box)
            seen = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
            assert seen[0].min() > -0.5 and seen[0].max() < 160.5 and seen[1].min() > -0.5 and seen[1].max() < 120.5
            offsets.append(np.hypot(seen[0] - x, seen[1] - y).mean())
        assert all(a < b for a, b in pairwise(offsets)), (seed, offsets)


def test_a_box_moves_with_the_picture():
    image = np.zeros((100, 100, 3), np.uint8)
    image[30:50, 40:60] = 255  # a white square: x 0.4 to 0.6, y 0.3 to 0.5
    box, checked = (0.4, 0.3, 0.6, 0.5), 0
    for seed in range(20):
        spoilt = DEGRADATIONS["composition"](image, 0.4, np.random.default_rng(seed), box)
        found = moved(box, window(image.shape, 0.4, np.random.default_rng(seed), box), image.shape)
        rows, columns = np.nonzero(spoilt[..., 0] > 127)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 100
        assert found == pytest.approx(tuple(seen), abs=0.03)
        checked += 1
    assert checked == 20
    away = np.eye(3)
    away[0, 2] = 59
    assert moved(box, away, image.shape) is None


def test_real_pictures_are_spoilt_visibly_and_monotonously():
    for one in real_pictures():
        image = one.image[::3, ::3]
        for name in DEGRADATIONS:
            steps = sweep(name, image, 1)
            assert visible(image, steps[0]), (one.name, name)
            far = [distance(image, step) for step in steps]
            assert name in ("banding", "composition") or all(a < b for a, b in pairwise(far)), (
                one.name,
                name,
                far,
            )
