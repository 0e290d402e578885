"""A scaled adapter is what PEFT's own scaling gives, and unscaled it has its former bits."""

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from rlkit.models import adapter_scale


def adapted():
    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), LoraConfig(r=2, target_modules=["0", "2"])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def test_it_is_what_peft_calls_scale_layer():
    ours, theirs, x = adapted(), adapted(), torch.randn(4, 6)
    for module in theirs.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(0.3)
    before, bits = ours(x), {name: one.clone() for name, one in ours.state_dict().items()}
    with adapter_scale.scaled(ours, 0.3):
        torch.testing.assert_close(ours(x), theirs(x))
    assert not torch.allclose(before, theirs(x))
    assert all(torch.equal(one, bits[name]) for name, one in ours.state_dict().items())
    adapter_scale.multiply(ours, 0.3)
    torch.testing.assert_close(ours(x), theirs(x))


def test_weights_by_name_are_scaled_alike():
    model = adapted()
    scaled = adapter_scale.times(model.state_dict(), 2.0)
    for name, one in model.state_dict().items():
        assert torch.equal(scaled[name], one * (2 if "lora_B" in name else 1))
