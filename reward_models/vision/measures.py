"""What simple measures say of a picture: light, colour, edges, local contrast, lattices, spectrum, steps, layout.

    numbers = measures(pixels)          # [windows, width], differentiable but for counts

A network drawn at random, and one trained for what things are, see little of exposure, casts, grain, banding, lattices.
These are the classic statistics that do: quantiles of light and chroma; derivatives over octaves; BRISQUE's normalised
contrasts (Mittal et al. 2012, https://doi.org/10.1109/TIP.2012.2214050) and their neighbours' products; folded
differences, whose peaks are blocks and grids (Wang, Bovik & Evans 2000); peaks of the spectrum, which are moire; flat
runs with jumps, which are banding; and where edges point, lie and end. Heads learn what of it matters.

Deviations: quantiles are of a subset of large windows; BRISQUE's generalised Gaussian fits are moments instead.
"""

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Plane = Float[Tensor, "windows height width"]
Numbers = Float[Tensor, "windows numbers"]

MOST = 6000  # values that quantiles are taken of
OCTAVES = 4
EVENLY = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
RINGS = (1 / 32, 1 / 16, 1 / 8, 1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2, 0.71)  # cycles per pixel
PERIODS = (2, 4, 8, 16)


def measures(pixels: Float[Tensor, "windows 3 height width"]) -> Numbers:
    """Of RGB in [0, 1], at least 32 x 32. Raises ValueError for smaller windows."""
    if min(pixels.shape[-2:]) < 32:
        raise ValueError(f"windows of {tuple(pixels.shape[-2:])}; measures need at least 32 x 32 pixels.")
    pixels = pixels.float()
    luma, red, yellow = opponent(pixels)
    parts = (
        light(luma, pixels),
        colour(luma, red, yellow, pixels),
        edges(luma, red, yellow),
        contrast(luma),
        lattice(luma),
        spectrum(luma, red, yellow),
        steps(luma, pixels),
        layout(luma, chroma(red, yellow)),
    )
    return torch.cat(parts, 1)


def opponent(pixels: Float[Tensor, "windows 3 height width"]) -> tuple[Plane, Plane, Plane]:
    """Luminance of the encoded values (BT.709's weights), red - green, yellow - blue."""
    red, green, blue = pixels.unbind(1)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue, red - green, (red + green) / 2 - blue


def chroma(red: Plane, yellow: Plane) -> Plane:
    """Distance from grey."""
    return (red.square() + yellow.square() + 1e-8).sqrt()


def light(luma: Plane, pixels: Tensor) -> Numbers:
    """Quantiles, spread, and how much lies at the ends of the scale."""
    at = quantiles(luma, EVENLY)
    ends = [share(plane < t) for t in (0.004, 0.02, 0.05) for plane in (luma, pixels)]
    ends += [share(plane > 1 - t) for t in (0.004, 0.02, 0.05) for plane in (luma, pixels)]
    spread = torch.stack([at[:, 8] - at[:, 0], at[:, 7] - at[:, 1], (at[:, 5] - at[:, 3] + 1e-3).log()], 1)
    return torch.cat([at, mean(luma), luma.flatten(1).std(1, keepdim=True), *ends, spread], 1)


def colour(luma: Plane, red: Plane, yellow: Plane, pixels: Tensor) -> Numbers:
    """How strong colours are, which way they lean together, and whether darks and lights lean along: a cast."""
    strength, top = chroma(red, yellow), pixels.amax(1)
    saturation = (top - pixels.amin(1)) / (top + 1e-2)
    found = [quantiles(plane, EVENLY) for plane in (strength, saturation, red, yellow)]
    found.append((quantiles(strength, EVENLY) + 1e-3).log())
    low, high = (quantiles(luma, (q,))[..., None] for q in (0.2, 0.8))
    for where in (luma <= low, luma >= high):
        weight = where.float() / where.flatten(1).sum(1)[:, None, None].clamp(min=1)
        found += [(weight * plane).flatten(1).sum(1, keepdim=True) for plane in (red, yellow, strength, saturation)]
    lean = torch.cat([mean(red), mean(yellow)], 1)
    size = (lean.square().sum(1, keepdim=True) + 1e-8).sqrt()
    found += [lean, size, size / (mean(strength) + 1e-3), share(strength < 0.012)]
    levels = [pixels.flatten(2).mean(2), quantiles(pixels.flatten(0, 1), (0.98,)).view(-1, 3)]
    found += [(level + 1e-3).log() - (level + 1e-3).log().mean(1, keepdim=True) for level in levels]
    darkest = quantiles(pixels.flatten(0, 1), (0.02,)).view(-1, 3)
    return torch.cat([*found, darkest - darkest.mean(1, keepdim=True)], 1)


def edges(luma: Plane, red: Plane, yellow: Plane) -> Numbers:
    """Log derivatives over octaves: how strong, how heavy their tails, in which direction, in light and in colour."""
    found, before = [], None
    strong = (0.10, 0.25, 0.50, 0.75, 0.90, 0.97, 0.995)
    for octave in range(OCTAVES):
        along = luma.diff(dim=2), luma.diff(dim=1)
        across = luma[:, 1:, 1:] - luma[:, :-1, :-1], luma[:, 1:, :-1] - luma[:, :-1, 1:]
        energy = torch.cat([(mean(one.square()) + 1e-7).log() / 2 for one in (*along, *across)], 1)
        found += [energy, energy.amax(1, keepdim=True) - energy.amin(1, keepdim=True)]
        found.append((energy[:, :1] - energy[:, 1:2]).abs())
        slope = (quantiles(joined(along), strong) + 1e-3).log()
        bend = (quantiles(laplacian(luma).abs(), strong) + 1e-3).log()
        found += [slope, bend, slope - bend]
        for plane in (red, yellow):
            both = joined((plane.diff(dim=2), plane.diff(dim=1)))
            found.append((quantiles(both, (0.25, 0.50, 0.75, 0.95)) + 1e-3).log())
        if before is not None:
            found.append(slope - before)
        before = slope
        if octave + 1 < OCTAVES:
            luma, red, yellow = halved(luma), halved(red), halved(yellow)
    return torch.cat(found, 1)


def contrast(luma: Plane) -> Numbers:
    """Local deviations over three octaves, and BRISQUE's normalised contrasts: spread, tails, neighbours."""
    found = []
    for _ in range(3):
        around = blurred(luma, 7 / 6)
        deviation = ((blurred(luma.square(), 7 / 6) - around.square()).clamp(min=0) + 1e-8).sqrt()
        found.append((quantiles(deviation, (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98)) + 1e-3).log())
        found += [share(deviation < level / 255) for level in (0.5, 1.0, 2.0, 4.0)]
        normal = (luma - around) / (deviation + 1 / 255)
        variance = mean(normal.square())
        found += [variance, mean(normal.abs()), (mean(normal.pow(4)) / (variance.square() + 1e-6) + 1e-3).log()]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
            product = normal * normal.roll(shift, (1, 2))
            found.append(mean(product))
            found.append((mean(product.clamp(min=0)) + 1e-3).log() - (mean((-product).clamp(min=0)) + 1e-3).log())
        luma = halved(luma)
    return torch.cat(found, 1)


def lattice(luma: Plane) -> Numbers:
    """Differences folded by a period: how far one phase stands out. JPEG's blocks, grids, checkerboards."""
    found = []
    for plane in (luma, luma.transpose(1, 2)):
        bend = 2 * plane[:, :, 1:-1] - plane[:, :, :-2] - plane[:, :, 2:]
        for size in (plane.diff(dim=2).abs(), bend, bend.abs()):
            columns = size.clamp(-0.1, 0.1).mean(1)
            for period in PERIODS:
                folded = columns[:, : columns.shape[1] // period * period].unflatten(1, (-1, period))
                times = folded.shape[1]
                spread = folded.std(1, correction=min(1, times - 1)).mean(1, keepdim=True)
                phase, doubt = folded.mean(1), spread / math.sqrt(times) + 1e-4
                far = (phase - phase.median(1, keepdim=True).values).abs().amax(1, keepdim=True)
                found += [(far / doubt + 1).log(), 50 * far]
    board = luma[:, :-1, :-1] + luma[:, 1:, 1:] - luma[:, :-1, 1:] - luma[:, 1:, :-1]
    rows, columns = (torch.arange(side, device=luma.device) for side in board.shape[1:])
    sign = 1 - 2.0 * ((rows[:, None] + columns) % 2)
    return torch.cat([*found, 25 * mean(board * sign).abs(), (mean(board.abs()) / 4 + 1e-4).log()], 1)


def spectrum(*planes: Plane) -> Numbers:
    """Per ring of frequencies: the usual log power, and how far its strongest few stand above it. Moire, screens."""
    height, width = planes[0].shape[1:]
    like = {"device": planes[0].device}
    window = torch.hann_window(height, **like)[:, None] * torch.hann_window(width, **like)
    radius = (torch.fft.fftfreq(height, **like)[:, None].square() + torch.fft.rfftfreq(width, **like).square()).sqrt()
    found = []
    for plane in planes:
        power = torch.fft.rfft2((plane - plane.mean((1, 2), keepdim=True)) * window).abs().square()
        power = (power + 1e-6).log()
        for low, high in pairwise(RINGS):
            ring = _sorted(power[:, (radius >= low) & (radius < high)])
            usual = ring[:, ring.shape[1] // 2, None]
            found += [usual, ring[:, -ring.shape[1] // 100 - 1, None] - usual, ring[:, -1:] - usual]
            found.append(ring[:, -min(4, ring.shape[1]), None] - usual)
    return torch.cat(found, 1)


def steps(luma: Plane, pixels: Tensor) -> Numbers:
    """Flat runs, jumps between them, and how few levels there are: banding."""
    size = luma.diff(dim=2).abs()
    flat = size < 0.6 / 255
    jump = size[:, :, 2:-2] > 2.5 / 255
    between = share(jump & flat[:, :, :-4] & flat[:, :, 1:-3] & flat[:, :, 3:-1] & flat[:, :, 4:])
    level = (pixels * 255).round().long().clamp(0, 255).flatten(1)
    count = torch.zeros(len(pixels), 256, device=pixels.device)
    count = count.scatter_add_(1, level, torch.ones_like(level, dtype=count.dtype)) / level.shape[1]
    most = count.sort(1, descending=True).values
    entropy = -(count * (count + 1e-9).log()).sum(1, keepdim=True)
    found = [share(size < t / 255) for t in (0.4, 1.5, 3.0)] + [10 * between, (between + 1e-4).log(), entropy]
    found += [share(count > 1e-4), (most[:, [0, 1, 3, 7, 15, 31]] + 1e-4).log(), most[:, :16].sum(1, keepdim=True)]
    return torch.cat(found, 1)


def layout(luma: Plane, strength: Plane) -> Numbers:
    """How far edges lean from upright and level, and where light, edges and colour lie: a tilt, a cut subject."""
    smooth = blurred(luma, 1.5)
    right = F.pad(smooth[:, :, 2:] - smooth[:, :, :-2], (1, 1))
    down = F.pad(smooth[:, 2:] - smooth[:, :-2], (0, 0, 1, 1))
    size = (right.square() + down.square() + 1e-10).sqrt()
    angle, total = torch.atan2(down, right + 1e-8), size.flatten(1).sum(1, keepdim=True) + 1e-3
    found = []
    for axis in (0.0, math.pi / 2):
        lean = (angle - axis + math.pi / 2) % math.pi - math.pi / 2
        off = [((lean - k * math.pi / 45) / 0.05) ** 2 for k in range(-6, 7)]
        near = [size * torch.exp(-one.clamp(max=80)) for one in off]  # below it numbers get so small that a CPU crawls
        of = torch.cat([one.flatten(1).sum(1, keepdim=True) / total for one in near], 1)
        found += [of, of + of.flip(1), (of - of.flip(1)).abs()]
    for plane in (luma, size, strength):
        map = F.adaptive_avg_pool2d(plane[:, None], 6).flatten(1)
        found.append(map - map.mean(1, keepdim=True))
    border = [size[:, :8], size[:, -8:], size[:, :, :8], size[:, :, -8:]]
    at = torch.cat([(mean(one) + 1e-4).log() for one in border], 1) - (mean(size) + 1e-4).log()
    return torch.cat([*found, at, at.sort(1).values], 1)


def quantiles(values: Tensor, at: tuple[float, ...]) -> Numbers:
    """Of each window, by rank; of every n-th value where there are many."""
    values = values.flatten(1)
    if values.shape[1] > 2 * MOST:
        values = values[:, :: values.shape[1] // MOST | 1]  # odd, so that it runs through all columns
    rank = [round(q * (values.shape[1] - 1)) for q in at]
    return _sorted(values)[:, rank]


def _sorted(values: Tensor) -> Tensor:
    """Rows in order. On a CPU numpy takes a tenth of torch's time, but knows no gradients."""
    if values.requires_grad or values.device.type != "cpu":
        return values.sort(1).values
    return torch.from_numpy(np.sort(values.contiguous().numpy(), axis=1))


def mean(plane: Tensor) -> Numbers:
    """[windows, 1]."""
    return plane.flatten(1).mean(1, keepdim=True)


def share(where: Tensor) -> Numbers:
    """[windows, 1], of places."""
    return where.float().flatten(1).mean(1, keepdim=True)


def joined(planes: tuple[Tensor, ...]) -> Tensor:
    """Sizes of all values of each window."""
    return torch.cat([plane.flatten(1) for plane in planes], 1).abs()


def laplacian(plane: Plane) -> Plane:
    """Four times the middle less its neighbours."""
    inner = plane[:, 1:-1, 1:-1]
    return 4 * inner - plane[:, :-2, 1:-1] - plane[:, 2:, 1:-1] - plane[:, 1:-1, :-2] - plane[:, 1:-1, 2:]


def halved(plane: Plane) -> Plane:
    """The next octave: a binomial filter, then every second pixel."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], device=plane.device) / 8
    padded = F.pad(plane[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, (line[:, None] * line)[None, None], stride=2)[:, 0]


def blurred(plane: Plane, sigma: float) -> Plane:
    """A Gaussian, mirrored at the border."""
    reach = math.ceil(2.5 * sigma)
    line = torch.exp(-torch.arange(-reach, reach + 1, device=plane.device).float().square() / (2 * sigma**2))
    line = line / line.sum()
    padded = F.pad(plane[:, None], (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, line[None, None, None]), line[None, None, :, None])[:, 0]
