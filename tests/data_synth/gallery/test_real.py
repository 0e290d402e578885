"""Real pictures out of installed packages, for evaluation."""

import subprocess
import sys

import numpy as np

from data_synth.gallery.real import BLURRED, cartoons, real_pictures


def test_colour_and_grey_pictures():
    colour, both = real_pictures(), real_pictures(grey=True)
    assert {"china", "flower"} <= {one.name for one in colour} and len({one.group for one in colour}) >= 2
    assert [one.name for one in both if not one.grey] == [one.name for one in colour]
    for one in both:
        assert one.image.dtype == np.uint8 and one.image.ndim == 3 and min(one.image.shape[:2]) >= 300
        assert (np.ptp(one.image.astype(int), axis=2).max() == 0) == one.grey
    names = {one.name for one in both}
    if "astronaut" in names:  # scikit-image is there
        assert len(colour) == 8 and len(both) == 15 and set(BLURRED) < names
        left, right = (one for one in colour if one.group == "motorcycle")
        assert left.name != right.name


def test_nothing_is_downloaded_or_imported():
    code = "import sys; from data_synth.gallery.real import real_pictures; real_pictures(grey=True); "
    code += "sys.exit(any(name in sys.modules for name in ('skimage', 'sklearn', 'pooch', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cartoons_are_clean():
    found = list(cartoons(5, size=48))
    assert len(found) == 5 and all(one.style == "cartoon" and not one.anatomy for one in found)
