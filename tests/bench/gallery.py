"""Speed of the gallery on one core: `python tests/bench/gallery.py [--size 128]`

Pictures rendered a second, rated rows a second (one picture with four faults at four strengths), pairs a second; and
faults beside the nearest thing in scikit-image, uint8 in and out. Medians of alternating repetitions in one process.
"""

import argparse
import json
import statistics
import time
from functools import partial

import numpy as np
from skimage import filters, restoration, transform, util

from data_synth.gallery import dataset
from data_synth.gallery.degrade import DEGRADATIONS
from data_synth.gallery.scenes import render

PEERS = {
    "blur": lambda image: filters.gaussian(image, 2.0, channel_axis=2),
    "noise": lambda image: util.random_noise(image, var=0.006),
    "over_smoothed_skin": lambda image: restoration.denoise_bilateral(image, win_size=9, channel_axis=2),
    "composition": lambda image: transform.rotate(image, 12, order=3, mode="reflect"),
}


def main() -> None:
    """Measure and print one JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    size, scenes = options.size, [render(seed, size=options.size) for seed in range(16)]
    cases = []
    for name, peer in PEERS.items():
        ours, theirs = [], []
        for _ in range(options.repetitions):
            ours.append(_seconds(partial(_spoil, DEGRADATIONS[name], scenes)))
            theirs.append(_seconds(partial(_peer, peer, scenes)))
        one, two = (statistics.median(values) / len(scenes) for values in (ours, theirs))
        cases.append({"case": name, "ours_s": one, "peer_s": two, "ratio": one / two})
    for name, make in (
        ("render", lambda: [render(seed, size=size) for seed in range(30)]),
        ("rows", lambda: list(dataset.rows(6, seed=1, size=size))),
        ("pairs", lambda: list(dataset.pairs(6, seed=1, size=size))),
    ):
        number = len(make())
        seconds = statistics.median(_seconds(make) for _ in range(options.repetitions)) / number
        cases.append({"case": name, "ours_s": seconds, "per_second": 1 / seconds})
    for case in cases:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{value:<20}" for key, value in case.items()
            )
        )
    print(json.dumps({"bench": "gallery", "size": size, "cases": cases}))


def _spoil(fault, scenes) -> None:
    for scene in scenes:
        fault(scene.image, 0.5, np.random.default_rng(0))


def _peer(peer, scenes) -> None:
    for scene in scenes:
        util.img_as_ubyte(np.clip(peer(scene.image), 0, 1))


def _seconds(make) -> float:
    """Processor time, so that a busy machine matters less."""
    start = time.process_time()
    make()
    return time.process_time() - start


if __name__ == "__main__":
    main()
