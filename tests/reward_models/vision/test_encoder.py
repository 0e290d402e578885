"""Every family loads, scores, is saved and loaded again with the same numbers; what would be random refuses."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextImageProcessor,
    ConvNextV2Config,
    ConvNextV2Model,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

import reward_models
from reward_models.vision.encoder import HEADS, Pool, Spec, VisionReward, backbone_of, build
from reward_models.vision.heads import Outputs
from reward_models.vision.measures import measures
from reward_models.vision.views import CROP, ViewPlan

VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"height": 32, "width": 32}
TEXT = {**VIT, "vocab_size": 50, "max_position_embeddings": 8}


def clip():
    config = CLIPConfig(text_config=TEXT, vision_config={**VIT, "image_size": 32, "patch_size": 8}, projection_dim=16)
    return CLIPModel(config), CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)


def siglip():  # SigLIP 2 of fixed resolution has these classes too
    config = SiglipConfig(text_config=TEXT, vision_config={**VIT, "image_size": 32, "patch_size": 8})
    return SiglipModel(config), SiglipImageProcessor(size=SQUARE)


def dinov2():
    sizes = {k: v for k, v in VIT.items() if k != "intermediate_size"}
    return Dinov2Model(Dinov2Config(**sizes, image_size=32, patch_size=8)), BitImageProcessor(
        size={"shortest_edge": 32}, crop_size=SQUARE
    )


def dinov3():
    return DINOv3ViTModel(DINOv3ViTConfig(**VIT, image_size=32, patch_size=8)), DINOv3ViTImageProcessor(size=SQUARE)


def convnextv2():
    config = ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
    return ConvNextV2Model(config), ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)


FAMILIES = {one.__name__: one for one in (clip, siglip, dinov2, dinov3, convnextv2)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """family -> a checkpoint as the hub has it."""
    root = tmp_path_factory.mktemp("hub")
    for name, make in FAMILIES.items():
        torch.manual_seed(0)
        model, processor = make()
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    return root


def spec(**options):
    outputs = Outputs(("overall", "sharpness"), ("anatomy",), 5, experts=("general", "portrait"), hidden=8)
    return Spec(outputs, ViewPlan(2, True, 4), **options)


def filled(reward):
    """With heads that say something: fresh ones are partly zeros."""
    torch.manual_seed(1)
    for part in (reward.heads, reward.pool):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return reward.eval()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("features", ["pooled", "statistics"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_reward_scores_as_before(folders, tmp_path, family, features):
    reward = filled(build(folders / family, spec(features=features, pooling="attention")))
    batch = reward.views.batch([noise(40, 50), noise(3, 36, 36, seed=1)], [(0.1, 0.1, 0.5, 0.5), None])
    with torch.no_grad():
        before = reward(**batch)
        assert before.mean.shape == (2, 2) and before.distribution.shape == (2, 5) and before.score.isfinite().all()
        reward.save(tmp_path / "final")
        again = VisionReward.load(tmp_path / "final")
        after = again(**again.views.batch([noise(40, 50), noise(3, 36, 36, seed=1)], [(0.1, 0.1, 0.5, 0.5), None]))
    assert torch.equal(before.score, after.score) and again.spec == reward.spec
    for suffix in ("*.bin", "*.pt", "*.pkl"):
        assert not list((tmp_path / "final").glob(suffix))
    score = reward_models.load(tmp_path / "final")  # knows its file by reward.json
    assert score(prompts=[""], completions=[noise(40, 50)], faces=[(0.1, 0.1, 0.5, 0.5)]) == pytest.approx(
        before.score[:1].tolist(), abs=1e-5
    )


@pytest.fixture
def saved(folders, tmp_path):
    filled(build(folders / "convnextv2", spec())).save(tmp_path / "final")
    return tmp_path / "final"


def test_every_head_tensor_that_is_missing_refuses_to_score(saved):
    whole = load_file(saved / HEADS)
    for name in whole:
        save_file({other: tensor for other, tensor in whole.items() if other != name}, saved / HEADS)
        with pytest.raises(ValueError, match=rf"{name} is missing.*does not score"):
            VisionReward.load(saved)


def test_other_tensors_than_the_heads_own_refuse_to_score(saved):
    whole = load_file(saved / HEADS)
    save_file(whole | {"heads.extra": torch.zeros(1)}, saved / HEADS)
    with pytest.raises(ValueError, match=r"heads.extra has no place"):
        VisionReward.load(saved)
    save_file(whole | {"heads.router.bias": torch.zeros(3)}, saved / HEADS)
    with pytest.raises(ValueError, match=r"heads.router.bias has shape \(3,\), expected \(2,\)"):
        VisionReward.load(saved)
    (saved / HEADS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a safetensors file"):
        VisionReward.load(saved)


def test_a_backbone_alone_refuses_to_score(folders, saved):
    with pytest.raises(FileNotFoundError, match="heads would be random numbers"):
        VisionReward.load(folders / "dinov2")
    (saved / HEADS).unlink()
    with pytest.raises(FileNotFoundError, match=HEADS):
        reward_models.load(saved)


def test_a_backbone_with_a_missing_tensor_refuses_to_score(saved):
    weights = load_file(saved / "model.safetensors")
    gone = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != gone}, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks {gone}"):
        VisionReward.load(saved)


def test_a_model_that_takes_no_pixels_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=50, **VIT)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a vision encoder"):
        backbone_of(tmp_path)


def test_padding_changes_nothing(folders):
    reward = filled(build(folders / "convnextv2", spec(pooling="attention", features="statistics")))
    short, long = noise(40, 40), noise(4, 40, 40, seed=1)
    with torch.no_grad():
        alone = reward(**reward.views.batch([short]))
        together = reward(**reward.views.batch([short, long]))
    torch.testing.assert_close(alone.score, together.score[:1])


def test_the_order_of_frames_matters_to_attention_and_not_to_the_mean(folders):
    frames = noise(4, 32, 32)
    for pooling, matters in (("mean", False), ("attention", True)):
        reward = filled(build(folders / "dinov2", Spec(spec().outputs, ViewPlan(0, True, 4), pooling=pooling)))
        with torch.no_grad():
            one, other = (reward(**reward.views.batch([f])).score for f in (frames, frames[::-1].copy()))
        assert torch.allclose(one, other, atol=1e-5) != matters


def test_fresh_attention_is_the_mean_and_zeros_stand_for_nothing():
    features, view = torch.randn(2, 3, 4), torch.tensor([[CROP, CROP, 1], [1, 1, 1]])
    time = torch.rand(2, 3)
    for pooling in ("mean", "attention"):
        pooled = Pool(4, pooling)(features, view == CROP, time)
        torch.testing.assert_close(pooled, torch.stack([features[0, :2].mean(0), torch.zeros(4)]))


def test_an_adapter_is_saved_and_merged_again(folders, tmp_path):
    from peft import LoraConfig, get_peft_model

    reward = build(folders / "dinov2", spec())
    reward.backbone = get_peft_model(reward.backbone, LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in reward.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    filled(reward).save(tmp_path / "final")
    assert (tmp_path / "final/adapter_model.safetensors").is_file()
    assert not (tmp_path / "final/model.safetensors").exists()
    batch = reward.views.batch([noise(40, 40)])
    with torch.no_grad():
        before, after = reward(**batch).score, VisionReward.load(tmp_path / "final")(**batch).score
        with reward.backbone.disable_adapter():
            bare = reward(**batch).score
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, bare, atol=1e-3)


def test_the_manifest_tells_what_loads_it(saved):
    told = json.loads((saved / "reward.json").read_text())
    assert told["reward"] == "aesthetic" and told["spec"]["outputs"]["attributes"] == ["overall", "sharpness"]


@pytest.mark.parametrize("family", FAMILIES)
def test_measures_see_the_pixels_as_they_were(folders, tmp_path, family):
    """Not as the processor normalised them; and a saved reward measures as before."""
    reward = filled(build(folders / family, spec(features="pooled", measures=True)))
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
    batch = reward.views.batch([picture])
    seen = reward.features(batch["pixel_values"][0])
    width = seen.shape[1] - build(folders / family, spec()).features(batch["pixel_values"][0]).shape[1]
    torch.testing.assert_close(seen[0, -width:], measures(picture[None])[0], atol=1e-3, rtol=1e-3)
    reward.save(tmp_path / "saved")
    loaded = VisionReward.load(tmp_path / "saved")
    assert torch.equal(loaded(**batch).mean, reward(**batch).mean)
