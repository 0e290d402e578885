"""Flow matching of a text-to-picture generator: the squared error of its velocity on pictures with true prompts.

Rectified flow, https://huggingface.co/papers/2209.03003; noise levels are drawn evenly and then shifted as the
pipeline's own sampler shifts them. With `model.init` the generator is made fresh, on the world's pictures: the start of
the recipes of preference and RL. A share of the pictures (`generation.prompt_dropout`) is shown without its prompt.

Deviation: noise levels are even, where SD3's paper draws them from a logit-normal distribution.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from data_synth.world import pictures
from rlkit import engine, sde
from rlkit.engine import seed_of
from rlkit.errors import ModelError
from rlkit.evaluate import intervals
from rlkit.evaluate.generator import Measure, constant
from rlkit.generators.prompts import Embeddings, read_prompts
from rlkit.generators.scoring import Rewards
from rlkit.losses.diffusion import squared_error
from rlkit.models import generator as pipelines
from rlkit.models import sampling
from rlkit.models.generator import POLICY, Generator
from rlkit.recipe import Recipe
from rlkit.report.page import write_report
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, last_screen, quiet
from rlkit.running.tracking import open_tracker


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, save, measure on held-out prompts. See recipes/base_flow.yaml."""
    quiet()
    with Progress(folder.path.name, stages=3) as progress:
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        generator = start(recipe)
        if generator.family.PREDICTION != "flow":
            raise ModelError(f"diffusion_sft trains flow models; {generator.family.PIPELINE} predicts noise.")
        data = Pictures(generator, recipe)
        stage = f"flow matching on {recipe.data.num_clips:,} pictures"
        seconds = engine.train(generator, recipe, folder, tracker, progress, data.losses, stage=stage)
        if folder.main:
            pipelines.save(generator, folder.final)
        ranks.wait()
        prompts = read_prompts(recipe).held_out
        judges = Rewards(recipe.rewards), Rewards(recipe.evaluate.held_out_rewards)
        measure = Measure(prompts, *judges, data.embeddings, recipe)
        rows = measure.rows(generator, POLICY, folder, progress, title="base", ratio=False)
        passes = constant(2.0 * recipe.train.max_steps * data.per_step, 1)  # a backward pass counts like a forward one
        systems = {"base": intervals.summarise(rows) | {"forward_passes": passes}}
        cost = {"train_seconds": {"base": seconds}}
        results = {"systems": systems, "measured_on": "held-out prompts", "cost": cost}
        folder.finish(results)
        if folder.main:
            write_report(folder.path)
        last_screen(results, folder.path)
        tracker.finish()


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
    pipe = tiny_pipelines.flow_default(
        texts, size=sizes.resolution, patch_size=sizes.patch_size, width=sizes.width, layers=sizes.layers,
        seed=recipe.seed,
    )  # fmt: skip
    return pipelines.prepare(pipe.to(ranks.device()))


class Pictures:
    """The world's training pictures as latents, encoded when they are first needed."""

    def __init__(self, generator: Generator, recipe: Recipe) -> None:
        data, train = recipe.data, recipe.train
        self.generator, self.recipe = generator, recipe
        self.shown = pictures.drawn(data.num_clips, seed=data.world_seed)
        self.embeddings = Embeddings(generator, data.cache_gib)
        self.latents: dict[int, Tensor] = {}
        self.most = int(data.cache_gib * 2**30) // (4 * 3 * recipe.generation.resolution**2)
        self.per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps * ranks.count()

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
            sigma = sampling.shifted(self.generator, uniform, tuple(x0.shape[1:]))
            times = sigma * self.generator.pipe.scheduler.config.num_train_timesteps
            velocity = self.generator.predict(sde.flow_sample(x0, noise, sigma), times, self.embeddings(prompts))
            yield squared_error(velocity, sde.flow_velocity(x0, noise)).mean(), {}

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
