"""What is saved here gives, loaded by stock diffusers, the same picture: LoRA, kohya's LoRA, whole pipelines."""

import copy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rlkit.errors import ModelError
from rlkit.recipe import Lora

diffusers = pytest.importorskip("diffusers")

from rlkit.models import adapters, kohya  # noqa: E402
from rlkit.models import generator as generators  # noqa: E402

FAMILIES = list(generators.FAMILIES.values())
LORA = Lora(r=2, lora_alpha=8.0)  # alpha is not r: a reader or writer that forgets the scale is seen


@pytest.fixture
def pictures(sample_stock):
    return lambda pipe: sample_stock(pipe, output_type="np", steps=2)


@pytest.mark.parametrize("way", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_diffusers_gives_the_same_picture(make_generator, tiny_pipe, pictures, nudge, tmp_path, family, way):
    generator = make_generator(family, lora=way, keep=("ema",))
    nudge(generator)
    expected = pictures(generator.pipe)
    generators.save(generator, tmp_path / "final")
    generators.save(generator, tmp_path / "final")  # again, over itself
    if way is None:
        pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "final")
    else:
        pipe = copy.deepcopy(tiny_pipe(family))
        pipe.load_lora_weights(tmp_path / "final")
    assert abs(pictures(pipe) - expected).max() < 1e-5
    assert abs(pictures(tiny_pipe(family)) - expected).max() > 1e-3  # the start makes another one
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.glob(".*"))
    assert torch.equal(
        torch.from_numpy(expected), torch.from_numpy(pictures(generator.pipe))
    )  # saving changed nothing here


@pytest.mark.parametrize("way", [LORA, None], ids=["lora", "full"])
def test_the_ema_is_saved_when_it_is_named(make_generator, tiny_pipe, pictures, nudge, tmp_path, way):
    generator = make_generator("stable_diffusion_3", lora=way, keep=("ema",))
    nudge(generator)
    moved = pictures(generator.pipe)
    generators.save(generator, tmp_path / "ema", name="ema")
    if way is None:
        pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ema")
    else:
        pipe = copy.deepcopy(tiny_pipe("stable_diffusion_3"))
        pipe.load_lora_weights(tmp_path / "ema")
    assert abs(pictures(pipe) - pictures(tiny_pipe("stable_diffusion_3"))).max() < 1e-5
    assert abs(pictures(generator.pipe) - moved).max() == 0


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "wan"])
def test_a_saved_adapter_can_be_the_start_of_the_next_run(
    make_generator, pipeline_folder, sample_ours, nudge, tmp_path, family
):
    first = make_generator(family, lora=LORA)
    nudge(first)
    generators.save(first, tmp_path)
    again = generators.load(pipeline_folder(family), lora=LORA, adapter=str(tmp_path))
    expected = sample_ours(first).latents
    for name in ("policy", "reference"):
        torch.testing.assert_close(sample_ours(again, name=name).latents, expected, rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match="with the adapter"):
        generators.load(pipeline_folder(family), lora=LORA, adapter=str(tmp_path / "nothing"))


@pytest.mark.parametrize("targets", ["all-linear", ["to_q", "to_out.0"]], ids=["all", "some"])
@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_xl", "wan"])
def test_kohyas_file_gives_the_same_picture_in_stock_diffusers(
    make_generator, tiny_pipe, pictures, nudge, tmp_path, family, targets
):
    generator = make_generator(family, lora=Lora(r=2, lora_alpha=8.0, target_modules=targets))
    nudge(generator)
    kohya.save_kohya(generator, tmp_path / "out" / "lora.safetensors")
    pipe = copy.deepcopy(tiny_pipe(family))
    pipe.load_lora_weights(tmp_path / "out" / "lora.safetensors")
    assert abs(pictures(pipe) - pictures(generator.pipe)).max() < 1e-5


def test_kohyas_unet_names_are_diffusers_own_conversion(make_generator, nudge, tmp_path):
    from diffusers.utils import convert_state_dict_to_kohya

    generator = make_generator("stable_diffusion", lora=LORA)
    nudge(generator)
    kohya.save_kohya(generator, tmp_path / "lora.safetensors")
    ours = load_file(tmp_path / "lora.safetensors")
    weights = {f"unet.{key}": value for key, value in generator.weights().items()}
    theirs = convert_state_dict_to_kohya(weights)
    assert set(ours) == set(theirs)
    down = next(key for key in ours if key.endswith("lora_down.weight"))
    torch.testing.assert_close(ours[down], theirs[down])
    up = down.replace("down", "up", 1) if "lora_down" not in down else down.replace("lora_down", "lora_up")
    torch.testing.assert_close(ours[up], 4.0 * theirs[up])  # lora_alpha / r, which their alpha = r loses


def test_kohyas_flux_file_gives_the_same_picture_in_stock_diffusers(
    make_generator, tiny_pipe, pictures, nudge, tmp_path
):
    """Double blocks only: diffusers' reader has the real model's widths of single blocks written in."""
    names = ("to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")  # no to_k: filled up
    double = [f"transformer_blocks.0.attn.{name}" for name in names] + ["ff.net.0.proj", "ff_context.net.2"]
    generator = make_generator("flux", lora=Lora(r=2, lora_alpha=8.0, target_modules=double))
    nudge(generator)
    kohya.save_kohya(generator, tmp_path / "lora.safetensors")
    pipe = copy.deepcopy(tiny_pipe("flux"))
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert abs(pictures(pipe) - pictures(generator.pipe)).max() < 1e-5


def test_kohyas_flux_single_blocks_of_the_real_width_come_back(tmp_path):
    """FLUX.1's own widths through diffusers' reader: every trained layer is what it was, the MLP part is nothing."""
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    with torch.device("meta"):
        denoiser = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    drawn = torch.Generator().manual_seed(0)
    layers = {}
    for name in ("to_q", "to_k", "to_v"):
        down, up = torch.randn(4, 3072, generator=drawn), torch.randn(3072, 4, generator=drawn)
        layers[f"single_transformer_blocks.0.attn.{name}"] = (down, up)
    fused = kohya._flux(layers, denoiser)
    assert {key: value[1].shape for key, value in fused.items()} == {
        "lora_unet_single_blocks_0_linear1": (3 * 3072 + 12288, 16)
    }
    file = {}
    for key, (down, up) in fused.items():
        file |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(16.0)}
    back = _convert_kohya_flux_lora_to_diffusers(file)
    for name, (down, up) in layers.items():
        assert torch.equal(back[f"transformer.{name}.lora_A.weight"], down)
        assert torch.equal(back[f"transformer.{name}.lora_B.weight"], up)
    assert not back["transformer.single_transformer_blocks.0.proj_mlp.lora_B.weight"].any()


def test_what_kohyas_format_cannot_say(make_generator, tmp_path):
    with pytest.raises(ModelError, match="StableDiffusion3Pipeline has no kohya format"):
        kohya.save_kohya(make_generator("stable_diffusion_3", lora=LORA), tmp_path / "lora.safetensors")
    generator = make_generator("flux", lora=Lora(r=2, target_modules=["x_embedder"]))
    with pytest.raises(ModelError, match=r"no name for 1 trained layers, e\.g\. x_embedder"):
        kohya.save_kohya(generator, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="fully fine-tuned"):
        kohya.save_kohya(make_generator("stable_diffusion"), tmp_path / "lora.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_left_alone(make_generator, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty and no pipeline"):
        adapters.save_pipeline(make_generator("stable_diffusion"), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_files_header_says_alpha_is_r(make_generator, tmp_path):
    """A reader that takes alpha from the header, and one that knows no header, both scale by 1."""
    import json

    path = adapters.save_lora(make_generator("wan", lora=LORA), tmp_path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
    assert header["transformer.lora_alpha"] == header["transformer.r"] == 2


def test_equal_adapters_are_equal_files(make_generator, tmp_path):
    """safetensors orders its metadata anew in every call."""
    generator = make_generator("stable_diffusion_3", lora=LORA)
    files = {adapters.save_lora(generator, tmp_path / str(k)).read_bytes() for k in range(8)}
    assert len(files) == 1
