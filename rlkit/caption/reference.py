"""Reference log-probs of a data set, computed once, kept on disk, and read through a memory map.

    kept = precompute(captioner, examples, folder, data=fingerprint(records), settings={"num_frames": 12})
    ref_log_probs = kept.lookup(batch)                       # [batch, answers, tokens], as one_row.log_probs gives them

The reference is the starting weights; of a LoRA policy that is the model with its adapter disabled. Each chunk is one
safetensors file that appears whole, so a killed job goes on where it was. The folder's name is a hash of the data, the
reference weights and the processor: anything else makes another folder, and a sample is computed again at every start.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from rlkit.caption import one_row, rows
from rlkit.errors import ModelError
from rlkit.models import Captioner, is_adapted
from rlkit.running import ranks

CHUNK = 256  # rows per file: at most this many are lost to a kill
COLUMNS = ("prompt", "chosen", "rejected", "images", "videos")
EDGE = 1 << 16  # bytes read from each end of a video file: enough to tell files apart without reading them


@dataclass
class ReferenceLogProbs:
    """A finished folder of chunks; files are opened when first asked for and stay mapped."""

    folder: Path
    count: int
    _open: dict[int, Any] = field(default_factory=dict, repr=False)

    def row(self, index: int) -> list[Float[np.ndarray, " tokens"]]:
        """Token log-probs of one row's answers, chosen first."""
        chunk, at = divmod(index, CHUNK)
        if chunk not in self._open:
            self._open[chunk] = safe_open(self.folder / _name(chunk), framework="np")
        handle = self._open[chunk]
        lengths = handle.get_slice("lengths")[at]
        lengths = lengths[lengths > 0]
        start = int(handle.get_slice("starts")[at])
        values = handle.get_slice("log_probs")[start : start + int(lengths.sum())]
        return np.split(values, np.cumsum(lengths)[:-1])

    def lookup(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch answers tokens"]:
        """The reference log-probs of a collated batch, 0 where it is padded.

        A batch may hold the first answers of a row only. Raises ModelError when a row's answers have other lengths
        than those that were computed.
        """
        mask = batch["target_mask"]
        found = torch.zeros(mask.shape)
        for at, index in enumerate(batch["index"].tolist()):
            lengths = batch["answer_lengths"][at].tolist()
            lengths = lengths[: sum(length > 0 for length in lengths)]
            answers = self.row(index)[: len(lengths)]
            if [len(answer) for answer in answers] != lengths:
                raise ModelError(
                    f"row {index} has answers of {lengths} tokens, but the reference was computed for "
                    f"{[len(answer) for answer in answers]}; delete {self.folder}."
                )
            for number, answer in enumerate(answers):
                found[at, number, : len(answer)] = torch.from_numpy(answer)
        return found.to(mask.device)


def precompute(
    captioner: Captioner,
    examples: Sequence[rows.Example],
    folder: Path,
    *,
    data: str,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
    num_checked: int = 4,
) -> ReferenceLogProbs:
    """Compute what is missing below `folder`, check a sample of what is there, and open it.

    `data` is `fingerprint(records)`; `settings` is whatever else decides the examples' tensors (frames, fps, a control
    such as shuffled). Call it before training starts, with the starting weights. Each process of the run computes its
    share of the chunks and waits for the others. `progress` gets the number of rows done. Raises ModelError when a row
    computed again differs.
    """
    about = key(captioner, data, settings or {}, len(examples))
    folder = Path(folder) / hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=10).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "key.json", json.dumps(about, indent=1, sort_keys=True).encode())
    kept = ReferenceLogProbs(folder, len(examples))
    chunks = range(-(-len(examples) // CHUNK))
    present = [chunk for chunk in chunks if (folder / _name(chunk)).exists()]
    with reference_mode(captioner):
        _check(captioner, examples, kept, present, num_checked)
        for chunk in chunks[ranks.number() :: ranks.count()]:
            stop = min((chunk + 1) * CHUNK, len(examples))
            if chunk not in present:
                computed = _compute(captioner, examples, range(chunk * CHUNK, stop), batch_size)
                _write(folder / _name(chunk), _packed(computed))
            if progress is not None:
                progress(stop)
    ranks.wait()
    return kept


@contextlib.contextmanager
def reference_mode(captioner: Captioner):
    """Inside, captioner.model is the reference: no gradient, evaluation mode, adapter disabled."""
    training = captioner.model.training
    captioner.model.eval()
    adapter_off = captioner.model.disable_adapter() if is_adapted(captioner.model) else contextlib.nullcontext()
    try:
        with torch.no_grad(), adapter_off:
            yield
    finally:
        captioner.model.train(training)


def fingerprint(records: Iterable[Mapping[str, Any]], root: Path | None = None) -> str:
    """Hash of the records' messages and media, in order; videos by size and by both ends of the file."""
    digest = hashlib.blake2b(digest_size=20)
    for record in records:
        shown = {column: record.get(column) for column in COLUMNS}
        digest.update(json.dumps(shown, sort_keys=True, ensure_ascii=False, default=_media_hash).encode())
        for video in record.get("videos") or []:
            path = Path(root or ".") / video if isinstance(video, str) else None
            if path is not None and path.is_file():
                digest.update(_file_hash(path))
    return digest.hexdigest()


def weights_hash(captioner: Captioner) -> str:
    """Hash of the reference's weights: the adapter's own are left out."""
    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(captioner.base.state_dict().items()):
        if ".lora_" not in name:
            digest.update(f"{name.replace('.base_layer', '')} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def key(captioner: Captioner, data: str, settings: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Everything the cached values depend on, readable in key.json."""
    processor = captioner.processor
    digest = hashlib.blake2b(digest_size=20)
    digest.update(processor.to_json_string().encode())
    digest.update(processor.tokenizer.backend_tokenizer.to_str().encode())
    digest.update((processor.chat_template or "").encode())
    return {
        "data": data,
        "settings": dict(settings),
        "count": count,
        "weights": weights_hash(captioner),
        "processor": digest.hexdigest(),
        "layout": 1,
    }


def _compute(captioner: Captioner, examples: Sequence[rows.Example], indices: Iterable[int], batch_size: int):
    """Token log-probs of rows: index -> list of arrays; rows of like length share a batch."""
    held = sorted(((index, examples[index]) for index in indices), key=lambda item: (item[1].length, item[0]))
    computed = {}
    for start in range(0, len(held), batch_size):
        part = held[start : start + batch_size]
        log_probs, mask = one_row.log_probs(captioner, rows.batch_of(captioner, [example for _, example in part]))
        for at, (index, example) in enumerate(part):
            answers = range(len(example.answers))
            computed[index] = [log_probs[at, a][mask[at, a]].float().cpu().numpy() for a in answers]
    return computed


def _check(captioner, examples, kept: ReferenceLogProbs, present: list[int], count: int) -> None:
    """Compute a few stored rows again; other code, weights or pixels under the same key would show here."""
    if not present or not count:
        return
    stored = [index for chunk in (present[0], present[-1]) for index in _indices(chunk, kept.count)]
    sample = sorted({stored[at] for at in np.linspace(0, len(stored) - 1, count).round().astype(int)})
    # fp32 sums in another order differ by 1e-5; in half precision another batch moves a token by tenths of a nat.
    allowed = 1e-3 if captioner.base.dtype == torch.float32 else 0.5
    for index, answers in _compute(captioner, examples, sample, len(sample)).items():
        for number, (again, before) in enumerate(zip(answers, kept.row(index), strict=False)):
            same_length = len(again) == len(before)
            worst = float(np.abs(again - before).max()) if same_length else float("nan")
            if not worst <= allowed:
                found = f"by up to {worst:.3g} nats" if same_length else "in length"
                raise ModelError(
                    f"reference log-probs of row {index}, answer {number}, differ from the stored ones {found} "
                    f"(allowed {allowed:g}); delete {kept.folder} to compute them again."
                )


def _indices(chunk: int, count: int) -> range:
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, count))


def _name(chunk: int) -> str:
    return f"log_probs-{chunk:06d}.safetensors"


def _packed(computed: Mapping[int, list[np.ndarray]]) -> bytes:
    """One chunk: all log-probs in row order, where each row starts, and the lengths of its answers."""
    ordered = [computed[index] for index in sorted(computed)]
    lengths = np.zeros((len(ordered), max(map(len, ordered))), dtype=np.int32)
    for row, answers in enumerate(ordered):
        lengths[row, : len(answers)] = [len(answer) for answer in answers]
    totals = lengths.sum(1, dtype=np.int64)
    flat = np.concatenate([answer for answers in ordered for answer in answers])
    return save({"log_probs": flat, "starts": np.cumsum(totals) - totals, "lengths": lengths})


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.replace(path)


def _file_hash(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(EDGE)
        file.seek(max(size - EDGE, 0))
        return hashlib.blake2b(f"{size}".encode() + head + file.read(EDGE)).digest()


def _media_hash(value: Any) -> str:
    """Stands in for an image in a record's JSON."""
    return hashlib.blake2b(np.asarray(value).tobytes()).hexdigest()
