"""`rlkit pick`: make n pictures for each prompt, or n captions of each clip, and keep the best by a mix of rewards."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import ModelError

EXAMPLES = """\
  rlkit pick runs/diffusion_nft/final prompts.txt --make 10 --keep 4 --rewards world_picture --out picks/
  rlkit pick runs/base_flow/final world --make 64 --keep 1 --out curve/ \\
      --rewards 'world_picture: {parts: [colour]}' --held-out 'world_picture: {parts: [count]}'
  rlkit pick runs/dpo_caption/final clips/ --make 8 --keep 2 --rewards ./my_reward.py --out captions/ --pairs

A reward is written as in a recipe: a name, a path, or `name: {option: value, weight: 2.0}`; several are normalised
for each prompt before they are weighed and added. The folder gets picks.jsonl, pictures/, page.html and results.json:
what best of 1, 2, 4, ... gives by the rewards and by --held-out, with intervals over prompts, and its KL from the
model. The same command again goes on where it was stopped; new lines in the file of prompts are added."""


def main(argv: Sequence[str]) -> int:
    """Entry of `rlkit pick`; the exit code."""
    given = _parser().parse_args(list(argv))
    if not 1 <= given.keep <= given.make:
        raise ModelError(f"rlkit pick: --keep {given.keep} of --make {given.make}; at least 1 and at most all.")
    if given.pairs and given.make < 2:
        raise ModelError("rlkit pick: --pairs needs a better and a worse one; --make at least 2.")
    from rlkit.pick import captions, pictures, work
    from rlkit.running.progress import quiet

    quiet()
    of_clips = given.prompts != "world" and (Path(given.prompts).is_dir() or Path(given.prompts).suffix == ".jsonl")
    source = (captions if of_clips else pictures).open_source(given)
    results = work.pick(source, given.out, pairs=given.pairs)
    print(work.summary(results, given.out))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlkit pick",
        description=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", help="a pipeline, a captioner, or a run's final/; an adapter's base is the run's")
    parser.add_argument("prompts", help="a prompt a line; `world`: its held-out ones; a folder of clips or .jsonl")
    parser.add_argument("--make", type=_count, default=10, metavar="N", help="samples of each prompt (default 10)")
    parser.add_argument("--keep", type=_count, default=1, metavar="K", help="of which the best K are kept (default 1)")
    parser.add_argument("--rewards", nargs="+", required=True, metavar="REWARD", help="what ranks them")
    parser.add_argument("--held-out", nargs="+", default=[], metavar="REWARD", help="judges that do not rank")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--pairs", action="store_true", help="also write best against worst as preference pairs")
    parser.add_argument("--limit", type=_count, help="the first so many prompts (of `world`: default 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=_count, default=32, help="samples made at once; changes speed and memory")
    parser.add_argument("--base", help="pipeline below an adapter; default: model.id of the run's recipe")
    parser.add_argument("--num-inference-steps", type=_count, help="default: as the run measured, or 20")
    parser.add_argument("--guidance-scale", type=float, help="default: as the run measured, or 1")
    parser.add_argument("--resolution", type=_count, help="side in pixels; default: the run's, or 32")
    parser.add_argument("--num-frames", type=_count, help="of a clip that is made or seen; default: the run's")
    parser.add_argument("--temperature", type=float, default=1.0, help="of captions")
    parser.add_argument("--max-new-tokens", type=_count, default=64, help="of captions")
    return parser
