"""How alike pictures are: classic measures of them, a space in which their distance is that of what is seen, and how
many different ones a set holds.

The measures are reward_models/vision/measures.py: no network, so that they work for a look that none was trained on.
Distances are of principal components of standardised measures; what is near is calibrated on the originals: a copy
lies nearer to one of them than a share of the distance at which originals lie from each other. Diversity is the Vendi
score (https://huggingface.co/papers/2210.02410), the exponential of the entropy of a kernel's eigenvalues: 1 for one
picture again and again, n for n that have nothing in common. It grows with n: compare sets of one size alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from reward_models.vision import measures

Measured = Mapping[str, Float[np.ndarray, "pictures numbers"]]
"""Family of measures -> a row a picture."""
Points = Float[np.ndarray, "pictures dims"]

SMALLEST, LARGEST = 32, 128  # sides in pixels at which pictures are measured
BATCH = 64
COMPONENTS = 16
FARTHEST = 4.0  # standard deviations: some measures are logs of nothing, and would drown all others


def measured(pictures: Sequence[np.ndarray | Image.Image]) -> Measured:
    """The measures of square RGB pictures of one size."""
    pixels = np.stack([np.asarray(one.convert("RGB") if isinstance(one, Image.Image) else one) for one in pictures])
    parts: list[dict[str, np.ndarray]] = []
    for batch in torch.from_numpy(pixels).split(BATCH):
        parts.append(_families(batch.permute(0, 3, 1, 2).float() / 255))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _families(pixels: torch.Tensor) -> dict[str, np.ndarray]:
    side = min(max(pixels.shape[-1], SMALLEST), LARGEST)
    if side != pixels.shape[-1]:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
    luma, red, yellow = measures.opponent(pixels)
    found = {
        "light": measures.light(luma, pixels),
        "colour": measures.colour(luma, red, yellow, pixels),
        "contrast": measures.contrast(luma),
        "edges": measures.edges(luma, red, yellow),
        "spectrum": measures.spectrum(luma, red, yellow),
        "steps": measures.steps(luma, pixels),
        "layout": measures.layout(luma, measures.chroma(red, yellow)),
    }
    return {name: numbers.double().numpy() for name, numbers in found.items()}


def joined(found: Measured, families: Sequence[str]) -> Float[np.ndarray, "pictures numbers"]:
    """The numbers of some families, side by side."""
    return np.concatenate([found[name] for name in families], 1)


class Space:
    """Where pictures lie, fitted on the originals and the base model's own."""

    def __init__(self, originals: Measured, others: Measured) -> None:
        self.families = list(originals)
        both = np.concatenate([joined(one, self.families) for one in (originals, others)])
        self.scaler = StandardScaler().fit(both)
        scaled = self._scaled(both)
        self.pca = PCA(min(COMPONENTS, *scaled.shape), svd_solver="full").fit(scaled)
        self.originals = self(originals)
        apart = distances(self.originals, self.originals)
        np.fill_diagonal(apart, np.inf)
        self.usual = float(np.median(apart.min(1)))
        """Median distance from an original to the nearest other one."""
        self.width = self.usual / 2
        """Of the kernel of `vendi`: two originals at their usual distance are alike by exp(-2), 0.14."""

    def __call__(self, found: Measured) -> Points:
        """Where these pictures lie."""
        return self.pca.transform(self._scaled(joined(found, self.families)))

    def nearest(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """(number of the nearest original, distance to it) of each point."""
        apart = distances(points, self.originals)
        return apart.argmin(1), apart.min(1)

    def vendi(self, points: Points) -> float:
        """The effective number of different pictures among these."""
        return vendi(points, self.width)

    def _scaled(self, numbers: np.ndarray) -> np.ndarray:
        return np.clip(self.scaler.transform(numbers), -FARTHEST, FARTHEST)


def distances(points: Points, others: Points) -> Float[np.ndarray, "pictures others"]:
    """Euclidean, from every point to every other."""
    return np.linalg.norm(points[:, None] - others[None], axis=-1)


def vendi(points: Points, width: float) -> float:
    """exp(entropy of the eigenvalues of K / n) for the kernel exp(-d^2 / (2 width^2))."""
    kernel = np.exp(-0.5 * (distances(points, points) / max(width, 1e-12)) ** 2)
    share = np.clip(np.linalg.eigvalsh(kernel / len(points)), 1e-12, None)
    return float(np.exp(-(share * np.log(share)).sum()))
