"""Direct distillation: few steps without guidance end where many steps, with it, do, from the same noise.

The teacher is the model as it was loaded: with LoRA, the denoiser without its adapter. It draws `distill.num_targets`
pictures of prompts and seeds; the student starts from the same noise, takes all its few steps with gradients, and the
loss is the mean squared difference of the final latents. As DiffSynth-Studio's Direct Distill
(https://github.com/modelscope/DiffSynth-Studio); there is no discriminator and no reward.

Deviations: the teacher's pictures are a fixed set, drawn once per run, where the original draws anew; a run that is
resumed draws those again that it needs, to the same bits.
"""

import random
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from rlkit import engine
from rlkit.engine import seed_of
from rlkit.evaluate.generator import Sampled
from rlkit.generators import session as sessions
from rlkit.generators.session import Session
from rlkit.losses.diffusion import squared_error
from rlkit.models import sampling
from rlkit.models.generator import POLICY, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, save, measure beside the teacher at its own and at the student's number of steps. See
    recipes/distill.yaml."""
    generation, few = recipe.generation, recipe.generation.num_inference_steps
    teacher = Sampled(recipe.distill.teacher_steps, generation.guidance_scale)
    sessions.run(
        recipe,
        folder,
        start,
        Distillation,
        systems={"teacher": REFERENCE, "teacher_few": REFERENCE, "student": POLICY},
        sampled={
            "teacher": teacher,
            "teacher_few": Sampled(few, generation.guidance_scale),
            "student": Sampled(few, 1.0),
        },
    )


def start(recipe: Recipe) -> Generator:
    """The generator of model.id and its reference."""
    return sessions.load(recipe, None, ())


class Distillation:
    """The teacher's pictures, and the losses of the student's."""

    def __init__(self, session: Session) -> None:
        self.session, self.generator, self.recipe = session, session.generator, session.recipe
        self.size = self.recipe.train.per_device_train_batch_size
        self.parts = self.recipe.train.gradient_accumulation_steps
        self.blocks = self.recipe.distill.num_targets // self.size
        self.targets: dict[int, Tensor] = {}
        self.batches = 0  # of all processes
        generation = self.recipe.generation
        self.few = generation.num_inference_steps
        self.guided = generation.guidance_scale > 1 and not self.generator.family.takes_guidance(self.generator.pipe)
        many = self.recipe.distill.teacher_steps
        self.stage = f"distilling {many} steps into {self.few} on {self.blocks * self.size} pictures"

    @property
    def forward_passes(self) -> int:
        """Of all processes: the teacher's once a target, and the student's, whose backward pass counts like one."""
        once = self.recipe.distill.teacher_steps * (2 if self.guided else 1)
        return self.size * (min(self.batches, self.blocks) * once + self.batches * 2 * self.few)

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step, of this process; a batch is one block of targets."""
        for part in range(self.parts):
            block = self.block_at((step * self.parts + part) * ranks.count() + ranks.number())
            self.batches += ranks.count()
            latents = self.drawn(block, POLICY, Sampled(self.few, 1.0), grad_steps=self.few)
            yield squared_error(latents, self.target(block)).mean(), {}

    def block_at(self, position: int) -> int:
        """The block at a position of the endless order: every pass is another permutation."""
        again, place = divmod(position, self.blocks)
        order = list(range(self.blocks))
        random.Random(f"{self.recipe.seed}/{again}/targets").shuffle(order)
        return order[place]

    def target(self, block: int) -> Tensor:
        """Where the teacher ends; a block is always drawn together, so to the same bits."""
        if block not in self.targets:
            generation = self.recipe.generation
            teacher = Sampled(self.recipe.distill.teacher_steps, generation.guidance_scale)
            self.targets[block] = self.drawn(block, REFERENCE, teacher, grad_steps=0).cpu()
        return self.targets[block].to(self.generator.device)

    def drawn(self, block: int, name: str, how: Sampled, *, grad_steps: int) -> Tensor:
        """Final latents of a block's prompts and seeds."""
        numbers = range(block * self.size, (block + 1) * self.size)
        prompts, seed, generation = self.session.prompts, self.recipe.seed, self.recipe.generation
        embeddings = self.session.embeddings
        guided = how.guidance_scale > 1 and not self.generator.family.takes_guidance(self.generator.pipe)
        return sampling.rollout(
            self.generator,
            embeddings([prompts.train[prompts.at(number, seed)] for number in numbers]),
            [seed_of(seed, "distill", number) for number in numbers],
            height=generation.resolution,
            width=generation.resolution,
            num_frames=generation.num_frames,
            num_inference_steps=how.num_inference_steps,
            guidance_scale=how.guidance_scale,
            negative=embeddings([None]) if guided else None,
            name=name,
            grad_steps=grad_steps,
        ).latents

    def after_step(self, steps: int) -> None:
        """Nothing follows the policy."""

    def cost(self) -> dict[str, Any]:
        """How many pictures the teacher drew."""
        return {"targets": min(self.batches, self.blocks) * self.size}

    def state_dict(self) -> dict[str, Any]:
        """What was counted; targets are drawn again."""
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.batches = state_dict["batches"]
