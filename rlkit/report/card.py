"""Model cards: README.md of a run folder and of its final/, with metadata that the Hugging Face Hub accepts.

Written from the run folder alone. What got worse, which guards alarmed and what was not measured is said under Limits.
"""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from rlkit.evaluate.names import describe, is_detail, system_title
from rlkit.recipe.contradictions_generators import GENERATOR_ALGORITHMS
from rlkit.report import compare_table, pictures
from rlkit.report.data import RunData, read_run
from rlkit.running.folder import write_text

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ALGORITHMS = {
    "sft": "supervised fine-tuning (SFT)",
    "dpo": "direct preference optimisation (DPO)",
    "diffusion_sft": "flow matching on pictures with prompts",
    "nft": "likelihood-free online RL (DiffusionNFT)",
    "diffusion_dpo": "Diffusion-DPO",
    "diffusion_kto": "Diffusion-KTO",
    "ddpo": "policy gradients on sampler steps (DDPO)",
    "flow_grpo": "group-relative policy gradients on sampler steps (Flow-GRPO)",
    "online_dpo": "online Diffusion-DPO",
    "reward_backprop": "backpropagation of a reward (ReFL, DRaFT)",
    "bootstrap": "a LoRA that learns on from its own judged samples (RAFT, DreamBooth)",
    "bootstrap_caption": "SFT on its own judged captions beside few corrected ones (RAFT)",
    "distill": "direct distillation into few steps",
    "rewriter": "SFT, DPO and GRPO on judged rewrites",
}


def write_cards(path: Path) -> list[Path]:
    """Write README.md into the run folder and, where there is one, into its final/; returns the paths."""
    path = Path(path)
    run = read_run(path)
    written = [path / "README.md"]
    write_text(written[0], card(run, model_path=(path / "final").as_posix(), in_run_folder=True))
    if (path / "final").is_dir():
        written.append(path / "final" / "README.md")
        write_text(written[1], card(run, model_path=f"YOUR_NAME/{run.name}", in_run_folder=False))
    return written


def card(run: RunData, *, model_path: str, in_run_folder: bool) -> str:
    """The card's text; `model_path` is what the usage code loads."""
    before, after = compare_table.headline_systems(run.results)
    systems = run.results.get("systems") or {}
    after = after or next(iter(systems), None)
    paired = run.results.get("differences") or {}
    shown = [name for name in compare_table.metric_order(systems) if not is_detail(name)]
    base, family = origin(run.recipe)
    changes = compare_table.before_after(systems, before, after, paired) if before and after else []
    for system, lines in compare_table.retained(run.results):
        if after and system == system_title(after):
            changes += [line | {"name": f"{line['name']} of what was to be kept"} for line in lines]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    if is_generator(run):
        template, of_kind = "card_generator.md.j2", of_generator(run, before, after, in_run_folder)
    elif is_rewriter(run):
        template, of_kind = "card_rewriter.md.j2", of_rewriter(run)
    else:
        template, of_kind = "card.md.j2", of_captioner(run, before, after)
    if not in_run_folder:
        of_kind["example"] = None
    return environment.get_template(template).render(
        metadata=metadata(run, base, after).to_yaml(),
        name=run.name,
        method=ALGORITHMS.get(str(run.recipe.get("algorithm")), str(run.recipe.get("algorithm") or "rlkit")),
        base=base,
        family=family,
        data=_section(run.recipe, "data"),
        table=compare_table.markdown(systems, shown, paired) if systems else "",
        clips=max((i.get("n") or 0 for metrics in systems.values() for i in metrics.values()), default=0),
        after=system_title(after) if after else None,
        adapter=is_adapter(run.path),
        model_path=model_path,
        worse=[line for line in changes if line["verdict"] == "worse"],
        alarms=run.alarms,
        recipe=run.recipe_text.replace("```", "` ` `"),
        env=run.env,
        in_run_folder=in_run_folder,
        **of_kind,
    )


def of_captioner(run: RunData, before: str | None, after: str | None) -> dict[str, Any]:
    """What only a captioner's card says."""
    return {
        "example": _example(run, before, after),
        "frames": frames(run.recipe),
        "max_new_tokens": _section(run.recipe, "evaluate").get("max_new_tokens") or 64,
        "blind": (run.results.get("systems") or {}).get(after or "", {}).get("blind_order_exact"),
    }


def of_generator(run: RunData, before: str | None, after: str | None, in_run_folder: bool) -> dict[str, Any]:
    """What only a generator's card says."""
    generation = _section(run.recipe, "generation")
    few = run.recipe.get("algorithm") == "distill"
    sheets = [(name, f"samples/{name}.png") for name in dict.fromkeys((before, after)) if name]
    return {
        "sheets": [(system_title(n), p) for n, p in sheets if in_run_folder and (run.path / p).is_file()],
        "generation": generation,
        "steps": generation.get("num_inference_steps" if few else "eval_inference_steps") or 20,
        "guidance": 1.0 if few else generation.get("guidance_scale") or 1.0,
        "base_path": _section(run.recipe, "model").get("id") or "BASE",
        "prompt": next((str(row["prompt"]) for row in run.pictures if row.get("prompt")), "A red ball."),
        "world": generation.get("prompts") is None,
        "guard": pictures.guard_sentence(run.results),
    }


def of_rewriter(run: RunData) -> dict[str, Any]:
    """What only a prompt rewriter's card says."""
    settings = _section(run.recipe, "rewriter")
    path = run.path / "samples" / "rewrites.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:5] if path.is_file() else []
    rewrites = [(row["prompt"], list(row["rewrites"].values())[-1]) for row in map(json.loads, lines)]
    safe = [[html.escape(" ".join(text.split())).replace("|", "\\|") for text in pair] for pair in rewrites]
    return {
        "rewrites": safe,
        "generator": settings.get("generator"),
        "instruction": str(settings.get("instruction") or "{prompt}"),
        "length": settings.get("max_completion_length") or 48,
        "stages": list(settings.get("steps") or {}),
        "world": _section(run.recipe, "generation").get("prompts") is None,
    }


def is_rewriter(run: RunData) -> bool:
    """Whether the run trained a language model that writes prompts."""
    return run.recipe.get("algorithm") == "rewriter"


def is_generator(run: RunData) -> bool:
    """Whether the run trained what makes pictures, by its algorithm."""
    return run.recipe.get("algorithm") in GENERATOR_ALGORITHMS


def metadata(run: RunData, base: str | None, system: str | None) -> ModelCardData:
    """The card's YAML head; keys whose value is not known, or is no hub id, are left out."""
    data = _section(run.recipe, "data")
    dataset = str(data.get("pairs") or data.get("folder") or "")
    algorithm = run.recipe.get("algorithm")
    task, measured_on = ("text-to-image", "prompts") if is_generator(run) else ("video-text-to-text", "clips")
    if is_rewriter(run):
        task, measured_on = "text-generation", "prompts"
    library = "diffusers" if is_generator(run) else "peft" if is_adapter(run.path) else "transformers"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=str(data.get("source") or "folder"),
            dataset_name=f"held-out {measured_on} ({data.get('source') or 'folder'})",
            metric_type=name,
            metric_name=describe(name).title,
            metric_value=interval["value"],
        )
        for name, interval in (run.results.get("systems") or {}).get(system or "", {}).items()
        if interval.get("value") is not None and not is_detail(name)
    ]
    return ModelCardData(
        library_name=library,
        base_model=base,
        datasets=[dataset] if HUB_ID.fullmatch(dataset) and not Path(dataset).exists() else None,
        language=data.get("language") or "en",
        pipeline_tag=task,
        tags=["rlkit", *([str(algorithm)] if algorithm else []), *(["lora"] if is_adapter(run.path) else [])],
        model_name=run.name,
        eval_results=results or None,
    )


def origin(recipe: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(hub id of the first ancestor, None), or (None, family) of a model trained from nothing, or (None, None).

    Follows `model.id` through run folders: the base of a DPO run is that of the SFT run it started from.
    """
    for _ in range(16):
        model = _section(recipe, "model")
        name = model.get("id")
        if not isinstance(name, str):
            return None, model.get("init")
        parent = Path(name).parent / "recipe.yaml"
        if not parent.is_file():
            hub = HUB_ID.fullmatch(name) and not Path(name).exists() and not name.startswith("runs/")
            return (name, None) if hub else (None, None)
        recipe = read_run(parent.parent).recipe
    return None, None


def frames(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How the usage code samples a clip: as the recipe does."""
    data = _section(recipe, "data")
    return {"num_frames": data.get("num_frames"), "fps": data.get("fps"), "size": data.get("frame_size")}


def is_adapter(path: Path) -> bool:
    """Whether final/ holds an adapter: PEFT's, or the LoRA of a diffusers pipeline."""
    files = ("adapter_config.json", "pytorch_lora_weights.safetensors")
    return any((path / "final" / name).is_file() for name in files)


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = recipe.get(name)
    return section if isinstance(section, dict) else {}


def _example(run: RunData, before: str | None, after: str | None) -> dict[str, str] | None:
    """The first sampled clip that has a picture, texts made safe for Markdown."""
    for row in run.captions:
        captions = row.get("captions")
        if isinstance(captions, dict) and run.picture(row) and before in captions and after in captions:
            texts = {"truth": row.get("truth", ""), "before": captions[before], "after": captions[after]}
            safe = {name: html.escape(" ".join(str(text).split())).replace("|", "\\|") for name, text in texts.items()}
            return safe | {
                "frames": str(row["frames"]),
                "before_title": system_title(str(before)),
                "after_title": system_title(str(after)),
            }
    return None
