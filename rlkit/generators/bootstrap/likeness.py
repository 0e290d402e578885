"""A reward learnt from the few pictures: do samples look like them, rather than like what the base model draws?

Logistic regression on measures, originals against the base model's own pictures of the same size. Two of them see
different measures: one is trained on, the other holds the judgement that no sample is chosen by. A score is a share of
how alike an original is that was left out of the fit: 1 is as alike, and more counts as 1, so that nothing is gained by
a look that is overdone; 0 is undecided.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from rlkit.errors import GuardError
from rlkit.generators.bootstrap.space import Measured, joined, measured
from rlkit.scoring import Rewards

TRAINED, HELD_OUT = ("light", "colour", "contrast"), ("edges", "spectrum", "steps")
STRENGTH = 0.01  # inverse of the penalty: ten pictures, hundreds of measures
FOLDS = 5
LEAST_AUC = 0.75


class Likeness:
    """The judge on some families of measures."""

    def __init__(self, originals: Measured, others: Measured, families: Sequence[str]) -> None:
        """Raises GuardError for a judge that cannot tell originals it has not seen from the base model's pictures."""
        self.families = families
        seen = [joined(one, families) for one in (originals, others)]
        truth = np.repeat([1, 0], [len(one) for one in seen])
        self.model = make_pipeline(
            StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000)
        )
        folds = StratifiedKFold(min(FOLDS, len(seen[0]), len(seen[1])), shuffle=True, random_state=0)
        unseen = cross_val_predict(self.model, np.concatenate(seen), truth, cv=folds, method="decision_function")
        self.auc = float(roc_auc_score(truth, unseen))
        self.level = float(np.median(unseen[truth == 1]))
        """Log-odds of an original that was left out."""
        if self.auc < LEAST_AUC or self.level <= 0:
            raise GuardError(
                f"by {', '.join(families)} the pictures cannot be told from what the base model draws anyway (AUC "
                f"{self.auc:.2f} on pictures left out, expected {LEAST_AUC}): nothing could be learnt by such a judge. "
                "Give pictures of one look, or bootstrap.likeness_weight=0 and rewards of your own."
            )
        self.model.fit(np.concatenate(seen), truth)

    def __call__(self, found: Measured) -> Float[np.ndarray, " pictures"]:
        """Scores of pictures, at most 1."""
        return np.minimum(self.model.decision_function(joined(found, self.families)) / self.level, 1.0)


class WithLikeness(Rewards):
    """Rewards that read prompts without the trigger, and the likeness beside them."""

    def __init__(self, rewards: Rewards, likeness: Likeness, weight: float, trigger: str) -> None:
        self.rewards, self.likeness, self.trigger = rewards, likeness, trigger
        self.names = [*rewards.names, "likeness"]
        self.weights, self.scores = [*rewards.weights, weight], [*rewards.scores, likeness]

    def __call__(self, prompts: Sequence[str], completions: Sequence[Any]) -> Float[Tensor, "batch rewards"]:
        """As Rewards, the likeness last."""
        plain = self.rewards([one.removeprefix(self.trigger) for one in prompts], completions)
        alike = torch.from_numpy(self.likeness(measured(completions))).float()
        return torch.cat([plain.reshape(len(completions), -1).float(), alike[:, None]], 1)
