"""`rlkit doctor`: what this machine has and lacks for rlkit, each lack with the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_synth import torchcodec_frames
from rlkit import collectives
from rlkit.errors import RlkitError
from rlkit.plugins import ROOT
from rlkit.running import environment

SHARED_MEMORY = 1  # GiB; docker gives 64 MiB, in which loaders and NCCL end with a bus error
OPEN_FILES = 1024
SMALLEST_DISK = 5  # GiB; clips, checkpoints and a report of the demo take far less, a 3 B model's checkpoint more


@dataclass(frozen=True)
class Finding:
    """One line: `good`, or with the command in `fix`; what is not `needed` is only worth knowing."""

    name: str
    found: str
    good: bool
    needed: bool = True
    fix: str = ""


def main(as_json: bool) -> int:
    """Print all findings; exit code 1 where something needed is missing."""
    findings = list(examine())
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    for finding in [] if as_json else findings:
        mark = "ok" if finding.good else ("MISSING" if finding.needed else "-")
        print(f"{mark:<8}{finding.name:<16}{finding.found}" + (f"\n{'':<24}{finding.fix}" if not finding.good else ""))
    return int(any(finding.needed and not finding.good for finding in findings))


def examine() -> Iterator[Finding]:
    """Every check, most basic first."""
    yield Finding("python", platform.python_version(), sys.version_info >= (3, 10), fix="install Python 3.10 to 3.13")
    yield from packages()
    yield from conflicts()
    yield devices()
    yield between_processes()
    yield from decoders()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(
        "disk", f"{free:.0f} GiB free here", free > SMALLEST_DISK, fix="free some space, or give out=... elsewhere"
    )
    yield chromium()
    yield from accounts()


def packages() -> Iterator[Finding]:
    """Each pinned package: missing, or another version than the tested one."""
    have = environment.versions()
    for name, wanted in tested_versions().items():
        if name == "torchcodec":
            continue  # see decoders
        found = have.get(name)
        fix = f"{sys.executable} -m pip install '{name}=={wanted}'"
        if found is None:
            yield Finding(name, "not installed", False, name != "deepspeed", fix)
        else:
            same = found.partition("+")[0] == wanted
            yield Finding(name, found if same else f"{found}; tested with {wanted}", same, needed=False, fix=fix)


def conflicts() -> Iterator[Finding]:
    """What is installed and does not go together, and settings of the machine that end runs later on."""
    wrong = list(unmet_requirements())
    told = "; ".join(f"{owner} wants {wanted}, there is {have}" for owner, wanted, have in wrong)
    fix = f"{sys.executable} -m pip install " + " ".join(f"'{wanted}'" for _, wanted, _ in wrong)
    yield Finding("conflicts", told or "none among the packages above", not wrong, fix=fix)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / 2**30
        yield Finding("shared memory", f"{size:.1f} GiB", size >= SHARED_MEMORY, False, "docker run --shm-size 8g ...")
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= OPEN_FILES
    yield Finding("open files", f"{files} at once", enough, False, f"ulimit -n {most if most > 0 else 65536}")
    if importlib.util.find_spec("deepspeed") is not None and not environment.gpu_numbers():
        told = os.environ.get("DS_ACCELERATOR") == "cpu"
        found = "DS_ACCELERATOR=cpu" if told else "installed without a GPU: it looks for one when it starts"
        yield Finding("deepspeed on CPU", found, told, False, "export DS_ACCELERATOR=cpu")


def unmet_requirements() -> Iterator[tuple[str, str, str]]:
    """(package, what it requires, the version that is there) for each requirement that an installed version breaks."""
    from packaging.requirements import Requirement

    for owner in environment.versions():
        for text in importlib.metadata.requires(owner) or []:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            try:
                have = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                have = "none"
            if have == "none" or not wanted.specifier.contains(have, prereleases=True):
                yield owner, f"{wanted.name}{wanted.specifier}", have


def tested_versions() -> dict[str, str]:
    """Versions of constraints.txt, as far as env.json names the package; empty where rlkit is installed without it."""
    path = ROOT / "constraints.txt"
    if not path.is_file():
        return {}
    pinned = [line.partition(";")[0].strip().partition("==") for line in path.read_text().splitlines() if "==" in line]
    return {name: version for name, _, version in pinned if name in environment.PACKAGES}


def devices() -> Finding:
    """GPUs, or that there are none."""
    if importlib.util.find_spec("torch") is None:
        return Finding("device", "torch is not installed", False, fix=f"{sys.executable} -m pip install torch")
    found = environment.devices()
    if found:
        names = ", ".join(f"{one['name']} ({one['memory_gib']} GiB)" for one in found)
        return Finding("device", names, True)
    driver = bool(environment.gpu_numbers())
    fix = "torch sees no GPU though there is one: pip install torch --index-url https://download.pytorch.org/whl/cu126"
    cores = f"CPU only, {os.cpu_count()} cores"
    return Finding("device", cores, not driver, needed=False, fix=fix)


def between_processes() -> Finding:
    """Whether two processes here reach each other, as every run of several needs."""
    fix = "let this host's name resolve (/etc/hosts), or: export GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo"
    if importlib.util.find_spec("torch") is None:
        return Finding("collectives", "torch is not installed", False, False, f"{sys.executable} -m pip install torch")
    try:
        told = collectives.between_two()
    except RlkitError as error:
        return Finding("collectives", str(error), False, needed=False, fix=fix)
    return Finding("collectives", "{ranks} processes over {backend}, {mib} MiB summed in {ms} ms".format(**told), True)


def decoders() -> Iterator[Finding]:
    """PyAV, which reads every clip, and torchcodec, which is optional."""
    fix = f"{sys.executable} -m pip install av"
    try:
        import av

        codecs = [name for name in ("h264", "hevc", "vp9", "av1") if name in av.codecs_available]
        yield Finding("decoder av", f"{av.__version__}: {', '.join(codecs)}", "h264" in codecs, fix=fix)
    except ImportError as error:
        yield Finding("decoder av", str(error), False, fix=fix)
    reason = torchcodec_frames.problem()
    found = f"{importlib.metadata.version('torchcodec')}, for data.decoder: torchcodec" if reason is None else reason
    fix = f"{sys.executable} -m pip install torchcodec && apt-get install ffmpeg  (optional; PyAV is used without it)"
    yield Finding("torchcodec", found, reason is None, needed=False, fix=fix)


def chromium() -> Finding:
    """Needed by the browser tests alone."""
    here = [name for name in ("chromium", "chromedriver") if shutil.which(name)]
    fix = "apt-get install chromium chromium-driver  (only the browser tests use it)"
    return Finding("browser", " and ".join(here) or "no chromium", len(here) == 2, needed=False, fix=fix)


def accounts() -> Iterator[Finding]:
    """Whether there are logins, never which."""
    hub = bool(os.environ.get("HF_TOKEN")) or (_hf_home() / "token").is_file()
    yield Finding(
        "hub login", "yes" if hub else "none; public models work without", hub, needed=False, fix="hf auth login"
    )
    netrc = Path.home() / ".netrc"
    wandb = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "api.wandb.ai" in netrc.read_text())
    yield Finding("wandb login", "yes" if wandb else "none; records offline", wandb, needed=False, fix="wandb login")


def _hf_home() -> Path:
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
