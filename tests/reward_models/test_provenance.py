"""Signs of where a picture comes from: signed with a test certificate, planted in metadata, contradictory, absent."""

import datetime
import importlib.util
import io
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from scipy import ndimage

import reward_models
from reward_models import provenance
from reward_models.provenance import Provenance, read
from reward_models.spectrum import SURE, SUSPECT, lattice_peak

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
WEB_UI = "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
COMFY = json.dumps(
    {"3": {"class_type": "KSampler", "inputs": {"seed": 1}}, "4": {"class_type": "VAEDecode", "inputs": {}}}
)
WORKFLOW = json.dumps({"nodes": [{"id": 1, "type": "KSampler"}], "links": []})


def pixels(seed=0, size=64):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def png(text=(), xmp=None, exif=None, image=None):
    chunks = PngImagePlugin.PngInfo()
    for key, value in dict(text).items():
        chunks.add_text(key, value)
    if xmp is not None:
        chunks.add_itxt("XML:com.adobe.xmp", xmp)
    file = io.BytesIO()
    (image or pixels()).save(file, "PNG", pnginfo=chunks, exif=exif or Image.Exif())
    return file.getvalue()


def jpeg(exif=None, xmp=None):
    file = io.BytesIO()
    pixels().save(file, "JPEG", exif=exif or Image.Exif(), **({"xmp": xmp.encode()} if xmp else {}))
    return file.getvalue()


def xmp(kind):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{IPTC}{kind}"/></rdf:RDF></x:xmpmeta>'
    )


def camera_exif(**changes):
    exif = Image.Exif()
    given = {"make": "Canon", "model": "EOS R6", "software": "", "settings": True, "comment": b""} | changes
    exif[0x010F], exif[0x0110] = given["make"], given["model"]
    if given["software"]:
        exif[0x0131] = given["software"]
    inner = exif.get_ifd(0x8769)
    if given["settings"]:
        inner[0x829A], inner[0x829D], inner[0x8827] = (1, 250), (28, 10), 400
    if given["comment"]:
        inner[0x9286] = given["comment"]
    return exif


@pytest.fixture(scope="module")
def sign():
    """(PNG or JPEG bytes, digital source type, mime) -> signed bytes; `.root` is the PEM of its authority."""
    c2pa = pytest.importorskip("c2pa")
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(name, issuer, public, usage, authority):
        named = [
            x509.Name(
                [
                    x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, one),
                    x509.NameAttribute(x509.NameOID.COMMON_NAME, one),
                ]
            )
            for one in (name, issuer)
        ]
        built = x509.CertificateBuilder(
            named[1], named[0], public, x509.random_serial_number(), now - day, now + 9 * day
        )
        built = built.add_extension(x509.BasicConstraints(authority, None), True)
        built = built.add_extension(x509.KeyUsage(*usage), True)
        built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        if not authority:
            purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            built = built.add_extension(purpose, False)
            parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
            built = built.add_extension(parent, False)
        return built.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root = certificate(
        "Test Root", "Test Root", root_key.public_key(), (False,) * 5 + (True, True) + (False,) * 2, True
    )
    leaf = certificate("Test Signer", "Test Root", key.public_key(), (True,) + (False,) * 8, False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    def signed(data, kind, mime="image/png", parent=None):
        action = {"action": "c2pa.created", "digitalSourceType": IPTC + kind} if kind else {"action": "c2pa.opened"}
        if parent:
            action = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["parent"]}}
        manifest = {
            "claim_generator_info": [{"name": "test", "version": "1"}],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
        }
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", leaf + root, private, None))
        with c2pa.Builder(manifest) as builder:
            if parent:
                about = {"title": "parent", "relationship": "parentOf", "label": "parent"}
                builder.add_ingredient(about, mime, io.BytesIO(parent))
            out = io.BytesIO()
            builder.sign(signer, mime, io.BytesIO(data), out)
        return out.getvalue()

    signed.root = root.decode()
    return signed


def test_a_signed_generated_picture_is_generated(sign, tmp_path):
    (tmp_path / "a.png").write_bytes(sign(png(), "trainedAlgorithmicMedia"))
    found = read(tmp_path / "a.png")
    assert found.verdict == "generated"
    assert "trainedAlgorithmicMedia" in found.evidence[0] and "signature valid" in found.evidence[0]
    assert read(sign(jpeg(), "trainedAlgorithmicMedia", "image/jpeg")).verdict == "generated"


def test_a_signature_beats_metadata_and_says_so(sign):
    found = read(sign(png(exif=camera_exif()), "trainedAlgorithmicMedia"))
    assert found.verdict == "generated" and any("contradiction" in line for line in found.evidence)
    assert any("Canon" in line for line in found.evidence)


def test_a_changed_file_is_believed_no_more_than_metadata(sign):
    data = bytearray(sign(png(exif=camera_exif()), "trainedAlgorithmicMedia"))
    place = data.rindex(b"IDAT") - 4  # within the pixels' chunk: a new, empty text chunk before it
    data[place:place] = b"\0\0\0\x03tEXta\0b" + zlib.crc32(b"tEXta\0b").to_bytes(4, "big")
    found = read(bytes(data))
    assert found.verdict == "unknown" and "not valid" in found.evidence[0]
    assert found.evidence[-1].startswith("contradiction")


def test_anybody_can_sign_camera_so_it_takes_a_trusted_signer(sign):
    data = sign(png({"parameters": WEB_UI}), "digitalCapture")
    unsure = read(data)
    assert unsure.verdict == "unknown" and unsure.evidence[-1].startswith("contradiction")
    trusted = read(data, trust_anchors=sign.root)
    assert trusted.verdict == "camera" and "trusted" in trusted.evidence[0]
    assert any("contradiction" in line for line in trusted.evidence)
    assert read(sign(png(), "digitalCapture")).verdict == "camera"


def test_what_a_picture_was_made_from_counts(sign):
    parent = sign(png(), "trainedAlgorithmicMedia")
    found = read(sign(png(image=pixels(1)), None, parent=parent))
    assert found.verdict == "generated" and "what it was made from" in "".join(found.evidence)


def test_a_manifest_without_a_source_type_takes_no_side(sign):
    found = read(sign(png(), "screenCapture"))
    assert found.verdict == "unknown" and "screenCapture" in found.evidence[0]


def test_a_manifest_without_the_package_is_an_error_and_no_manifest_is_none(sign, monkeypatch):
    data = sign(png(), "trainedAlgorithmicMedia")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ImportError, match=r"rlkit\[provenance\]"):
        read(data)
    assert read(png()) == Provenance("unknown", [])


@pytest.mark.parametrize(
    "data",
    [
        png({"parameters": WEB_UI}),
        png({"prompt": COMFY}),
        png({"workflow": WORKFLOW}),
        png({"sd-metadata": '{"model": "stable diffusion"}'}),
        png({"invokeai_metadata": '{"positive_prompt": "x"}'}),
        png({"Software": "NovelAI", "Source": "Stable Diffusion XL 7BCCAA2C"}),
        png(xmp=xmp("trainedAlgorithmicMedia")),
        jpeg(xmp=xmp("compositeWithTrainedAlgorithmicMedia")),
        jpeg(camera_exif(make="", model="", settings=False, software="Midjourney 6")),
        jpeg(camera_exif(make="", model="", settings=False, comment=b"UNICODE\0" + WEB_UI.encode("utf-16-be"))),
        jpeg(camera_exif(make="", model="", settings=False, comment=b"UNICODE\0" + WEB_UI.encode("utf-16-le"))),
        jpeg(camera_exif(make="", model="", settings=False, comment=b"ASCII\0\0\0" + WEB_UI.encode())),
    ],
)
def test_metadata_of_generators(data):
    found = read(data)
    assert found.verdict == "generated" and found.evidence


@pytest.mark.parametrize("data", [jpeg(camera_exif()), png(exif=camera_exif()), jpeg(xmp=xmp("digitalCapture"))])
def test_metadata_of_cameras(data):
    assert read(data).verdict == "camera"


@pytest.mark.parametrize(
    "data",
    [
        png(),
        jpeg(),
        png({"parameters": "width=3"}),  # any program may use the word
        png({"prompt": "a cat on a mat"}),
        png({"prompt": '["class_type"]'}),
        png({"workflow": "[" * 5_000}),
        png({"Title": "A talk on Stable Diffusion"}),
        jpeg(camera_exif(settings=False)),  # a name without an exposure, as editors write it
        jpeg(camera_exif(make="", model="")),
        jpeg(camera_exif(make="", model="", settings=False, software="Adobe Photoshop 25.0")),
        png(xmp=xmp("screenCapture")),
        png(xmp=xmp("algorithmicMedia")),  # drawn by a formula, not by a trained model
    ],
)
def test_what_is_no_sign(data):
    assert read(data).verdict == "unknown"


@pytest.mark.parametrize(
    "data",
    [
        png({"parameters": WEB_UI}, exif=camera_exif()),
        jpeg(camera_exif(software="Stable Diffusion web UI")),
        jpeg(camera_exif(), xmp=xmp("trainedAlgorithmicMedia")),
    ],
)
def test_contradictions_are_unknown_and_named(data):
    found = read(data)
    assert found.verdict == "unknown" and found.evidence[-1].startswith("contradiction") and len(found.evidence) == 3


def test_no_picture_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="not a picture"):
        read(b"text")
    with pytest.raises(ValueError, match="cannot be read"):
        read(png()[:200])
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.png")


def test_damaged_files_raise_nothing_but_value_errors(sign):
    rng = np.random.default_rng(0)
    whole = [png({"parameters": WEB_UI}, exif=camera_exif()), jpeg(camera_exif()), sign(png(), "digitalCapture")]
    for number in range(300):
        data = bytearray(whole[number % 3])
        for place in rng.integers(0, len(data), rng.integers(1, 12)):
            data[place] = rng.integers(256)
        try:
            assert read(bytes(data)).verdict in ("generated", "camera", "unknown")
        except ValueError:
            pass


def test_as_a_reward_unknown_is_none():
    score = reward_models.load("provenance")
    completions = [png({"prompt": COMFY}), jpeg(camera_exif()), png(), b"broken", pixels()]
    assert score(prompts=[""] * 5, completions=completions) == [0.0, 1.0, None, None, None]


def photo(rng, size=256):
    """1 / f noise with a camera's grain."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :]) + 1 / size
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / frequency).real
    field = 128 + 40 * field / field.std()
    return (field[..., None] + rng.normal(0, 3, (size, size, 3))).clip(0, 255).astype(np.uint8)


def upsampled(image, rng):
    """Half the picture through a transposed convolution with stride 2 whose weights are uneven by a tenth."""
    zeros = np.zeros(image.shape, np.float32)
    zeros[::2, ::2] = ndimage.uniform_filter(image.astype(np.float32), (2, 2, 1))[::2, ::2]
    kernel = np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]) * (1 + 0.1 * rng.standard_normal((3, 3)))
    kernel *= 4 / kernel.sum()
    out = np.stack([ndimage.convolve(zeros[..., k], kernel) for k in range(3)], axis=-1)
    return out.clip(0, 255).astype(np.uint8)


def test_the_statistic_finds_a_lattice_and_abstains_without(monkeypatch):
    rng = np.random.default_rng(0)
    for _ in range(5):
        image = photo(rng)
        assert lattice_peak(image) < SUSPECT
        assert lattice_peak(upsampled(image, rng)) > SURE
    file = io.BytesIO()
    Image.fromarray(upsampled(image, rng)).save(file, "PNG")
    found = read(file.getvalue())
    assert found.verdict == "generated" and found.evidence[0].startswith("statistics (weak)")
    assert read(file.getvalue(), statistics=False) == Provenance("unknown", [])
    monkeypatch.setattr(provenance, "lattice_peak", lambda pixels: (SUSPECT + SURE) / 2)
    between = read(file.getvalue())
    assert between.verdict == "unknown" and "no verdict" in between.evidence[0]


def test_metadata_come_before_the_statistic():
    image = Image.fromarray(upsampled(photo(np.random.default_rng(1)), np.random.default_rng(1)))
    assert read(png(exif=camera_exif(), image=image)).verdict == "camera"


def test_the_blocks_of_jpeg_are_no_lattice_and_hide_none():
    image = photo(np.random.default_rng(2))
    for quality in (90, 30):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        assert read(file.getvalue()) == Provenance("unknown", [])
    file = io.BytesIO()
    Image.fromarray(upsampled(image, np.random.default_rng(2))).save(file, "JPEG", quality=90)
    assert read(file.getvalue()).verdict == "generated"


def test_small_and_empty_pictures_have_no_statistic():
    assert lattice_peak(np.zeros((127, 300, 3), np.uint8)) is None
    assert lattice_peak(np.zeros((300, 300, 3), np.uint8)) is None


def test_no_real_picture_is_called_generated():
    checked = 0
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        files = sorted((Path(spec.submodule_search_locations[0]) / folder).glob("*.[jp][pn]g")) if spec else []
        for file in files:
            if file.stem in ("chessboard_GRAY", "chessboard_RGB", "logo", "phantom", "horse", "text", "page", "color"):
                continue  # drawn or scanned
            for data in (file.read_bytes(), png(image=Image.open(file).convert("RGB"))):
                assert read(data).verdict != "generated", file.name
                checked += 1
    if not checked:
        pytest.skip("neither scikit-image nor scikit-learn is there")
