"""The command `rlkit`: answers at once, teaches with an example, and is clear about wrong arguments."""

import contextlib
import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlkit import cli, doctor, listing
from rlkit.errors import RecipeError
from rlkit.launch import command, find_config, launch
from rlkit.plugins import ROOT
from rlkit.recipe.keys import all_keys
from rlkit.recipe.text import FOOTER, HEADER, is_launchable

SLOW = ("torch", "transformers", "numpy", "rich", "accelerate", "datasets", "av", "PIL")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("algo.py").write_text("def run(recipe, folder): ...\n")
    Path("mine.yaml").write_text("# Mine.\nalgorithm: ./algo.py\nseed: 1\n")
    return tmp_path


def rlkit(*argv):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    return caught.value.code


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["check", "mine.yaml"], ["help", "train"], ["ls", "negatives"], ["check", "mine.yaml", "sead=1"]],
)
def test_answers_import_nothing_slow(folder, argv):
    # Half a second is the promise; what is imported decides it, and unlike a clock it is the same on every machine.
    code = f"import sys\nfrom rlkit.cli import main\ntry:\n    main({argv})\nexcept SystemExit:\n    pass\n"
    code += f"print('slow:', [name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "slow: []", done.stderr


def test_help_fits_a_screen_and_starts_with_examples(capsys):
    assert rlkit("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 90
    assert lines[0].startswith("  rlkit new")


@pytest.mark.parametrize("verb", ["check", "plan", "ls", "new", "run", "help", "doctor", "diff"])
def test_each_verb_has_an_example(verb, capsys):
    assert rlkit(verb, "--help") == 0
    assert f"example: rlkit {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["chek", "x.yaml"], "Did you mean 'check'?"),
        (["recipes/dpo.yaml"], "rlkit run recipes/dpo.yaml"),
        (["check", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["eval", "runs/nowhere"], "no such file or folder: runs/nowhere"),
        (["report", "."], "is no run folder"),
        (["negatives", "nowhere.jsonl"], "no such file or folder"),
        (["diff", ".", "."], "is no run folder"),
        (["run", "mine.yaml", "--config", "zero9"], "no accelerate config 'zero9'. There are: ddp"),
        (["help", "train.lerning_rate"], "Did you mean 'learning_rate'?"),
        (["new", "no_such", "x.yaml"], "no recipe 'no_such'"),
    ],
)
def test_wrong_arguments_get_one_sentence_and_exit_code_2(folder, capsys, argv, expected):
    assert rlkit(*argv) == 2
    error = capsys.readouterr().err
    assert expected in error and len(error.splitlines()) == 1


def test_check_says_how_to_launch(folder, capsys):
    assert rlkit("check", "mine.yaml") == 0
    assert "mine.yaml: fine." in capsys.readouterr().out


def test_repair_makes_plain_yaml_launchable(folder, capsys):
    assert rlkit("check", "mine.yaml", "--repair") == 0
    text = Path("mine.yaml").read_text()
    assert text == f"# Mine.\n{HEADER}\nalgorithm: ./algo.py\nseed: 1\n{FOOTER}\n"
    assert is_launchable(text)


def test_new_keeps_comments_and_mends_paths_and_never_overwrites(folder, capsys):
    Path("recipes").mkdir()
    Path("recipes/base.yaml").write_text("algorithm: ../algo.py\n")
    about = "# About it: accelerate launch recipes/dpo.yaml"
    source = f"{about}\n{HEADER}\nalgorithm: sft  # why\nneeds: [base.yaml]\n{FOOTER}\n"
    Path("recipes/dpo.yaml").write_text(source)
    assert rlkit("new", "dpo", "own.yaml") == 0
    written = Path("own.yaml").read_text()
    assert written == source.replace("recipes/dpo.yaml", "own.yaml").replace("[base.yaml]", "[recipes/base.yaml]")
    capsys.readouterr()
    assert rlkit("new", "dpo", "own.yaml") == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("own.yaml").read_text() == written


def test_ls_shows_the_first_line_of_each(folder, capsys):
    for what in ("recipes", "runs", "algorithms", "negatives", "losses", "models", "rewards"):
        assert rlkit("ls", what) == 0
    out = capsys.readouterr().out
    assert "order_swap" in out and "sigmoid" in out and "qwen2_5_vl" in out


def test_every_key_can_be_looked_up():
    for path in all_keys():
        assert path in listing.reference(path)


def test_help_of_a_key_says_type_default_and_meaning(capsys):
    assert rlkit("help", "train.learning_rate") == 0
    out = capsys.readouterr().out
    assert "a number from 0 to 10" in out and "default: 1e-05" in out and "Peak rate" in out


def test_help_without_the_section_finds_the_key():
    assert listing.reference("learning_rate") == listing.reference("train.learning_rate")
    with pytest.raises(RecipeError, match="no key 'nothing'"):
        listing.reference("nothing")


def test_diff_of_two_runs(folder, capsys):
    for name, value, seed in (("a", 0.5, 1), ("b", 0.75, 2)):
        run = folder / "runs" / name
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(f"algorithm: ../../algo.py\nseed: {seed}\n")
        figure = f'{{"value": {value}, "low": 0.4, "high": 0.8, "n": 10}}'
        (run / "results.json").write_text(f'{{"systems": {{"dpo": {{"order_exact": {figure}}}}}}}')
    assert rlkit("diff", "runs/a", "runs/b") == 0
    assert capsys.readouterr().out.splitlines() == ["seed: 1 | 2", "dpo.order_exact: 0.5 [0.4, 0.8] | 0.75 [0.4, 0.8]"]


def test_run_names_its_config(folder, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder))
    line = command(Path("mine.yaml"), ["seed=2"], "ddp", 4)
    assert line[line.index("--config_file") + 1] == str(find_config("ddp"))
    assert line[-4:] == ["-m", "rlkit", "mine.yaml", "seed=2"]


@pytest.mark.parametrize(("gpus", "module"), [(True, "accelerate.commands.launch"), (False, "torch.distributed.run")])
def test_several_processes(folder, monkeypatch, gpus, module):
    monkeypatch.setattr("rlkit.launch.environment.gpu_numbers", lambda: ["0"] if gpus else [])
    line = command(Path("mine.yaml"), [], None, 2)
    assert line[2] == module and line[-3:] == ["-m", "rlkit", "mine.yaml"]


@pytest.mark.parametrize("own", [None, "60"])
def test_the_launcher_gives_processes_time_to_save(folder, monkeypatch, own):
    from torch.distributed.launcher.api import LaunchConfig

    called = []
    ended = SimpleNamespace(wait=lambda: 0)
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: called.append(env) or ended)
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    if own:
        monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", own)
    launch(Path("mine.yaml"), [], None, 2)
    monkeypatch.setattr("os.environ", called[0])
    assert LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2).shutdown_timeout == int(own or 300)


def test_options_and_overrides_in_any_order(folder, capsys):
    assert rlkit("check", "seed=3", "--repair", "mine.yaml") == 2  # the first word is the recipe
    assert rlkit("check", "mine.yaml", "--repair", "seed=3", "out=runs/other") == 0
    assert "into runs/other" in capsys.readouterr().out


def test_accelerate_configs_have_trls_keys():
    import trl
    import yaml

    peers = Path(trl.__file__).parent / "accelerate_configs"
    for ours, theirs in (
        ("single", "single_gpu"),
        ("ddp", "multi_gpu"),
        ("multi_node", "multi_gpu"),
        *((one, one) for one in ("zero2", "zero3", "fsdp2")),
    ):
        own = yaml.safe_load((ROOT / "accelerate_configs" / f"{ours}.yaml").read_text())
        more = {"main_process_ip", "main_process_port"} if ours == "multi_node" else set()
        assert own.keys() == yaml.safe_load((peers / f"{theirs}.yaml").read_text()).keys() | more


def test_doctor_gives_a_command_for_every_lack():
    findings = list(doctor.examine())
    wanted = {"python", "torch", "conflicts", "device", "collectives", "decoder av", "disk", "browser"}
    assert wanted <= {finding.name for finding in findings}
    assert all(finding.fix for finding in findings if not finding.good)
    (between,) = (finding for finding in findings if finding.name == "collectives")
    assert between.good and "2 processes over" in between.found


def test_doctor_notices_a_missing_package(monkeypatch):
    monkeypatch.setattr(doctor.environment, "versions", lambda: {"torch": "1.0"})
    found = {finding.name: finding for finding in doctor.packages()}
    assert not found["transformers"].good and "pip install 'transformers==" in found["transformers"].fix
    assert "tested with" in found["torch"].found


def test_doctor_names_what_does_not_go_together(monkeypatch):
    monkeypatch.setattr(doctor.environment, "versions", lambda: {"trl": "1.16.0"})
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda owner: ["numpy<1", "absent>=2", "torch; extra == 'x'"]
    )
    assert [wanted for _, wanted, _ in doctor.unmet_requirements()] == ["numpy<1", "absent>=2"]
    found = next(doctor.conflicts())
    assert not found.good and found.needed and found.fix.endswith("'numpy<1' 'absent>=2'")
    assert "trl wants absent>=2, there is none" in found.found


def test_doctor_tells_small_shared_memory(monkeypatch):
    import collections

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(64 * 2**20, 0, 0))
    found = {finding.name: finding for finding in doctor.conflicts()}
    if "shared memory" in found:  # Linux
        assert not found["shared memory"].good and "--shm-size" in found["shared memory"].fix


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(folder, monkeypatch, capsys):
    from data_synth import whole

    class Full:
        """Writes once, then there is no room."""

        def __init__(self, file):
            self.file, self.rows = file, 0

        def write(self, text):
            if self.rows:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.rows += self.file.write(text)

    @contextlib.contextmanager
    def small(path, mode):
        with whole.whole(path, mode) as file:
            yield Full(file)

    monkeypatch.setattr("data_synth.negatives.cli.whole", small)
    rows = [{"id": str(n), "caption": f"A man opens a red box. Then the man throws {n} balls."} for n in range(8)]
    Path("captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = rlkit("negatives", "captions.jsonl", "--kinds", "verbose", "--out", "out/pairs.jsonl")
    said = capsys.readouterr().err
    assert code == 1 and said.startswith("rlkit negatives: the disk is full: ") and said.count("\n") == 1
    assert not list(Path("out").glob("*pairs.jsonl")) and not list(Path("out").glob("*.part"))


def test_a_bug_keeps_its_traceback(folder, monkeypatch):
    monkeypatch.setattr(cli, "check", lambda argv: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        cli.main(["check", "mine.yaml"])


def test_ctrl_c_is_a_line_and_the_shells_exit_code(folder, monkeypatch, capsys):
    monkeypatch.setattr(cli, "check", lambda argv: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert rlkit("check", "mine.yaml") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "\nrlkit check: stopped; files that are there are whole.\n"
