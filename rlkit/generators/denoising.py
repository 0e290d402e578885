"""The denoising error that pictures are trained by: |prediction - target|^2, of a velocity or of noise."""

from jaxtyping import Float
from torch import Tensor

from rlkit import sde
from rlkit.losses.diffusion import squared_error
from rlkit.models import sampling
from rlkit.models.generator import Generator


def errors(
    generator: Generator,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    uniform: Float[Tensor, " batch"],
    text: dict[str, Tensor],
) -> Float[Tensor, " batch"]:
    """Mean squared error of the policy on latents noised at `uniform` in (0, 1), shifted as its sampler shifts."""
    level, times = sampling.training_times(generator, uniform, tuple(x0.shape[1:]))
    if generator.family.PREDICTION == "flow":
        noised, target = sde.flow_sample(x0, noise, level), sde.flow_velocity(x0, noise)
    else:
        noised, target = sde.epsilon_sample(x0, noise, level), noise
    return squared_error(generator.predict(noised, times, text), target)
