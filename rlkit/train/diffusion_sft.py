"""Training of a text-to-picture generator on pictures with true prompts: the squared error of velocity or noise.

Rectified flow, https://huggingface.co/papers/2209.03003, whose noise levels are drawn evenly and then shifted as the
pipeline's own sampler shifts them; DDPM, https://huggingface.co/papers/2006.11239, Eq. 14, at even timesteps. With
`model.init` the generator is made fresh, on the world's pictures: the start of the recipes of preference and RL. A
share of the pictures (`generation.prompt_dropout`) is shown without its prompt.

Deviation: noise levels are even, where SD3's paper draws them from a logit-normal distribution.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from data_synth.world import pictures
from rlkit import engine
from rlkit.engine import seed_of
from rlkit.generators import denoising
from rlkit.generators import session as sessions
from rlkit.generators.session import Session
from rlkit.models import generator as pipelines
from rlkit.models.generator import POLICY, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, save, measure on held-out prompts. See recipes/base_flow.yaml."""
    sessions.run(recipe, folder, start, Pictures, systems={"base": POLICY})


def start(recipe: Recipe) -> Generator:
    """The generator of model.id, or a fresh one."""
    model = recipe.model
    if model.id is not None:
        return pipelines.load(
            model.id, lora=model.lora, dtype=model.dtype, revision=model.revision, device=ranks.device()
        )
    from rlkit.models import tiny_pipelines

    sizes = recipe.generation
    texts = [pictures.prompt(one) for one in pictures.descriptions()]
    width, layers, size = sizes.width, sizes.layers, sizes.resolution
    if model.init == "stable_diffusion":
        widths = (width // 4, width // 2, width)
        pipe = tiny_pipelines.epsilon_default(texts, size=size, widths=widths, layers=layers, seed=recipe.seed)
    else:
        pipe = tiny_pipelines.flow_default(
            texts, size=size, patch_size=sizes.patch_size, width=width, layers=layers, seed=recipe.seed
        )
    return pipelines.prepare(pipe.to(ranks.device()))


class Pictures:
    """The world's training pictures as latents, encoded when they are first needed."""

    def __init__(self, session: Session) -> None:
        recipe, self.generator, self.recipe = session.recipe, session.generator, session.recipe
        data, train = recipe.data, recipe.train
        self.shown = pictures.drawn(data.num_clips, seed=data.world_seed)
        self.stage = f"denoising {data.num_clips:,} pictures"
        self.embeddings = session.embeddings
        self.latents: dict[int, Tensor] = {}
        self.most = int(data.cache_gib * 2**30) // (4 * 3 * recipe.generation.resolution**2)
        per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps * ranks.count()
        self.forward_passes = 2 * train.max_steps * per_step  # a backward pass counts like a forward one

    def after_step(self, steps: int) -> None:
        """Nothing follows the policy."""

    def cost(self) -> dict[str, Any]:
        """Nothing beside the seconds."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """A step follows from its number."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step, of this process; what they show follows from (seed, step) alone."""
        train = self.recipe.train
        for part in range(train.gradient_accumulation_steps):
            drawn = torch.Generator().manual_seed(seed_of(self.recipe.seed, "sft", step, part, ranks.number()))
            size = train.per_device_train_batch_size
            numbers = torch.randint(len(self.shown), (size,), generator=drawn).tolist()
            x0 = self.encoded(numbers)
            noise = torch.randn(x0.shape, generator=drawn).to(x0.device)
            uniform = torch.rand(size, generator=drawn).clamp(1e-3, 1 - 1e-3).to(x0.device)
            hidden = torch.rand(size, generator=drawn) < self.recipe.generation.prompt_dropout
            prompts = [
                None if hide else pictures.prompt(self.shown[at])
                for at, hide in zip(numbers, hidden.tolist(), strict=True)
            ]
            found = denoising.errors(self.generator, x0, noise, uniform, self.embeddings(prompts))
            yield found.mean(), {}

    def encoded(self, numbers: Sequence[int]) -> Tensor:
        """Latents of some pictures."""
        size, pipe = self.recipe.generation.resolution, self.generator.pipe
        for at in dict.fromkeys(numbers):
            if at not in self.latents:  # each alone, as prompts are: the same bits in a resumed run
                pixels = torch.from_numpy(pictures.render(self.shown[at], at, size)).permute(2, 0, 1)[None]
                self.latents[at] = self.generator.family.encode_images(pipe, pixels.float() / 127.5 - 1)[0].cpu()
        found = torch.stack([self.latents[at] for at in numbers]).to(self.generator.device)
        if len(self.latents) > self.most:
            self.latents.clear()
        return found
