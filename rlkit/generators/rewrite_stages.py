"""The stages of a prompt rewriter: SFT on examples, DPO on judged rewrites, GRPO; each by TRL's trainer (1.16).

A stage starts from a folder or hub id and ends as an ordinary Hugging Face folder, final/ in a folder of its own. One
that is finished is kept; the rewrites for dpo are judged in chunks, each a file, and those that are there are read.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback

from data_synth.world.short_prompts import Example
from reward_models.completions import text_of
from rlkit.errors import DataError, ModelError
from rlkit.generators.rewrites import Judge, answer, ask, sample
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder, write_folder, write_text
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker, write_jsonl
from rlkit.running.training import MarkCheckpoints, StopWhenAsked, WholeCheckpoints, fit, training_arguments

CHUNK = 16  # prompts whose rewrites are judged between two files: what a kill can lose
DRAWN = "drawn.json"  # in a checkpoint


@dataclass(frozen=True)
class Prompts:
    """Short prompts to train on and to measure, and the examples of sft."""

    train: list[str]
    held_out: list[str]
    examples: list[Example]


@dataclass(frozen=True)
class Stage:
    """What every stage works with."""

    name: str
    recipe: Recipe
    """With the stage's own steps and rate in `train`."""
    folder: RunFolder
    model: Any
    tokenizer: Any
    prompts: Prompts
    judge: Judge
    progress: Progress


def train_stage(
    name: str,
    recipe: Recipe,
    folder: RunFolder,
    source: Path | str,
    prompts: Prompts,
    judge: Judge,
    tracker: Tracker,
    progress: Progress,
) -> dict[str, float]:
    """Train one stage from the folder `source`, into its final/; the seconds of training, and the pictures that were
    drawn. A finished one is kept.

    Pictures are counted as an uninterrupted run draws them: those up to the checkpoint that training goes on from, and
    those after it; what a kill lost after the checkpoint is drawn again, and counts once.
    """
    part = folder.part(name)
    took = part.path / "cost.json"
    if part.final.is_dir() and took.is_file():
        return json.loads(took.read_text(encoding="utf-8"))
    settings = recipe.rewriter
    train = replace(recipe.train, max_steps=settings.steps[name], learning_rate=settings.learning_rates[name])
    model, tokenizer = load(source, recipe)
    stage = Stage(name, replace(recipe, train=train), part, model, tokenizer, prompts, judge, progress)
    trainer, rows = TRAINERS[name](stage)
    judge.drawn = _drawn_until(part.last_checkpoint())
    title = f"{name}: training on {rows:,} {ROWS[name]}"
    seconds = fit(trainer, stage.recipe, rows, part, tracker.part(name, part), progress, stage=title)
    pictures = judge.drawn + (_judged_pictures(part.path, settings.num_pictures) if name == "dpo" else 0)
    trained = trainer.model if recipe.model.lora is None else trainer.model.merge_and_unload()
    write_folder(part.final, lambda path: (trained.save_pretrained(path), tokenizer.save_pretrained(path)))
    cost = {"train_seconds": round(seconds, 1), "pictures": pictures}
    part.write_json("cost.json", cost)
    return cost


def sft(stage: Stage) -> tuple[Trainer, int]:
    """TRL's trainer on the examples, and how many they are."""
    from trl import SFTConfig, SFTTrainer

    instruction, tokenizer = stage.recipe.rewriter.instruction, stage.tokenizer
    rows = [
        {"prompt": ask(tokenizer, instruction, one.prompt), "completion": answer(tokenizer, one.completion)}
        for one in stage.prompts.examples
    ]
    return _trainer(stage, whole(SFTTrainer), partial(SFTConfig, completion_only_loss=True), rows), len(rows)


def dpo(stage: Stage) -> tuple[Trainer, int]:
    """TRL's trainer on judged rewrites, and how many pairs they make. Raises DataError where none can be told apart."""
    from trl import DPOConfig, DPOTrainer

    settings, types = stage.recipe.rewriter, stage.recipe.loss.types
    rows = list(filter(None, (_pair(stage, row) for row in judged(stage))))
    if not rows:
        raise DataError(
            f"rewriter: of {settings.num_prompts} prompts none has two rewrites that differ by more than min_margin "
            f"{settings.min_margin:g}; raise temperature or num_rewrites, or lower min_margin."
        )
    make = partial(
        DPOConfig, beta=settings.beta["dpo"], loss_type=list(types), loss_weights=[float(one) for one in types.values()]
    )
    return _trainer(stage, whole(DPOTrainer), make, rows), len(rows)


def grpo(stage: Stage) -> tuple[Trainer, int]:
    """TRL's trainer with rewards that draw pictures, and how many short prompts it goes through."""
    from trl import GRPOConfig, GRPOTrainer

    settings, judge = stage.recipe.rewriter, stage.judge
    rows = [{"prompt": ask(stage.tokenizer, settings.instruction, one), "short": one} for one in stage.prompts.train]
    make = partial(
        GRPOConfig, beta=settings.beta["grpo"], num_generations=settings.num_rewrites,
        temperature=settings.temperature, max_completion_length=settings.max_completion_length,
    )  # fmt: skip

    def reward(prompts, completions, short, **_):
        return [one.total(settings.keep_weight) for one in judge(short, [text_of(one).strip() for one in completions])]

    return _trainer(stage, partial(whole(GRPOTrainer), reward_funcs=reward), make, rows), len(rows)


TRAINERS: dict[str, Callable[[Stage], tuple[Trainer, int]]] = {"sft": sft, "dpo": dpo, "grpo": grpo}
ROWS = {"sft": "examples", "dpo": "pairs", "grpo": "prompts"}


def whole(kind: type[Trainer]) -> type[Trainer]:
    """TRL's trainer with our checkpoints."""
    return type(kind.__name__, (WholeCheckpoints, kind), {})


class KeepDrawn(TrainerCallback):
    """Writes into each checkpoint how many pictures the judge had drawn for the stage by then. The judge remembers none
    of them, so that a run that goes on draws after the checkpoint what it would have drawn without stopping."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def on_save(self, args, state, control, **_: object) -> None:
        """After the trainer's files of a checkpoint, in the one process of a rewriter."""
        write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / DRAWN, json.dumps(self.judge.drawn))


def _drawn_until(checkpoint: Path | None) -> int:
    """How many pictures a stage had drawn up to its checkpoint."""
    return 0 if checkpoint is None else json.loads((checkpoint / DRAWN).read_text(encoding="utf-8"))


def _trainer(stage: Stage, kind: Callable[..., Trainer], make: Callable, rows: list[dict[str, Any]]) -> Trainer:
    lora = stage.recipe.model.lora
    if lora is not None:
        from peft import LoraConfig

        lora = LoraConfig(**vars(lora), task_type="CAUSAL_LM")
    return kind(
        model=stage.model,
        args=training_arguments(stage.recipe, stage.folder, make),
        train_dataset=Dataset.from_list(rows),
        processing_class=stage.tokenizer,
        callbacks=[
            KeepDrawn(stage.judge),  # before the mark, which lists every file
            MarkCheckpoints(stage.folder, stage.recipe.train.save_total_limit),
            StopWhenAsked(),
        ],
        peft_config=lora,
    )


def judged(stage: Stage) -> list[dict[str, Any]]:
    """`short rewrites totals rewards kept` for rewriter.num_prompts short prompts; chunks that are there are read."""
    settings, found = stage.recipe.rewriter, []
    shorts = stage.prompts.train[: settings.num_prompts]
    stage.progress.stage(f"dpo: judging {settings.num_rewrites} rewrites of {len(shorts)} prompts", len(shorts))
    for start in range(0, len(shorts), CHUNK):
        path, some = stage.folder.path / f"judged-{start // CHUNK:04d}.jsonl", shorts[start : start + CHUNK]
        if not path.is_file():
            texts = sample(
                stage.model, stage.tokenizer, [ask(stage.tokenizer, settings.instruction, one) for one in some],
                count=settings.num_rewrites, temperature=settings.temperature,
                max_new_tokens=settings.max_completion_length, seed=stage.recipe.seed * 1_000_003 + start,
            )  # fmt: skip
            write_jsonl(path, _judge(stage, some, texts))
        found += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        stage.progress.advance(len(some))
    return found


def _judge(stage: Stage, shorts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """A row for each short prompt with the scores of its rewrites."""
    asked = [(short, text) for short, told in zip(shorts, texts, strict=True) for text in told]
    every = iter(stage.judge(*zip(*asked, strict=True)))
    rows, weight = [], stage.recipe.rewriter.keep_weight
    for short, told in zip(shorts, texts, strict=True):
        found = list(itertools.islice(every, len(told)))
        about = {"rewards": [one.reward for one in found], "kept": [one.kept for one in found]}
        rows.append({"short": short, "rewrites": told, "totals": [one.total(weight) for one in found], **about})
    return rows


def _judged_pictures(folder: Path, num_pictures: int) -> int:
    """How many pictures the judged rewrites of a folder took: equal ones were drawn once."""
    paths = sorted(folder.glob("judged-*.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return num_pictures * sum(len(set(row["rewrites"])) for row in rows)


def _pair(stage: Stage, row: dict[str, Any]) -> dict[str, Any] | None:
    """Best against worst of one prompt's rewrites; None where they are not told apart."""
    known = [(total, text) for total, text in zip(row["totals"], row["rewrites"], strict=True) if total is not None]
    if not known:
        return None
    best, worst = max(known), min(known)
    if best[0] - worst[0] <= stage.recipe.rewriter.min_margin:
        return None
    asked = ask(stage.tokenizer, stage.recipe.rewriter.instruction, row["short"])
    return {"prompt": asked, "chosen": answer(stage.tokenizer, best[1]), "rejected": answer(stage.tokenizer, worst[1])}


def load(source: Path | str, recipe: Recipe) -> tuple[Any, Any]:
    """The causal language model and tokenizer of a folder or hub id. Raises ModelError for what is none."""
    revision = recipe.model.revision if str(source) == recipe.model.id else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=recipe.model.dtype, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{source}: cannot be loaded as a causal language model: {first_line}") from error
    return model.to(ranks.device()), tokenizer
