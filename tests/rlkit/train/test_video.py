"""A tiny Wan through pairs, DPO and NFT with a reward of its frames; the galleries show frames side by side."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from reward_models.frame_change import change
from rlkit.generators.pair_table import decode
from rlkit.recipe.file import load
from rlkit.run import run as launch

REWARD = "rewards: [{frame_change: {measure: motion}}]\n"
GENERATION = (
    "generation: {resolution: 16, num_frames: 5, num_inference_steps: 2, num_generations: 4, "
    "eval_inference_steps: 2, eval_samples: 2}\n"
)
TRAIN = (
    "train: {learning_rate: 1.0e-2, per_device_train_batch_size: 4, max_steps: 2, logging_steps: 1}\n"
    "evaluate: {num_clips: 2, held_out_rewards: [{frame_change: {measure: steadiness}}]}\n"
    "guard: {every: 0}\n"
)


@pytest.fixture
def recipes(workplace, tiny_pipeline):
    """algorithm -> its recipe for the tiny Wan."""
    model = f"{{id: {tiny_pipeline('wan')}"
    lora = ", lora: {r: 4, lora_alpha: 8.0}}\n"
    return {
        "pairs_image": workplace("clips", f"algorithm: pairs_image\nmodel: {model}}}\n{REWARD}{GENERATION}"
                                          "image_pairs: {num_groups: 4}\n"),
        "diffusion_dpo": workplace("dpo", f"algorithm: diffusion_dpo\nneeds: [clips.yaml]\nmodel: {model}{lora}{REWARD}"
                                          f"{GENERATION}data: {{source: pairs, pairs: runs/clips}}\n{TRAIN}"),
        "nft": workplace("nft", f"algorithm: nft\nmodel: {model}{lora}{REWARD}{GENERATION}{TRAIN}"),
    }  # fmt: skip


def sheet(folder, name):
    return Image.open(folder.samples / f"{name}.png").size


def test_pairs_and_dpo(recipes):
    clips, dpo = launch(recipes["diffusion_dpo"])
    for row in pq.read_table(clips.path / "pairs-00000.parquet").to_pylist():
        both = [decode(row[f"jpg_{side}"], "", num_frames=5) for side in (0, 1)]
        assert [one.shape for one in both] == [(5, 16, 16, 3)] * 2
        for side, frames in enumerate(both):  # nothing is lost between what was scored and what is stored
            assert row[f"rewards_{side}"] == pytest.approx([change(frames)], rel=1e-5)
        assert row["num_frames"] == 5
    systems = dpo.results()["systems"]
    assert list(systems) == ["base", "dpo"]
    for system in systems.values():  # this reward and this judge add up to 1
        assert system["reward"]["value"] + system["held_out"]["value"] == pytest.approx(1.0)
        assert np.isfinite(system["velocity_ratio"]["value"]) and system["diversity"]["value"] > 0
    times = 96 // 80
    assert sheet(dpo, "dpo") == (2 * 80 * times + 2, 2 * 16 * times + 2)  # two clips of five frames a prompt
    assert (dpo.final / "pytorch_lora_weights.safetensors").is_file()


def test_nft(recipes):
    folder = launch(recipes["nft"])[-1]
    assert {"reward", "held_out", "diversity", "velocity_ratio"} <= set(folder.results()["systems"]["nft"])
    assert sheet(folder, "nft") == sheet(folder, "base") == (2 * 80 + 2, 2 * 16 + 2)


def test_clips_hold_as_many_frames_as_the_model_can_make(recipes):
    with pytest.raises(Exception, match="multiple of 4 plus 1"):
        launch(recipes["nft"], ["generation.num_frames=4"])
    assert load(recipes["nft"]).generation.num_frames == 5
