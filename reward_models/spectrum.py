"""A weak sign of generated pictures: the lattice that upsampling layers leave in the spectrum of the noise residual.

Transposed convolutions and patch decoders repeat an uneven pattern every 2, 4 or 8 pixels (Odena et al. 2016; Durall et
al. 2020, arXiv 2003.01826; Corvi et al. 2023, arXiv 2211.00680), which gives peaks at multiples of 1/8 cycle per pixel.
`lattice_peak` is the largest of them above its neighbourhood, in log power of the residual that a 3 x 3 median leaves.

It says nothing about a generator that leaves no lattice, and resizing, blur or noise remove one. Measured: see SURE.
"""

import numpy as np
from scipy import fft, ndimage

SIDE = 64  # pixels of a window; its spectrum holds every multiple of 1/8 exactly
STEP = SIDE // 8
MOST = 512  # pixels a side that are looked at, from the middle
SUSPECT, SURE = 3.0, 4.5
"""Peaks in nats of power. Below SUSPECT nothing is said, from SURE on "generated", between neither.

The 15 real pictures of scikit-image and scikit-learn reach 2.4 as they are, and over JPEG of quality 10 to 90; 2.9
after WebP, sharpening, blur, noise or smooth resizing, 3.9 after nearest-neighbour resizing; 60 rendered ones 3.6. A
transposed convolution with weights uneven by a tenth gives 6.1 to 11.4 on the same pictures, JPEG or not, and at most
2.6 once the result is made smaller by a quarter: a lattice does not survive resizing. The limits were set on these
pictures (tests/bench/lattice.py), without any picture of a real generator: how many of those it finds is not known.
"""


def lattice_peak(image: np.ndarray) -> float | None:
    """The peak for uint8 RGB [H, W, 3] in nats; None for a picture below 128 pixels a side or without any residual."""
    if min(image.shape[:2]) < 2 * SIDE:
        return None
    top, left = (max(0, (side - MOST) // 2) for side in image.shape[:2])
    luma = image[top : top + MOST, left : left + MOST].astype(np.float32) @ np.float32((0.299, 0.587, 0.114))
    residual = luma - ndimage.median_filter(luma, 3)
    residual /= np.sqrt(ndimage.uniform_filter(residual**2, 17)) + 1.0  # so that no edge outweighs the rest
    if not residual.any():
        return None
    weights = np.hanning(SIDE)[:, None] * np.hanning(SIDE)
    windows = np.lib.stride_tricks.sliding_window_view(residual, (SIDE, SIDE))[:: SIDE // 2, :: SIDE // 2]
    power = np.zeros((SIDE, SIDE // 2 + 1))
    for row in windows:  # Welch's mean over windows, a row at a time for the memory
        power += (np.abs(fft.rfft2(row * weights)) ** 2).sum(axis=0)
    log = np.log(power + 1e-9)
    above = log - ndimage.median_filter(log, (9, 9), mode="wrap")
    above[0, 0] = -np.inf
    return float(above[::STEP, ::STEP].max())
