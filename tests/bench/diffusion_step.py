"""Steps of generators' training against the bare passes they are made of, in one process, on one SD3-like pipeline.

dpo: a whole optimiser step of `algorithm: diffusion_dpo` (cached latents and embeddings, noise, loss, metrics,
clipping, AdamW), against its passes alone: policy and reference on chosen and rejected, four forward and two backward.
The reference is the denoiser without its adapter. Caches are full, as after the first pass over the data.
nft: a whole epoch of `algorithm: nft` (rollout, decoding, reward, advantages, a training step, `old` and `ema`),
against the sampler's passes, the three forward passes of training (policy, old, reference) and the backward one.
memory: resident set (on a GPU: what torch allocated) after the first steps and after many more of both; growth is what
steps leave behind.

Wall time is of a machine that may be shared; `ratio_cpu_time` is of the same steps in processor time. A GPU is used
where there is one; --width 1536 --layers 24 --resolution 64 has the denoiser of Stable Diffusion 3 medium at 512 x 512.

    python tests/bench/diffusion_step.py [--repetitions 5] [--threads 1] [--width 128] [--layers 3] [--resolution 32]
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from data_synth.world import pictures
from rlkit import engine
from rlkit.generators import session as sessions
from rlkit.models import sampling, tiny_pipelines
from rlkit.models.generator import OLD, REFERENCE
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.train import diffusion_dpo, nft

SHARED = """\
model: {{id: {folder}/flow, lora: {{}}}}
rewards: [saturation]
guard: {{every: 0}}
train: {{learning_rate: 1.0e-4, per_device_train_batch_size: {size}, max_steps: 1000, lr_scheduler_type: constant}}
evaluate: {{num_clips: 2}}
"""
PAIRS = """\
algorithm: pairs_image
model: {{id: {folder}/flow}}
rewards: [saturation]
generation: {{num_inference_steps: 1, num_generations: 2, resolution: {resolution}}}
image_pairs: {{num_groups: 16}}
out: {folder}/pairs
"""
DPO = """\
algorithm: diffusion_dpo
data: {{source: pairs, pairs: {folder}/pairs}}
generation: {{resolution: {resolution}}}
"""
NFT = """\
algorithm: nft
data: {{num_clips: 16}}
generation: {{num_inference_steps: 4, num_generations: 4, resolution: {resolution}}}
"""


def recipe_of(text: str, folder: Path, size: int, resolution: int):
    """The recipe, through its file."""
    path = folder / "bench.yaml"
    path.write_text((text + SHARED).format(folder=folder, size=size, resolution=resolution))
    return load(path)


def dpo_steps(folder: Path, size: int, resolution: int):
    """(our step, the bare passes), functions without arguments."""
    recipe = recipe_of(DPO, folder, size, resolution)
    generator = diffusion_dpo.start(recipe)
    session = sessions.open_session(recipe, generator)
    algorithm = diffusion_dpo.Dpo(session, RunFolder(folder / "run"))
    loop = engine.Loop(generator, recipe, algorithm)
    everything = list(range(len(algorithm.data.table)))
    session.embeddings(algorithm.data.captions(everything))  # the first pass over the data fills both caches
    for side in (0, 1):
        algorithm.data.encoded(everything, [side] * len(everything))
    rows = algorithm.data.numbers(0, size)
    pair, times, _ = algorithm.noised(rows, torch.Generator().manual_seed(0))
    text = session.embeddings(algorithm.data.captions(rows) * 2)

    def ours() -> None:
        loop.take(algorithm.losses(loop.step))
        algorithm.after_step(loop.step)

    def bare() -> None:
        with torch.no_grad():
            generator.predict(pair.samples, times, text, name=REFERENCE)
        (generator.predict(pair.samples, times, text) - pair.targets).square().mean().backward()
        clear(generator)

    return ours, bare


def nft_steps(folder: Path, size: int, resolution: int):
    """(our epoch, the bare passes)."""
    recipe = recipe_of(NFT, folder, size, resolution)
    generator = nft.start(recipe)
    session = sessions.open_session(recipe, generator)
    algorithm = nft.Nft(session)
    loop = engine.Loop(generator, recipe, algorithm)
    session.embeddings(session.prompts.train)  # as after the first pass over the prompts
    prompts = session.prompts.train[: size // 4]
    text = session.embeddings([one for one in prompts for _ in range(4)])
    noise = torch.randn((size, 3, resolution, resolution), generator=torch.Generator().manual_seed(0)).to(
        ranks.device()
    )
    scheduler, _ = sampling.schedule(generator, recipe.generation.num_inference_steps, tuple(noise.shape[1:]))
    levels, times = scheduler.sigmas.to(noise.device), scheduler.timesteps.to(noise.device)

    def ours() -> None:
        loop.take(algorithm.losses(loop.step))
        algorithm.after_step(loop.step)

    def bare() -> None:
        latents = noise
        with torch.no_grad():
            for at, one in enumerate(times):
                velocity = generator.predict(latents, one.expand(size), text, name=OLD)
                latents = latents + (levels[at + 1] - levels[at]) * velocity
            for name in (OLD, REFERENCE):
                generator.predict(latents, times[1].expand(size), text, name=name)
        generator.predict(latents, times[1].expand(size), text).square().mean().backward()
        clear(generator)

    return ours, bare


def clear(generator) -> None:
    """Gradients of what was trained."""
    for parameter in generator.parameters():
        parameter.grad = None


def timed(ours, bare, repetitions: int) -> dict[str, float]:
    """Medians of alternating repetitions, after one of each to warm up."""
    found: dict[str, list[float]] = {"ours": [], "ours_cpu": [], "peer": [], "peer_cpu": []}
    ours(), bare()
    for _ in range(repetitions):
        for name, step in (("ours", ours), ("peer", bare)):
            gc.collect()
            began, began_cpu = time.perf_counter(), time.process_time()
            step()
            if not ranks.on_cpu():
                torch.cuda.synchronize()
            found[name].append(time.perf_counter() - began)
            found[f"{name}_cpu"].append(time.process_time() - began_cpu)
    return {name: statistics.median(values) for name, values in found.items()}


def case(name: str, found: dict[str, float], limit: float) -> dict[str, object]:
    """One line of the result."""
    return {
        "case": name,
        "ours_s": round(found["ours"], 4),
        "peer_s": round(found["peer"], 4),
        "ratio": round(found["ours"] / found["peer"], 3),
        "ratio_cpu_time": round(found["ours_cpu"] / found["peer_cpu"], 3),
        "limit": limit,
    }


def sentence(one: dict[str, object]) -> str:
    """One case for people."""
    times = f"{one['ours_s']} s, bare passes {one['peer_s']} s"
    return f"{one['case']}: {times}, {one['ratio']}x of at most {one['limit']} ({one['ratio_cpu_time']}x in CPU time)"


def resident_mib() -> float:
    """What this process holds in memory now, on the GPU where one is used."""
    if not ranks.on_cpu():
        return torch.cuda.memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def main() -> None:
    """Print a line per case, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--size", type=int, default=8, help="pairs, and pictures of a rollout, per step")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--memory-steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")
    with tempfile.TemporaryDirectory() as made:
        folder, size = Path(made), arguments.size
        texts = [pictures.prompt(one) for one in pictures.descriptions()]
        shape = {"size": arguments.resolution, "width": arguments.width, "layers": arguments.layers}
        pipe = tiny_pipelines.flow_default(texts, patch_size=2, **shape)
        pipe.save_pretrained(folder / "flow")
        (folder / "pairs.yaml").write_text(PAIRS.format(folder=folder, resolution=arguments.resolution))
        launch(folder / "pairs.yaml")
        dpo, epoch = (make(folder, size, arguments.resolution) for make in (dpo_steps, nft_steps))
        cases = []
        for name, steps, limit in (("dpo step", dpo, 1.05), ("nft epoch", epoch, 1.1)):
            cases.append(case(name, timed(*steps, arguments.repetitions), limit))
            print(sentence(cases[-1]), flush=True)
        first = resident_mib()
        for _ in range(arguments.memory_steps // 2):
            dpo[0](), epoch[0]()
        last = resident_mib()
        cases.append({"case": "memory", "steps": arguments.memory_steps, "first_mib": round(first, 1),
                      "last_mib": round(last, 1), "growth_mib": round(last - first, 1)})  # fmt: skip
    device = "cpu" if ranks.on_cpu() else torch.cuda.get_device_name()
    print(json.dumps({"bench": "diffusion_step", "device": device, "cases": cases}))


if __name__ == "__main__":
    main()
