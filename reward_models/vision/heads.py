"""Heads on pooled features: attributes with their uncertainty, vetoes, a label distribution, and a router of experts.

There is one expert per kind of picture, the same heads with weights of their own; the router says how much each counts.
The last layers start at zero but for the means: before training no fault, no bin and no kind is favoured.

- Uncertainty is heteroscedastic (Kendall & Gal 2017, https://huggingface.co/papers/1703.04977): an attribute is a mean
  and a log variance in the units of its ratings. A pair is judged on the difference of two Gaussians,
  P(a better than b) = sigmoid(d / sqrt(1 + pi v / 8)), MacKay 1992 (Neural Computation 4, 720), so that pairs teach the
  variance as well. It knows noise in the labels, not pictures unlike all that were trained on.
- A veto is a fault that is no matter of taste. The score is overall + sum_v log sigmoid(-veto_v): an unlikely fault
  costs nothing, a likely one about its logit, and no beauty makes up for a certain one.
- The distribution of ratings over ordered bins is NIMA's (https://huggingface.co/papers/1709.05424).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

OVERALL = "overall"
"""The first attribute of every model: what pairs compare when they name none, and what vetoes limit."""
UNKNOWN = -1
"""Instead of an expert's number: the router decides."""


FAR = 6.0
"""Deviations at which features are cut."""


@dataclass(frozen=True)
class Outputs:
    """What the heads say, one of each for every expert."""

    attributes: tuple[str, ...] = (OVERALL,)
    """Names of soft scores; the first is `overall`."""
    vetoes: tuple[str, ...] = ()
    """Names of faults."""
    bins: int = 0
    """Ordered bins of the label distribution, the worst first; 0 has no such head."""
    levels: int = 0
    """Grades of ordinal ratings; 0 where ratings are numbers on a scale of their own."""
    experts: tuple[str, ...] = ("general",)
    """Kinds of pictures. The second, where there is one, looks at the region."""
    hidden: int = 64
    """Width of each expert's one hidden layer."""

    def __post_init__(self) -> None:
        if self.attributes[:1] != (OVERALL,) or len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f"attributes are {self.attributes}; expected distinct names, the first {OVERALL!r}.")
        for name, value in (("bins", self.bins), ("levels", self.levels)):
            if value == 1 or value < 0:
                raise ValueError(f"{name} is {value}; expected 0 (no such labels) or at least 2.")


@dataclass(frozen=True)
class Judged:
    """What the heads say of a batch of B items."""

    mean: Float[Tensor, "items attributes"]
    log_variance: Float[Tensor, "items attributes"]
    veto: Float[Tensor, "items vetoes"]
    """Logits of the faults."""
    distribution: Float[Tensor, "items bins"]
    """Log-probabilities."""
    route: Float[Tensor, "items experts"]
    """How much each expert counted; sums to 1."""
    route_logits: Float[Tensor, "items experts"]
    """What the router itself says, also where the kind was known."""
    log_scale: Float[Tensor, " attributes"]
    """log of the logits of a pair that one unit of a mean is worth; 0 for overall, which is in logits itself."""
    tie: Float[Tensor, " attributes"]
    """Free parameter of ties: softplus of it is Rao & Kupper's log theta, itself Davidson's log nu."""
    raw_cutpoints: Float[Tensor, "attributes cuts"]
    """Free form of the bounds between the grades of ordinal ratings."""

    @property
    def scores(self) -> Float[Tensor, "items attributes"]:
        """The means, the first limited by the vetoes."""
        return torch.cat([self.score[:, None], self.mean[:, 1:]], 1)

    @property
    def score(self) -> Float[Tensor, " items"]:
        """`overall`, limited by the vetoes."""
        return gate(self.mean[:, 0], self.veto)


def gate(soft: Float[Tensor, "..."], veto: Float[Tensor, "... vetoes"]) -> Float[Tensor, "..."]:
    """soft + sum_v log sigmoid(-veto_v): the strength exp(soft) times the chance that there is no fault."""
    return soft + F.logsigmoid(-veto).sum(-1)


class Expert(nn.Module):
    """All heads for one kind of picture, as rows of one matrix: means, log variances, vetoes, bins."""

    def __init__(self, width: int, outputs: Outputs) -> None:
        super().__init__()
        count = len(outputs.attributes)
        self.sizes = [count, count, len(outputs.vetoes), outputs.bins]
        self.hidden = nn.Sequential(nn.Linear(width, outputs.hidden), nn.GELU())
        self.heads = nn.Linear(outputs.hidden, sum(self.sizes))
        with torch.no_grad():
            self.heads.weight[count:] = 0.0
            self.heads.bias.zero_()
            self.heads.bias[count : 2 * count] = -2.0  # ratings are mostly shares: a deviation of 0.4

    def forward(self, features: Float[Tensor, "items width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(mean, log variance, veto logits, log-probabilities of the bins), each [items, outputs]."""
        mean, log_variance, veto, bins = self.heads(self.hidden(features)).split(self.sizes, -1)
        return mean, log_variance.clamp(-10, 10), veto, bins.log_softmax(-1)  # exp(10) is still a number


class Heads(nn.Module):
    """Experts and their router over the features of a picture and, where it has one, of its region."""

    def __init__(self, width: int, outputs: Outputs) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.experts = nn.ModuleList(Expert(width, outputs) for _ in outputs.experts)
        self.router = nn.Linear(width, len(outputs.experts))
        nn.init.zeros_(self.router.weight)
        nn.init.zeros_(self.router.bias)
        count = len(outputs.attributes)
        self.tie = nn.Parameter(torch.full((count,), -2.0))  # equals are called so 6 % of the time
        rest = {"log_scale": torch.zeros(count - 1), "cutpoints": torch.zeros(count, max(outputs.levels - 1, 0))}
        for name, start in rest.items():
            if start.numel():
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start)  # ZeRO-3 fails on a weight without numbers

    def forward(
        self,
        features: Float[Tensor, "items width"],
        region: Float[Tensor, "items width"] | None = None,
        expert: Int[Tensor, " items"] | None = None,
    ) -> Judged:
        """`region`: features with the face or person in the crops' place, for the experts after the first.
        `expert`: an expert's number where the kind is known, UNKNOWN (-1) where the router decides."""
        features = self.standardised(features)
        region = None if region is None else self.standardised(region)
        logits = self.router(features)
        log_route = logits.log_softmax(-1)
        if expert is not None:
            one = F.one_hot(expert.clamp(min=0), len(self.experts)).bool()
            log_route = torch.where((expert == UNKNOWN)[:, None], log_route, torch.where(one, 0.0, -torch.inf))
        route = log_route.exp()
        seen = features if region is None else region
        told = [one(features if number == 0 else seen) for number, one in enumerate(self.experts)]
        mean, log_variance, veto, log_probability = (torch.stack(parts, 1) for parts in zip(*told, strict=True))
        share = route[..., None]
        mixed = (share * mean).sum(1)
        # of a mixture: the mean variance and the spread of the means (law of total variance)
        variance = (share * (log_variance.exp() + (mean - mixed[:, None]) ** 2)).sum(1)
        bins = torch.logsumexp(log_route[..., None] + log_probability, 1)
        vetoes, scale = (share * veto).sum(1), F.pad(self.log_scale, (1, 0))
        tie, cuts = self.tie.clone(), self.cutpoints.clone()  # DDP takes a weight that comes out as it is for unused
        return Judged(mixed, variance.log(), vetoes, bins, route, logits, scale, tie, cuts)

    def standardised(self, features: Float[Tensor, "items width"]) -> Float[Tensor, "items width"]:
        """In deviations from the mean of the pictures that `standardise` saw, at most FAR of them: nothing was learnt
        beyond."""
        return ((features - self.centre) / self.deviation).clamp(-FAR, FAR)

    @torch.no_grad()
    def standardise(self, features: Float[Tensor, "items width"]) -> None:
        """Take these features' means and deviations as unit. A LayerNorm would hide what all features share, and blur
        or faint contrast make all of them small."""
        self.centre.copy_(features.mean(0))
        self.deviation.copy_(features.std(0, correction=0) + 1e-3)


def moderated(variance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What a difference of logits with this variance is multiplied by: 1 / sqrt(1 + pi v / 8)."""
    return (1 + math.pi / 8 * variance).rsqrt()
