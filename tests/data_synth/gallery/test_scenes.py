"""Rendered pictures: the same for a seed, true in their boxes and counts, with the statistics of what they show."""

import numpy as np
import pytest
from scipy import ndimage

from data_synth.gallery import figures
from data_synth.gallery.real import real_pictures
from data_synth.gallery.scenes import KEYS, SUBJECTS, render

SIZE = 96


def spectrum_slope(image):
    """Exponent a of the amplitude spectrum 1 / f^a, fitted between 1/20 and 1/3 cycles per pixel."""
    grey = image.astype(float).mean(axis=2)
    side = min(grey.shape)
    grey = grey[:side, :side] * np.hanning(side)[:, None] * np.hanning(side)
    amplitude = np.abs(np.fft.fft2(grey - grey.mean()))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    inside = (frequency > 1 / 20) & (frequency < 1 / 3)
    bins = np.digitize(np.log(frequency[inside]), np.linspace(np.log(1 / 20), np.log(1 / 3), 12))
    mean = [np.log(amplitude[inside][bins == k].mean()) for k in range(1, 12)]
    return -np.polyfit(np.linspace(np.log(1 / 20), np.log(1 / 3), 11), mean, 1)[0]


def still_blocks(image):
    """Share of 4 x 4 blocks without any texture."""
    grey = image[: SIZE // 4 * 4, : SIZE // 4 * 4].astype(float).mean(axis=2)
    return float((grey.reshape(SIZE // 4, 4, SIZE // 4, 4).std(axis=(1, 3)) < 0.75).mean())


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("style", ["photo", "cartoon"])
def test_a_picture_is_what_was_asked_for_and_the_same_again(style, subject):
    one, two = (render(7, size=SIZE, style=style, subject=subject) for _ in range(2))
    assert one.image.shape == (SIZE, SIZE, 3) and one.image.dtype == np.uint8
    assert np.array_equal(one.image, two.image) and one.box == two.box
    assert (one.style, one.subject) == (style, subject)
    assert one.kind == ("portrait" if subject == "portrait" else "general")
    assert (one.face is not None) == (subject == "portrait")
    assert (one.anatomy is not None) == (subject in figures.RIGHT) == bool(one.figure)
    left, top, right, bottom = one.box
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    assert not np.array_equal(one.image, render(8, size=SIZE, style=style, subject=subject).image)


def test_all_kinds_are_drawn():
    scenes = [render(seed, size=32) for seed in range(150)]
    assert {scene.subject for scene in scenes} == set(SUBJECTS)
    assert {(scene.style, scene.kind) for scene in scenes} == {
        (style, kind) for style in ("photo", "cartoon") for kind in ("general", "portrait")
    }
    assert {scene.anatomy for scene in scenes} == {True, False, None}


@pytest.mark.parametrize("subject", figures.RIGHT)
def test_wrong_anatomy_changes_the_figure_alone(subject):
    counted, number = figures.RIGHT[subject]
    for seed in range(5):
        right, wrong = (render(seed, size=SIZE, style="cartoon", subject=subject, wrong=w) for w in (False, True))
        assert right.figure == {counted: number} and not right.anatomy
        assert wrong.anatomy and wrong.figure[counted] in figures.WRONG[subject]
        corner = np.s_[:10, :10]
        assert np.array_equal(right.image[corner], wrong.image[corner])
        assert not np.array_equal(right.image, wrong.image)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_legs_can_be_counted_in_the_picture(number):
    """Runs of trousers along a line across the shins, in flat colours on a flat ground."""
    rng = np.random.default_rng(0)
    skeleton = figures.draw_skeleton(rng, "person", number)
    shins = [limb for limb in skeleton.limbs if limb.part == "trousers"][1::2]
    y = skeleton.ground - 0.08
    mask = np.zeros(400, bool)
    for limb in shins:
        t = (y - limb.start[1]) / (limb.end[1] - limb.start[1])
        middle, radius = limb.start[0] + t * (limb.end[0] - limb.start[0]), 0.9 * max(limb.radii)
        mask[round((middle - radius) * 400) : round((middle + radius) * 400)] = True
    assert ndimage.label(mask)[1] == number


def test_photos_have_the_spectra_of_photos():
    ours = [spectrum_slope(render(seed, size=128, style="photo").image) for seed in range(40)]
    real = [spectrum_slope(one.image[::2, ::2]) for one in real_pictures(grey=True)]
    low, high = min(real), max(real)
    assert low - 0.3 < np.median(ours) < high + 0.3
    assert 0.8 < np.median(ours) < 1.8  # Field 1987: near 1, more for pictures with large flat areas


def test_cartoons_are_smooth_and_photos_are_not():
    flat = [still_blocks(render(seed, size=SIZE, style="cartoon").image) for seed in range(30)]
    rough = [still_blocks(render(seed, size=SIZE, style="photo").image) for seed in range(30)]
    assert np.median(flat) > 0.5 and np.quantile(rough, 0.9) < 0.3 and np.median(rough) < 0.1


def test_photos_are_well_exposed():
    for seed in range(40):
        scene = render(seed, size=64, style="photo")
        low = 12 if scene.subject in KEYS else 50
        assert low < scene.image.mean() < 190 and (scene.image == 255).all(axis=2).mean() < 0.1, seed


@pytest.mark.parametrize("bad", [{"size": 8}, {"style": "oil"}, {"subject": "car"}])
def test_what_cannot_be_drawn_is_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        render(0, **bad)
