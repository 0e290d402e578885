"""A whole chain in miniature, run once: a tiny captioner from nothing, then DPO on it, in a folder of its own."""

import os
from pathlib import Path

import pytest

HEADER, FOOTER = 'rlkit: r"""\n', '# """; import rlkit; rlkit.main(__name__)\n'

BASE = """\
algorithm: sft
model: {init: qwen2_5_vl, vision: full}
data: {num_clips: 16, noise: {}, probe_share: 0.3, num_frames: 6, frame_size: 56}
train: {learning_rate: 1.0e-3, per_device_train_batch_size: 8, max_steps: 4, logging_steps: 2, save_steps: 2}
evaluate: {num_clips: 4, max_new_tokens: 8, probe_clips: 2, controls: [blind]}
"""

DPO = """\
algorithm: dpo
needs: [base_caption.yaml]
model: {id: runs/base_caption/final}
data: {num_clips: 12, num_labelled: 8, num_frames: 6, frame_size: 56}
negatives: [own_samples, order_swap, verbose, event_replace]
num_negatives: 3
sampling: {num_samples: 2, judge: world, max_completion_length: 8}
loss: {types: {softmax: 1.0, sft: 0.5}, beta: 0.2, anchor: 0.1, video_conditional: 0.1}
train: {learning_rate: 1.0e-3, per_device_train_batch_size: 4, max_steps: 6, logging_steps: 1, save_steps: 2}
guards: {every: 3, num_clips: 4}
evaluate: {num_clips: 4, max_new_tokens: 8, probe_clips: 2, controls: [blind], compare_with: {base: runs/base_caption}}
variants: {dpo_k1: {num_negatives: 1}, dpo_shuffled: {data.shuffle_frames: true}}
"""


def write_recipes(folder: Path) -> None:
    """base_caption.yaml and dpo_caption.yaml, launchable."""
    for name, text in (("base_caption", BASE), ("dpo_caption", DPO)):
        (folder / f"{name}.yaml").write_text(HEADER + text + FOOTER, encoding="utf-8")


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """The folder in which dpo_caption.yaml was run, with all it needs."""
    from rlkit.run import run

    folder = tmp_path_factory.mktemp("chain")
    write_recipes(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run("dpo_caption.yaml")
    finally:
        os.chdir(before)
    return folder
