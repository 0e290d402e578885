"""A prompt rewriter: a language model learns to write prompts that a frozen generator follows, by SFT, DPO and GRPO.

sft imitates examples of (short prompt, full prompt), the world's with mistakes on purpose; dpo prefers the best of the
model's own rewrites over the worst, https://huggingface.co/papers/2305.18290; grpo goes on sampling,
https://huggingface.co/papers/2402.03300. Rewrites are judged in rlkit/generators/rewrites.py; the training is TRL's
SFTTrainer, DPOTrainer and GRPOTrainer (1.16). Prompt rewriting by a generator's reward: PromptEnhancer,
https://huggingface.co/papers/2509.04545.

    <run>/sft, dpo, grpo     a stage each: checkpoints, and final/ when it is finished, an ordinary Hugging Face folder
    <run>/dpo/judged-*.jsonl every rewrite with its scores
    <run>/final              the last stage

Deviations: one process; with model.lora each stage's adapter is merged before the next one.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np

from data_synth.errors import DataError as Unreadable
from data_synth.jsonl import read_lines
from data_synth.world import short_prompts
from rlkit import gates
from rlkit.errors import DataError, ModelError
from rlkit.evaluate import intervals
from rlkit.evaluate.generator import diversity, shown_as
from rlkit.generators import gallery, reward_gate
from rlkit.generators.prompts import read_prompts
from rlkit.generators.rewrite_stages import Prompts, load, train_stage
from rlkit.generators.rewrites import Judge, ask, open_judge, sample
from rlkit.generators.session import keep_rows
from rlkit.models import tiny_language
from rlkit.recipe import Recipe
from rlkit.report.compare_table import differences
from rlkit.report.finish import finish
from rlkit.running import ranks
from rlkit.running.folder import RunFolder, write_folder
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import Tracker, open_tracker, write_jsonl

AT_ONCE = 64  # prompts rewritten in one batch when measuring
DRAWN_AT_ONCE = 16  # and drawn
GATE_PROMPTS = 64


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train stage by stage, measure each beside the prompts as typed. See recipes/rewriter.yaml."""
    quiet()
    diffusers.utils.logging.set_verbosity_error()  # that a sampled rewrite is cut at the encoder's length is expected
    if ranks.count() > 1:
        raise ModelError("algorithm: rewriter runs in one process; launch it without several.")
    stages = list(recipe.rewriter.steps)
    gated = bool(recipe.evaluate.held_out_rewards) and recipe.sampling.gate != "off" and stages != ["sft"]
    with Progress(folder.path.name, stages=2 * len(stages) + 1 + ("dpo" in stages) + gated) as progress:
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        prompts, judge = read(recipe), open_judge(recipe)
        start = _start(recipe, folder, prompts)
        costs = {}
        for name in stages:
            source = folder.path / "sft" / "final" if name != "sft" and "sft" in stages else start
            if name != "sft":
                pass_gate(source, prompts, judge, recipe, folder, progress)
            costs[name] = train_stage(name, recipe, folder, source, prompts, judge, tracker, progress)
        texts = {"short": prompts.held_out}
        texts |= {name: rewrite(folder.path / name / "final", prompts.held_out, recipe) for name in stages}
        drawn = {}
        for title, found in texts.items():
            progress.stage(f"{title}: drawing for {len(found)} held-out prompts", len(found))
            drawn[title] = measured(judge, prompts.held_out, found, progress)
        write_folder(folder.final, partial(shutil.copytree, folder.path / stages[-1] / "final"))
        results = _publish(recipe, folder, tracker, texts, drawn, costs)
        finish(folder, results)
        tracker.finish()


def pass_gate(
    source: Path | str, prompts: Prompts, judge: Judge, recipe: Recipe, folder: RunFolder, progress: Progress
) -> None:
    """The best of several rewrites by the rewards has to please the held-out judge more than the greedy one, on short
    prompts from the end of the list, of which no pairs are made where there are enough. Raises GateError where it
    does not and sampling.gate is stop."""
    settings = recipe.rewriter
    shorts = prompts.train[-GATE_PROMPTS:]
    if not len(judge.held_out) or gates.passed(recipe, folder):
        return
    progress.stage(f"reward gate: {settings.num_rewrites} rewrites of {len(shorts)} prompts", len(shorts))
    model, tokenizer = load(source, recipe)
    asked = [ask(tokenizer, settings.instruction, one) for one in shorts]
    options = {"max_new_tokens": settings.max_completion_length, "seed": recipe.seed}
    greedy = [one[0] for one in sample(model, tokenizer, asked, count=1, temperature=0, **options)]
    count, drawn = settings.num_rewrites, []
    for texts in sample(model, tokenizer, asked, count=count, temperature=settings.temperature, **options):
        drawn += texts
    judged = judge([short for short in shorts for _ in range(count)], drawn)
    best = []
    for at in range(len(shorts)):
        totals = [one.total(settings.keep_weight) for one in judged[at * count : (at + 1) * count]]
        known = [(total, -place) for place, total in enumerate(totals) if total is not None]
        best.append(drawn[at * count - max(known)[1]] if known else greedy[at])
        progress.advance()
    steps = recipe.generation.eval_inference_steps
    found = judge.look(
        [*zip(shorts, greedy, strict=True), *zip(shorts, best, strict=True)], settings.num_pictures, steps,
        purpose="evaluate",
    )  # fmt: skip
    values = [np.nan if one.held_out is None else one.held_out for one in found]
    about = f"the best of {count} rewrites of {len(shorts)} short prompts against the greedy one"
    gate = reward_gate.of_prompts(values[: len(shorts)], values[len(shorts) :], shorts, about)
    advice = "Raise rewriter.num_pictures or num_rewrites, or give rewards that see what the held-out judge sees"
    gates.settle("reward", " + ".join(judge.rewards.names), gate, advice, recipe, folder, progress)


def _publish(
    recipe: Recipe,
    folder: RunFolder,
    tracker: Tracker,
    texts: Mapping[str, Sequence[str]],
    drawn: Mapping[str, gallery.Drawn],
    costs: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Galleries, rewrites and rows in the run folder; the results. What is last in `drawn` is what was trained."""
    last, shown = list(drawn)[-1], recipe.generation.gallery_prompts
    headline = ("short", last)
    gallery.publish(folder, tracker, drawn, headline, first=shown, step=recipe.rewriter.steps[last])
    written = [
        {"prompt": short, "rewrites": {title: found[at] for title, found in texts.items()}}
        for at, short in enumerate(texts["short"])
    ]
    write_jsonl(folder.samples / "rewrites.jsonl", written)
    rows = {title: one.rows for title, one in drawn.items()}
    per_picture = recipe.generation.num_inference_steps * (2 if recipe.generation.guidance_scale > 1 else 1)
    passes = sum(cost["pictures"] for cost in costs.values()) * per_picture
    seconds = {name: cost["train_seconds"] for name, cost in costs.items()}
    keep_rows(folder, rows[last], float(passes), seconds[last])
    return {
        "systems": {title: intervals.summarise(of_system) for title, of_system in rows.items()},
        "differences": differences({title: [of_system] for title, of_system in rows.items()}),
        "headline": list(headline),
        "measured_on": "held-out prompts",
        "cost": {"train_seconds": seconds, "forward_passes": passes},
    }


def read(recipe: Recipe) -> Prompts:
    """The world's short prompts, or those of generation.prompts, and the examples. Raises DataError for bad files."""
    settings, data = recipe.rewriter, recipe.data
    if recipe.generation.prompts is not None:
        found = read_prompts(recipe)
        train, held_out = found.train, found.held_out
    else:
        train = short_prompts.typed(10**6, held=False, seed=data.world_seed)
        held_out = short_prompts.typed(recipe.evaluate.num_clips, held=True, seed=data.world_seed)
    if settings.examples is None:
        return Prompts(train, held_out, short_prompts.examples(data.num_clips, noise=settings.noise, seed=recipe.seed))
    examples = []
    try:
        for where, row in read_lines(settings.examples):
            if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("prompt", "completion")):
                raise DataError(f"{where}: expected the texts `prompt` and `completion`.")
            examples.append(short_prompts.Example(row["prompt"], row["completion"]))
    except Unreadable as error:
        raise DataError(str(error)) from None
    if not examples and "sft" in settings.steps:
        raise DataError(f"{settings.examples}: holds no examples.")
    hidden = set(held_out)
    return Prompts(train, held_out, [one for one in examples if one.prompt not in hidden])


def rewrite(folder: Path, shorts: Sequence[str], recipe: Recipe) -> list[str]:
    """Greedy rewrites by the model in a folder."""
    (model, tokenizer), settings, found = load(folder, recipe), recipe.rewriter, []
    model.eval()
    for start in range(0, len(shorts), AT_ONCE):
        asked = [ask(tokenizer, settings.instruction, one) for one in shorts[start : start + AT_ONCE]]
        length = settings.max_completion_length
        texts = sample(model, tokenizer, asked, count=1, temperature=0, max_new_tokens=length, seed=0)
        found += [text for (text,) in texts]
    return found


def measured(judge: Judge, shorts: Sequence[str], texts: Sequence[str], progress: Progress) -> gallery.Drawn:
    """Rows and pictures of prompts as some system writes them; all systems draw from the same seeds."""
    generation, rows, pictures = judge.recipe.generation, [], []
    asked = list(zip(shorts, texts, strict=True))
    for start in range(0, len(asked), DRAWN_AT_ONCE):
        some = asked[start : start + DRAWN_AT_ONCE]
        found = judge.look(some, generation.eval_samples, generation.eval_inference_steps, purpose="evaluate")
        for (short, text), one in zip(some, found, strict=True):
            row = {"clip": short, "reward": one.reward, "kept": one.kept, "diversity": diversity(one.pictures)}
            if len(judge.held_out):
                row["held_out"] = one.held_out
            rows.append(row | {"length_words": float(len(text.split()))})
            pictures.append([gallery.thumbnail(shown_as(picture)) for picture in one.pictures])
        progress.advance(len(some))
    return gallery.Drawn(rows, pictures)


def _start(recipe: Recipe, folder: RunFolder, prompts: Prompts) -> Path | str:
    """model.id, or the folder of a fresh tiny model."""
    if recipe.model.id is not None:
        return recipe.model.id
    start, settings = folder.path / "start", recipe.rewriter
    if not start.is_dir():
        texts = [text for one in prompts.examples for text in (settings.instruction.format(prompt=one.prompt), *one)]
        model, tokenizer = tiny_language.build(texts, width=settings.width, layers=settings.layers, seed=recipe.seed)
        write_folder(start, lambda path: (model.save_pretrained(path), tokenizer.save_pretrained(path)))
    return start
