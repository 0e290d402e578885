"""An optimiser's state by the weight's name: what PyTorch's own AdamW holds, from every engine and into every one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlkit.errors import ModelError
from rlkit.muon import MuonWithAdamW
from rlkit.plugins import ROOT
from rlkit.running import moments

ROWS = torch.randn(4, 4, 7, generator=torch.Generator().manual_seed(1))
"""Steps, rows of each, and their numbers; of two processes each takes two rows."""


class Net(nn.Module):
    """Weights of odd sizes, one of them not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3)
        self.second.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.norm(self.first(x)).tanh()) - x[:, :3]).square().mean()


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """Two groups, as transformers makes them."""
    trained = [one for one in model.parameters() if one.requires_grad]
    groups = [[one for one in trained if (one.ndim > 1) == matrix] for matrix in (True, False)]
    return torch.optim.AdamW([{"params": one} for one in groups], lr=0.05, weight_decay=0.1)


def muon(model: nn.Module) -> MuonWithAdamW:
    return MuonWithAdamW(model, lr=0.05, weight_decay=0.1, betas=(0.9, 0.99))


def go(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        model(ROWS[step]).backward()
        optimizer.step()
        optimizer.zero_grad()


def loaded(state: dict[str, Tensor]) -> Net:
    model = Net()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("make", [adamw, muon])
def test_a_loaded_optimiser_goes_on_with_the_same_bits(make, tmp_path):
    model = Net()
    optimizer = make(model)
    go(model, optimizer, range(3))
    moments.save(model, optimizer, tmp_path / "moments.safetensors")
    again = loaded(model.state_dict())
    fresh = make(again)
    moments.load(again, fresh, tmp_path / "moments.safetensors")
    for one, other in ((model, optimizer), (again, fresh)):
        go(one, other, range(3, 4))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_the_file_holds_what_adamw_holds(tmp_path):
    model = Net()
    optimizer = adamw(model)
    go(model, optimizer, range(3))
    moments.save(model, optimizer, tmp_path / "moments.safetensors")
    found = load_file(tmp_path / "moments.safetensors")
    expected = {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    assert len(expected) == 3 * 5 and found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_state_does_not_lie_in_the_file_it_came_from(tmp_path):
    """safetensors maps a file into memory: a checkpoint that is overwritten would change what is trained."""
    model, path = Net(), tmp_path / "moments.safetensors"
    optimizer = adamw(model)
    go(model, optimizer, range(3))
    moments.save(model, optimizer, path)
    again = Net()
    fresh = adamw(again)
    moments.load(again, fresh, path)
    path.write_bytes(b"\0" * path.stat().st_size)
    weight = again.first.weight
    assert torch.equal(fresh.state[weight]["exp_avg"], optimizer.state[model.first.weight]["exp_avg"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "checkpoint-3 holds no moments.safetensors, which the optimiser goes on from"),
        (
            {"first.weight/exp_avg": torch.zeros(5, 9)},
            r"exp_avg of first.weight \[5, 9\]; the model has it as \[5, 7\]",
        ),
        (
            {"third.weight/exp_avg": torch.zeros(2)},
            r"third.weight \[2\]; the model has it as no weight that is trained",
        ),
    ],
)
def test_a_file_of_another_model_is_refused(change, told, tmp_path):
    model, path = Net(), tmp_path / "checkpoint-3/moments.safetensors"
    path.parent.mkdir()
    optimizer = adamw(model)
    go(model, optimizer, range(1))
    if change is not None:
        moments.save(model, optimizer, path)
        save_file({name: one.clone() for name, one in load_file(path).items()} | change, path)
    with pytest.raises(ModelError, match=told):
        moments.load(Net(), adamw(Net()), path)


# ---- two processes, each engine -------------------------------------------------------------------------------------


def two(place: Path, rank: int) -> None:
    """One of two processes: what every engine writes after three steps and after a fourth, by itself and from the files
    of others."""
    import deepspeed
    import deepspeed.comm.torch

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(place / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    deepspeed.comm.torch.build_shm_op = lambda: None  # else it compiles a kernel
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    own = slice(2 * rank, 2 * rank + 2)

    def by_deepspeed(model: Net, stage: int, bf16: bool = False) -> tuple[nn.Module, object, Callable[[int], None]]:
        config = {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": stage}}
        config |= {"zero_allow_untested_optimizer": True, "bf16": {"enabled": bf16}, "gradient_clipping": 0.0}
        engine, optimizer, *_ = deepspeed.initialize(model=model, optimizer=adamw(model), config=config)

        def step(number: int) -> None:
            engine.backward(engine(ROWS[number][own].to(torch.bfloat16 if bf16 else torch.float32)))
            engine.step()

        return model, optimizer, step

    def by_fsdp2(model: Net) -> tuple[nn.Module, object, Callable[[int], None]]:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
        optimizer = adamw(model)
        return model, optimizer, lambda number: go_with(model, optimizer, number)

    def go_with(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        model(ROWS[number][own]).backward()
        optimizer.step()
        optimizer.zero_grad()

    def by_torch(model: Net) -> tuple[nn.Module, object, Callable[[int], None]]:
        optimizer = adamw(model)
        return model, optimizer, lambda number: go(model, optimizer, range(number, number + 1))

    engines = {"torch": by_torch, "fsdp2": by_fsdp2}
    engines |= {f"zero{stage}": lambda model, stage=stage: by_deepspeed(model, stage) for stage in (2, 3)}
    engines["zero3-bf16"] = lambda model: by_deepspeed(model, 3, bf16=True)
    at_three: dict[str, Tensor] = {}

    def file(name: str) -> Path:
        return place / f"{name}.safetensors"

    for name, make in engines.items():
        model, optimizer, step = make(Net())
        for number in range(3):
            step(number)
        moments.save(model, optimizer, file(f"{name}-3"))
        if name == "torch":
            at_three = {key: one.clone() for key, one in model.state_dict().items()}
        step(3)
        moments.save(model, optimizer, file(f"{name}-4"))
        for source in dict.fromkeys((name, "torch")):
            torch.distributed.barrier()
            model, optimizer, step = make(loaded(at_three))
            moments.load(model, optimizer, file(f"{source}-3"), at_three)
            moments.save(model, optimizer, file(f"{name}-of-{source}-3"))
            step(3)
            moments.save(model, optimizer, file(f"{name}-of-{source}-4"))
        model, optimizer, step = by_torch(loaded(at_three))
        moments.load(model, optimizer, file(f"{name}-3"))
        step(3)
        moments.save(model, optimizer, file(f"torch-of-{name}-4"))
    save_file(at_three, file(f"weights-{rank}"))


BOTH = """
import multiprocessing, sys
from pathlib import Path
from tests.rlkit.running.test_moments import two
started = [multiprocessing.get_context("fork").Process(target=two, args=(Path(sys.argv[1]), rank)) for rank in (0, 1)]
for one in started: one.start()
for one in started: one.join(200)
sys.exit(any(one.exitcode != 0 for one in started))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> what the two processes wrote under it."""
    pytest.importorskip("deepspeed")
    place = tmp_path_factory.mktemp("two")
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BOTH, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]
    return {path.stem: load_file(path) for path in place.glob("*.safetensors")}


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], 1e-4, 1e-7) for k in one)


@pytest.mark.parametrize("name", ["fsdp2", "zero2", "zero3"])
def test_every_engine_writes_and_reads_what_adamw_alone_holds(files, name):
    three, four = files["torch-3"], files["torch-4"]
    assert not close({"x": three["first.weight/exp_avg"]}, {"x": four["first.weight/exp_avg"]})
    assert close(files[f"{name}-3"], three) and close(files[f"{name}-4"], four)
    assert close(files[f"{name}-of-torch-4"], four)
    assert close(files[f"torch-of-{name}-4"], four)


@pytest.mark.parametrize("name", ["fsdp2", "zero2", "zero3", "zero3-bf16"])
def test_what_an_engine_read_it_writes_again(files, name):
    written, again = files[f"{name}-3"], files[f"{name}-of-{name}-3"]
    assert written.keys() == again.keys()
    assert all(torch.equal(written[key], again[key]) for key in written)


def test_weights_behind_bf16_survive(files):
    own = {key: one for key, one in files["zero3-bf16-3"].items() if key.endswith("/weight")}
    assert len(own) == 5 and any(not torch.equal(one, one.bfloat16().float()) for one in own.values())
    for key, one in files["zero3-bf16-of-torch-3"].items():
        if key.endswith("/weight"):
            assert torch.equal(one, files["weights-0"][key.removesuffix("/weight")])
