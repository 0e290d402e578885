"""Patches through a matrix product: torch's convolution is the reference."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from rlkit.caption import patch_projection
from rlkit.models import prepare
from rlkit.models.tiny import build


def pair(**options):
    """A convolution and the projection with the same weights."""
    torch.manual_seed(0)
    convolution = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4), **options)
    projection = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4), **options)
    projection.load_state_dict(convolution.state_dict())
    patch_projection.replace(nn.Sequential(projection))
    return convolution, projection


def convolved(monkeypatch):
    """Calls of the convolution's own forward from now on."""
    calls = []
    forward = nn.Conv3d.forward
    monkeypatch.setattr(nn.Conv3d, "forward", lambda self, x: calls.append(x.shape) or forward(self, x))
    return calls


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_the_convolution_s(bias, monkeypatch):
    convolution, projection = pair(bias=bias)
    patches = torch.randn(5, 3, 2, 4, 4)
    calls = convolved(monkeypatch)
    ours = projection(patches)
    assert not calls
    theirs = convolution(patches)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for out in (ours, theirs):
        out.square().sum().backward()
    for one, other in zip(projection.parameters(), convolution.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("options", "size"), [({}, (2, 8, 8)), ({"padding": (0, 4, 4)}, (2, 4, 4))])
def test_larger_inputs_are_convolved(options, size):
    convolution, projection = pair(**options)
    patches = torch.randn(2, 3, *size)
    assert torch.equal(projection(patches), convolution(patches))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(("vision", "kind"), [("full", patch_projection.PatchProjection), ("frozen", nn.Conv3d)])
def test_towers_that_are_trained_project_and_are_saved_as_they_were(family, vision, kind, tmp_path):
    sizes = {"hidden_size": 32, "num_layers": 1, "vision_hidden_size": 32, "vision_depth": 2}
    model, processor = build(family, ["A red circle moves left."] * 5, **sizes)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    prepare(model, processor, vision=vision)
    assert type(model.model.visual.patch_embed.proj) is kind
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded.model.visual.patch_embed.proj) is nn.Conv3d
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, before[name]), name
