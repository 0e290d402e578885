"""Does a picture say where it comes from? Signed manifests first, then metadata, then a weak statistic; or "unknown".

    read("a.png")   # -> Provenance(verdict="generated", evidence=["C2PA manifest, ...: trainedAlgorithmicMedia"])

What counts, strongest first:
1. a C2PA manifest whose signature and hashes hold and that says trainedAlgorithmicMedia, in itself or in what it was
   made from: generated, whatever else is said. A capture by camera counts as much only from a signer on
   `trust_anchors`: anybody can sign "camera" with a certificate of their own, nobody gains by signing "generated".
2. metadata that anybody can write or strip: XMP digitalSourceType, PNG text of Stable Diffusion web UI, ComfyUI,
   InvokeAI and NovelAI, EXIF of a generator, or of a camera with its exposure. Signs of both sides give "unknown", and
   say so.
3. without any of these, a lattice in the spectrum (spectrum.py): "generated" beyond what real pictures were seen to
   reach, never "camera".

No sign proves nothing: platforms strip metadata. C2PA needs the package c2pa-python, pip install 'rlkit[provenance]',
and only where a file carries a manifest. Nothing is fetched from the network.
"""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from reward_models.spectrum import SURE, SUSPECT, lattice_peak

Verdict = Literal["generated", "camera", "unknown"]
GENERATED_TYPES = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
CAMERA_TYPES = ("digitalCapture", "computationalCapture", "negativeFilm", "positiveFilm")
"""IPTC digital source types, cv.iptc.org/newscodes/digitalsourcetype; the others (screen capture, ...) take no side."""
MAX_PIXELS = 100_000_000
GENERATORS = re.compile(
    r"stable[ -]?diffusion|comfyui|midjourney|dall[-·. ]?e\b|invokeai|novelai|adobe firefly|imagen\b|automatic1111|"
    r"stability ai|flux\.1|leonardo\.ai|ideogram|draw things|fooocus",
    re.IGNORECASE,
)
_WEB_UI = re.compile(r"\bSteps: \d+, .*\b(Sampler|Seed|CFG scale): ", re.DOTALL)
_SOURCE_TYPE = re.compile(r"digitalsourcetype/(\w+)", re.IGNORECASE)
_JUMBF = b"jumdc2pa"  # the description box of a manifest store
_MAKE, _MODEL, _SOFTWARE, _EXIF, _COMMENT = 0x010F, 0x0110, 0x0131, 0x8769, 0x9286
_EXPOSURE = {0x829A: "exposure time", 0x829D: "f-number", 0x8827: "ISO", 0x920A: "focal length"}


@dataclass(frozen=True)
class Provenance:
    """What a picture's file says of where it comes from, and every sign it was read from."""

    verdict: Verdict
    evidence: list[str]


@dataclass(frozen=True)
class _Sign:
    """One piece of evidence. weight: 2 decides, 1 is metadata that anybody can write, 0 takes no side."""

    side: Verdict
    weight: int
    text: str


def read(source: str | Path | bytes, *, trust_anchors: str | None = None, statistics: bool = True) -> Provenance:
    """What the file of a picture (or its bytes) says.

    trust_anchors: PEM certificates whose signatures are believed about cameras. Raises ValueError for what is no
    picture or too large, FileNotFoundError for no file, ImportError for a C2PA manifest where c2pa-python is missing.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS} in all")
            image.load()  # text may stand after the pixels
            signs = [*_manifest(data, image.get_format_mimetype(), trust_anchors), *_metadata(image)]
            pixels = np.asarray(image.convert("RGB")) if statistics else None
    except UnidentifiedImageError:
        raise ValueError(f"{name}: not a picture that Pillow can read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: cannot be read ({error}).") from error
    return _judge(signs, pixels)


def read_pixels(image: Image.Image | np.ndarray) -> Provenance:
    """What the pixels alone say, where there is no file: "generated" or "unknown"."""
    return _judge([], np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image))


def load(
    device: str = "cpu", *, trust_anchors: str | None = None, statistics: bool = True
) -> Callable[..., list[float | None]]:
    """1 for a picture from a camera, 0 for a generated one, None for unknown or unreadable: a filter of data, hardly a
    reward to train on. Completions are paths, bytes of files, or pictures without a file (judged by their pixels)."""

    def score(*, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        return [_score(one, trust_anchors, statistics) for _, one in zip(prompts, completions, strict=True)]

    return score


def _score(one: Any, trust_anchors: str | None, statistics: bool) -> float | None:
    try:
        if isinstance(one, str | Path | bytes):
            found = read(one, trust_anchors=trust_anchors, statistics=statistics)
        else:
            found = read_pixels(one)
    except (ValueError, FileNotFoundError):
        return None
    return {"camera": 1.0, "generated": 0.0, "unknown": None}[found.verdict]


def _judge(signs: list[_Sign], pixels: np.ndarray | None) -> Provenance:
    evidence = [sign.text for sign in signs]
    for weight in (2, 1):
        sides = {sign.side for sign in signs if sign.weight == weight}
        others = {sign.side for sign in signs if 0 < sign.weight <= weight}
        if len(sides) == 2 and weight == 1:
            return Provenance("unknown", [*evidence, "contradiction: signs of both, none is believed"])
        if sides:
            side: Verdict = "generated" if "generated" in sides else "camera"
            if others != {side}:
                evidence.append(f"contradiction: other signs; the signed manifest is believed, {side}")
            return Provenance(side, evidence)
    peak = None if pixels is None else lattice_peak(pixels)
    if peak is not None and peak >= SUSPECT:
        sure = peak >= SURE
        evidence.append(
            f"statistics (weak): a lattice in the spectrum, {peak:.1f} nats "
            + (f"where real pictures stay below {SURE}" if sure else f"between {SUSPECT} and {SURE}: no verdict")
        )
        return Provenance("generated" if sure else "unknown", evidence)
    return Provenance("unknown", evidence)


def _manifest(data: bytes, mime: str, trust_anchors: str | None) -> list[_Sign]:
    if _JUMBF not in data:
        return []
    try:
        import c2pa
    except ImportError:
        raise ImportError(
            "the picture carries a C2PA manifest; reading it needs the package c2pa-python: "
            "pip install 'rlkit[provenance]'."
        ) from None
    settings: dict[str, Any] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    if trust_anchors:
        settings["trust"] = {"trust_anchors": trust_anchors}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(mime, io.BytesIO(data), context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        return [_Sign("unknown", 0, f"C2PA manifest that cannot be read ({str(error).splitlines()[0]})")]
    return _manifest_signs(store)


def _manifest_signs(store: dict[str, Any]) -> list[_Sign]:
    """Signs of a manifest store: what its active manifest says, and those of what the picture was made from."""
    state, active = store.get("validation_state"), store.get("active_manifest")
    signer = (store["manifests"].get(active, {}).get("signature_info") or {}).get("issuer", "nobody named")
    trust = {"Trusted": "signature valid and trusted", "Valid": "signature valid, signer not on a trust list"}
    about = f"C2PA manifest, {trust.get(state, 'not valid: changed since it was signed')}, signed by {signer}"
    signs = []
    for name, manifest in store["manifests"].items():
        where = about if name == active else f"{about}, about what it was made from"
        for kind in sorted(set(_SOURCE_TYPE.findall(json.dumps(manifest)))):
            if kind in GENERATED_TYPES:
                signs.append(_Sign("generated", 2 if state in trust else 1, f"{where}: {kind}"))
            elif kind in CAMERA_TYPES and name == active:
                signs.append(_Sign("camera", {"Trusted": 2, "Valid": 1}.get(state, 0), f"{where}: {kind}"))
            else:
                signs.append(_Sign("unknown", 0, f"{where}: {kind}"))
    return signs or [_Sign("unknown", 0, f"{about}: no digital source type")]


def _metadata(image: Image.Image) -> list[_Sign]:
    return [*_png_text(image), *_xmp(image), *_exif(image)]


def _png_text(image: Image.Image) -> list[_Sign]:
    """Text chunks that the common interfaces write; a key alone is no sign, its content must be theirs."""
    signs = []
    for key, value in image.info.items():
        if not isinstance(key, str) or not isinstance(value, str):
            continue
        if key == "parameters" and _WEB_UI.search(value):
            signs.append(_Sign("generated", 1, "PNG text 'parameters' of Stable Diffusion web UI"))
        elif key in ("prompt", "workflow") and _is_comfy(value):
            signs.append(_Sign("generated", 1, f"PNG text {key!r}: a graph of ComfyUI"))
        elif key in ("invokeai_metadata", "sd-metadata") and value.lstrip().startswith("{"):
            signs.append(_Sign("generated", 1, f"PNG text {key!r} of InvokeAI"))
        elif key in ("Software", "Source") and (found := GENERATORS.search(value)):
            signs.append(_Sign("generated", 1, f"PNG text {key!r} names {found[0]}"))
    return signs


def _is_comfy(value: str) -> bool:
    """Whether it is a graph of nodes: {"3": {"class_type": ..., "inputs": ...}} or {"nodes": [...], "links": [...]}."""
    try:
        graph = json.loads(value)
    except (ValueError, RecursionError):
        return False
    if not isinstance(graph, dict):
        return False
    if isinstance(graph.get("nodes"), list):
        return "links" in graph
    return bool(graph) and all(isinstance(node, dict) and "class_type" in node for node in graph.values())


def _xmp(image: Image.Image) -> list[_Sign]:
    found = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or ""
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    signs = []
    for kind in sorted(set(_SOURCE_TYPE.findall(text))):
        side = "generated" if kind in GENERATED_TYPES else "camera" if kind in CAMERA_TYPES else "unknown"
        signs.append(_Sign(side, int(side != "unknown"), f"XMP digitalSourceType {kind}"))
    tool = re.search(r"CreatorTool(?:>|=\")([^<\"]{1,200})", text)
    if tool and GENERATORS.search(tool[1]):
        signs.append(_Sign("generated", 1, f"XMP CreatorTool {tool[1].strip()}"))
    return signs


def _exif(image: Image.Image) -> list[_Sign]:
    """A generator by its name, or a camera by its maker, its model and at least two settings of an exposure."""
    exif = image.getexif()
    inner = exif.get_ifd(_EXIF)
    make, model, software = (str(exif.get(tag) or "").strip(" \0") for tag in (_MAKE, _MODEL, _SOFTWARE))
    signs = []
    for tag, value in (("Software", software), ("Make", make)):
        if GENERATORS.search(value):
            signs.append(_Sign("generated", 1, f"EXIF {tag} {value[:80]}"))
    if _WEB_UI.search(_comment(inner.get(_COMMENT))):
        signs.append(_Sign("generated", 1, "EXIF UserComment of Stable Diffusion web UI"))
    settings = [name for tag, name in _EXPOSURE.items() if inner.get(tag)]
    if make and model and len(settings) >= 2 and not GENERATORS.search(make):
        signs.append(_Sign("camera", 1, f"EXIF of a camera: {make} {model}, {', '.join(settings)}"))
    return signs


def _comment(value: Any) -> str:
    """EXIF UserComment: 8 bytes name the code, then text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return ""
    code, text = value[:8], value[8:]
    if code.startswith(b"UNICODE"):
        wide = "utf-16-be" if text[:1] == b"\0" else "utf-16-le"
        return text.decode(wide, "replace")
    return text.decode("utf-8", "replace")
