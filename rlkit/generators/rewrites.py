"""Rewritten prompts: sampled from a language model, judged by what a frozen generator draws for them.

A rewrite is judged by the short prompt that was typed: the mean reward of its pictures for the short prompt, plus how
much of that prompt it still says (`rewriter.keeps`). All rewrites of a prompt are drawn from the same seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import reward_models
from rlkit.engine import seed_of
from rlkit.errors import ModelError
from rlkit.generators import pairs
from rlkit.generators.prompts import Embeddings
from rlkit.models import generator as pipelines
from rlkit.models.generator import Generator
from rlkit.recipe import Model, Recipe
from rlkit.running import ranks
from rlkit.scoring import Rewards

AT_ONCE = 64  # pictures


@dataclass
class Judged:
    """What was found out about a rewrite; None where there is no score."""

    reward: float | None
    kept: float | None
    held_out: float | None = None
    pictures: list[Any] = field(default_factory=list, repr=False)

    def total(self, keep_weight: float) -> float | None:
        """The reward, plus `keep_weight` times what was kept; None where one of them is missing."""
        if self.reward is None or (self.kept is None and keep_weight):
            return None
        return self.reward + keep_weight * (self.kept or 0.0)


@dataclass
class Judge:
    """The generator and the rewards."""

    generator: Generator
    recipe: Recipe
    rewards: Rewards
    held_out: Rewards
    keeps: reward_models.Score
    embeddings: Embeddings
    drawn: int = 0
    """Pictures drawn so far; a stage of training sets it to what it had drawn when it begins or goes on."""

    def __call__(self, shorts: Sequence[str], rewrites: Sequence[str]) -> list[Judged]:
        """Judge rewrites, one to each short prompt, by rewriter.num_pictures; what comes twice is drawn once.

        Nothing is remembered from call to call: pictures depend, in their last bits, on what is drawn beside them, and
        a resumed run must end as if it had never stopped.
        """
        asked = list(dict.fromkeys(zip(shorts, rewrites, strict=True)))
        settings, steps = self.recipe.rewriter, self.recipe.generation.num_inference_steps
        found = dict(zip(asked, self.look(asked, settings.num_pictures, steps), strict=True))
        return [found[one] for one in zip(shorts, rewrites, strict=True)]

    @torch.no_grad()
    def look(
        self, asked: Sequence[tuple[str, str]], count: int, steps: int, *, purpose: str = "rewrite"
    ) -> list[Judged]:
        """Draw `count` pictures of each (short prompt, rewrite) in `steps` steps and judge them by the short prompt;
        `purpose` and the short prompt give the seeds. Only `purpose="evaluate"` asks the held-out judge."""
        drawing = replace(self.recipe, generation=replace(self.recipe.generation, num_inference_steps=steps))
        shorts, texts = ([one[at] for one in asked for _ in range(count)] for at in (0, 1))
        seeds = [seed_of(self.recipe.seed, purpose, short, at) for short, _ in asked for at in range(count)]
        pictures: list[Any] = []
        for at in range(0, len(texts), AT_ONCE):
            rows = slice(at, at + AT_ONCE)
            rolled = pairs.draw(self.generator, drawing, self.embeddings, texts[rows], seeds[rows])
            pictures += self.generator.pictures(rolled.latents)
        self.drawn += len(pictures)
        kept = self.keeps(prompts=[short for short, _ in asked], completions=[text for _, text in asked])
        rewards = _means(self.rewards, shorts, pictures, count)
        held_out = _means(self.held_out, shorts, pictures, count) if purpose == "evaluate" else [None] * len(asked)
        own = [pictures[at : at + count] for at in range(0, len(pictures), count)]
        return [Judged(*one) for one in zip(rewards, kept, held_out, own, strict=True)]


def open_judge(recipe: Recipe) -> Judge:
    """Load the frozen generator and the rewards. Raises ModelError for what does not load."""
    settings = recipe.rewriter
    generator = pipelines.load(settings.generator, device=ranks.device())
    try:
        keeps = reward_models.load(settings.keeps, device=str(ranks.device()))
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise ModelError(f"rewriter.keeps: {settings.keeps} cannot be loaded: {error}") from error
    drawing = replace(recipe, model=Model(id=settings.generator))
    judges = Rewards(recipe.rewards), Rewards(recipe.evaluate.held_out_rewards)
    return Judge(generator, drawing, *judges, keeps, Embeddings(generator, recipe.data.cache_gib))


def ask(tokenizer, instruction: str, short: str) -> Any:
    """The prompt column of TRL's data sets: messages, or text for a tokenizer without a chat template."""
    told = instruction.format(prompt=short)
    return told + "\n" if tokenizer.chat_template is None else [{"role": "user", "content": told}]


def answer(tokenizer, text: str) -> Any:
    """The same for a completion."""
    return text if tokenizer.chat_template is None else [{"role": "assistant", "content": text}]


@torch.no_grad()
def sample(
    model, tokenizer, asked: Sequence[Any], *, count: int, temperature: float, max_new_tokens: int, seed: int
) -> list[list[str]]:
    """`count` rewrites for each of `asked` (see `ask`), in one batch from one seed; temperature 0 is greedy."""
    texts = asked
    if tokenizer.chat_template is not None:
        texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
    pad = tokenizer.eos_token if tokenizer.pad_token is None else tokenizer.pad_token
    tokenizer.pad_token = pad
    inputs = tokenizer(
        list(texts), return_tensors="pt", padding=True, padding_side="left",
        add_special_tokens=tokenizer.chat_template is None,
    ).to(model.device)  # fmt: skip
    options = {"do_sample": False} if temperature == 0 else {
        "do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(
            **inputs, max_new_tokens=max_new_tokens, num_return_sequences=count, pad_token_id=tokenizer.pad_token_id,
            **options,
        )  # fmt: skip
    found = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    found = [text.strip() for text in found]
    return [found[at : at + count] for at in range(0, len(found), count)]


def _means(rewards: Rewards, shorts: Sequence[str], pictures: Sequence[Any], count: int) -> list[float | None]:
    """The mean reward of each `count` pictures; None where no picture has a score, or there is no reward."""
    if not len(rewards):
        return [None] * (len(pictures) // count)
    values = rewards.total(rewards(shorts, pictures)).reshape(-1, count).nanmean(1).tolist()
    return [value if math.isfinite(value) else None for value in values]
