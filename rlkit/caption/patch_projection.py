"""The patch embedding of a vision tower as the matrix product that it is.

Qwen's towers embed flattened patches by a Conv3d whose kernel is as large as the patch: one dot product per patch and
channel. As a convolution its backward pass costs six times the product's; in a tower that is trained this is 4 % of
a DPO step (tests/bench/dpo_step.py). The weight keeps its name and shape, so checkpoints stay as they are.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


class PatchProjection(nn.Conv3d):
    """A Conv3d whose input is exactly one kernel in size."""

    def forward(self, patches: Float[Tensor, "patches channels time height width"]) -> Tensor:
        """The convolution's output, [patches, out_channels, 1, 1, 1]; other sizes go to the convolution."""
        if patches.shape[2:] != self.kernel_size or any(self.padding):
            return super().forward(patches)
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def replace(tower: nn.Module) -> None:
    """Let every Conv3d below `tower` that is not adapted project patches this way; its weights stay where they are."""
    for module in tower.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = PatchProjection
