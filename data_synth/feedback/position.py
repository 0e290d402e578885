"""How likely a place on the page is looked at: the position-based model, from randomised or from harvested placements.

P(click) = examination of the place x relevance of the item to the prompt and viewer (Richardson et al. 2007; Craswell
et al. 2008). Assumed: whether a place is looked at depends on the place alone, not on the item, the viewer, or the
clicks above it; and a look at a good item is as good at any place (no trust bias). `misfit` says how far the clicks
disagree. Only ratios can be known, so the first place has examination 1 and a reward is "per view at the first place".
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data_synth.errors import DataError
from data_synth.feedback.estimate import sum_by
from data_synth.feedback.schema import Log

ROUNDS, TOLERANCE = 10_000, 1e-10


@dataclass(frozen=True)
class Examination:
    """Examination of each place relative to the first, and how sure it is."""

    positions: np.ndarray
    """Int[K], the places of the log, rising."""
    values: np.ndarray
    """Float[K]; NaN where nothing ties a place to the first one, or nobody ever clicked there."""
    covariance: np.ndarray
    """Float[K, K] of log(values); 0 for the first place."""
    misfit: float
    """Pearson's chi-squared of the clicks per degree of freedom: about 1 where the model holds. NaN: not measured."""

    def of(self, position: np.ndarray) -> np.ndarray:
        """Float[rows], the examination of each row's place."""
        return self.values[np.searchsorted(self.positions, position)]


def unbiased(log: Log) -> Examination:
    """Every place counts as looked at alike: what a log without position bias, or a plain click rate, assumes."""
    positions = np.unique(log.position)
    return Examination(positions, np.ones(len(positions)), np.zeros((len(positions),) * 2), np.nan)


def randomised(log: Log) -> Examination:
    """From known propensities: the click rate of each place under the same (uniform) choice of items, over the first's.

    Rows are weighted by 1 / propensity, so that all places show the same mix of items, provided that each item can come
    to each place. Assumed beside the model: all places see the same prompts and viewers, as places of one page do.
    Intervals take sessions as independent. Raises DataError where the log has no propensities.
    """
    if log.propensity is None:
        raise DataError("the log has no `propensity`; position bias can only be `fitted` from it, or be left alone.")
    positions, place = np.unique(log.position, return_inverse=True)
    weight, count = 1 / log.propensity, len(positions)
    size = np.bincount(place, weight, count)
    rate = np.bincount(place, weight * log.click, count) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(rate > 0, rate / rate[0], np.nan)
        influence = np.where(rate[place] > 0, weight * (log.click / rate[place] - 1) / size[place], 0.0)
    _expect_first(values)
    summed = sum_by(log.session, influence[:, None] * (place[:, None] == np.arange(count)))
    relative = np.eye(count)
    relative[:, 0] -= 1  # log rate -> log(rate / first rate)
    return Examination(positions, values, relative @ summed.T @ summed @ relative.T, np.nan)


def fitted(log: Log) -> Examination:
    """From items that came to several places, for whatever reason: harvested interventions (Agarwal et al. 2019,
    Estimating Position Bias without Intrusive Interventions, arXiv 1812.05161).

    A cell is one item under one prompt for one kind of viewer (`context`). Given the clicks of a cell, how they spread
    over its places depends on examination alone: share of place k = n_k theta_k / sum_j n_j theta_j, the relevance
    cancels. theta maximises that multinomial likelihood, by theta_k = clicks_k / sum_cells clicks n_k / sum_j n_j
    theta_j until it stands still. Beside that paper, all places of a cell are compared at once instead of in pairs, and
    beside the EM of Wang et al. 2018 (Position Bias Estimation for Unbiased Learning to Rank), relevance is free per
    cell, needs no features and no likelihood of its own. The covariance is a sandwich over sessions.

    Assumed beside the model: within a cell, the place was not chosen by something that also makes people click (that is
    what `context` is for).
    """
    positions, place = np.unique(log.position, return_inverse=True)
    cell = _cells(log)
    cells, count = int(cell.max()) + 1, len(positions)
    key = cell * count + place
    shown = np.bincount(key, minlength=cells * count).reshape(cells, count).astype(float)
    clicks = np.bincount(key, log.click, cells * count).reshape(cells, count)
    known = _linked(shown, clicks)
    _expect_first(np.where(known, 1.0, np.nan))
    informative = (clicks[:, known].sum(1) > 0) & ((shown[:, known] > 0).sum(1) > 1)
    n, c = shown[np.ix_(informative, known)], clicks[np.ix_(informative, known)]
    theta = _multinomial(n, c)
    values = np.full(count, np.nan)
    values[known] = theta
    covariance = np.zeros((count, count))
    rows = informative[cell] & known[place]
    within, column = (np.cumsum(kept) - 1 for kept in (informative, known))
    covariance[np.ix_(known, known)] = _sandwich(n, c, theta, log.take(rows), within[cell[rows]], column[place[rows]])
    return Examination(positions, values, covariance, _misfit(n, c, theta))


def _sandwich(n: np.ndarray, c: np.ndarray, theta: np.ndarray, log: Log, cell, place) -> np.ndarray:
    """Float[K, K]: covariance of log(theta) from the scores of whole sessions; cell and place are of each row."""
    share, total = n * theta / (n @ theta)[:, None], c.sum(1)
    information = np.diag(share.T @ total) - (share * total[:, None]).T @ share
    inverse = np.zeros_like(information)
    if len(theta) > 1:
        inverse[1:, 1:] = np.linalg.inv(information[1:, 1:])
    relevance = total / (n @ theta)
    residual = log.click - relevance[cell] * theta[place]
    one_hot = place[:, None] == np.arange(len(theta))
    score = sum_by(log.session, residual[:, None] * (one_hot - share[cell]))
    return inverse @ score.T @ score @ inverse


def _cells(log: Log) -> np.ndarray:
    """Int[rows]: number of the row's prompt, item and context together."""
    arm = log.prompt * len(log.items) + log.item
    return np.unique(arm * (int(log.context.max()) + 1) + log.context, return_inverse=True)[1]


def _linked(shown: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """Bool[K]: places with clicks that items connect to the first place."""
    counted = (shown > 0) & (clicks.sum(1, keepdims=True) > 0)
    cell, place = np.nonzero(counted & (clicks.sum(0) > 0))
    cells, count = shown.shape
    graph = coo_matrix((np.ones(len(cell)), (cell, cells + place)), shape=(cells + count,) * 2)
    _, component = connected_components(graph, directed=False)
    return (component[cells:] == component[cells]) & (clicks.sum(0) > 0)


def _multinomial(n: np.ndarray, c: np.ndarray) -> np.ndarray:
    """theta [K], 1 for the first place, of cells with showings n and clicks c, [cells, K]."""
    theta, per_place, total = np.ones(n.shape[1]), c.sum(0), c.sum(1)
    if len(theta) == 1:
        return theta
    for _ in range(ROUNDS):
        new = per_place / (n.T @ (total / (n @ theta)))
        new /= new[0]
        if np.abs(np.log(new / theta)).max(initial=0.0) < TOLERANCE:
            return new
        theta = new
    raise DataError(f"the position model did not settle in {ROUNDS:,} rounds; too few items came to several places.")


def _misfit(n: np.ndarray, c: np.ndarray, theta: np.ndarray) -> float:
    """Chi-squared / degrees of freedom over the cells with enough clicks for it (5 expected at each place)."""
    relevance = np.clip(c.sum(1) / (n @ theta), 0, 1)
    rate = relevance[:, None] * theta
    seen = n > 0
    enough = np.where(seen, n * rate, np.inf).min(1) >= 5
    freedom = int((seen.sum(1) - 1)[enough].sum()) - (len(theta) - 1)
    if freedom < 1:
        return np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.where(seen, (c - n * rate) ** 2 / (n * rate * np.clip(1 - rate, 1e-9, None)), 0.0)
    return float(squares[enough].sum() / freedom)


def _expect_first(values: np.ndarray) -> None:
    if np.isnan(values[0]):
        raise DataError("nobody clicked at the first place of the log, so examination has nothing to be measured by.")
