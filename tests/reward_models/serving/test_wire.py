"""Pictures and columns on the wire: every bit arrives, and what should not arrive does not."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reward_models.serving import wire

LIMITS = wire.Limits()


def sent(prompt="a dog", completion="woof", **columns):
    """What a server reads of an item that a client writes, by way of bytes."""
    body = wire.write_request([wire.encode_item(prompt, completion, columns)], None)
    return wire.decode_item(wire.read_request(body).items[0], LIMITS)


def read(completion, limits=LIMITS, **columns):
    return wire.decode_item(wire.Item(completion=completion, columns=columns), limits)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def same(one, two):
    assert (one.mode, one.size, one.tobytes()) == (two.mode, two.size, two.tobytes())


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (3, 5, 7, 3), (1, 1, 1, 3), (2, 4, 4, 1)])
def test_png_and_raw_are_the_same_frames_bit_for_bit(shape):
    frames = noise(*shape)
    raw, png = (read(wire.encode_frames(frames, form))[1] for form in ("raw", "png"))
    for found in (raw, png):
        assert found.dtype == np.uint8 and found.shape == shape and (found == frames).all()


@pytest.mark.parametrize("mode", [mode for mode in wire.PNG_MODES if mode != "I;16"])
def test_pictures_keep_mode_and_pixels(mode):
    image = Image.fromarray(noise(9, 8, 3)).convert("P" if mode == "P" else mode)
    found = sent(completion=image)[1]
    same(found, image)
    assert found.getpalette() == image.getpalette()


def test_sixteen_bits_stay_sixteen():
    image = Image.fromarray(np.arange(0, 60_000, 1_000, dtype=np.uint16).reshape(6, 10))
    same(sent(completion=image)[1], image)


def test_what_a_picture_tells_about_itself_arrives():
    # provenance rewards read the generator's parameters; orientation changes what a reward sees
    about, exif = PngInfo(), Image.Exif()
    about.add_text("parameters", "a dog, steps: 20, 采样器: Euler")
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(noise(4, 6, 3)).save(file, "PNG", pnginfo=about, exif=exif, icc_profile=b"profile")
    found = sent(completion=Image.open(file))[1]
    assert found.info["parameters"] == "a dog, steps: 20, 采样器: Euler"
    assert found.getexif()[0x0112] == 6 and found.info["icc_profile"] == b"profile"


def test_a_transparent_colour_stays_transparent():
    image = Image.fromarray(noise(4, 4, 3)).quantize(8)
    image.info["transparency"] = image.getpixel((0, 0))
    found = sent(completion=image)[1]
    same(found.convert("RGBA"), image.convert("RGBA"))
    assert found.convert("RGBA").getpixel((0, 0))[3] == 0


def test_jpeg_would_not_do():
    # the reason for PNG: smooth pictures too come back changed, at the best quality there is
    image = Image.fromarray(np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=100)
    assert np.abs(np.asarray(Image.open(file), int) - np.asarray(image, int)).max() > 0
    same(sent(completion=image)[1], image)


def test_messages_and_columns_arrive_as_they_were():
    image, frames = Image.fromarray(noise(4, 4, 3)), noise(2, 4, 4, 3)
    prompt = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "说什么?"}]}]
    events = [["red circle", "moves left"], ["it", "stops"]]
    found, completion, columns = sent(
        prompt, [{"role": "assistant", "content": "好"}], events=events, videos=[frames], fps=np.float32(2.5), n=None
    )
    same(found[0]["content"][0]["image"], image)
    assert found[0]["content"][1] == {"type": "text", "text": "说什么?"}
    assert completion == [{"role": "assistant", "content": "好"}]
    assert (columns["events"], columns["fps"], columns["n"]) == (events, 2.5, None)
    assert (columns["videos"][0] == frames).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (noise(4, 4, 3) / 255, r"completion is an array of float64; expected uint8"),
        (noise(4, 4, 5), r"the shape \[4, 4, 5\]; expected \[H, W\]"),
        (noise(0, 4, 4, 3), r"nothing empty"),
        (Image.new("CMYK", (2, 2)), r"mode CMYK; PNG holds"),
        (Image.new("F", (2, 2)), r"mode F"),
        (object(), r"completion is a object; expected text"),
        ({"$media": "png"}, r"none called \$media"),
        ([{"a": {1: 2}}], r"completion\[0\].a has the keys \[1\]"),
    ],
)
def test_what_has_no_form_on_the_wire_is_the_callers_mistake(value, message):
    with pytest.raises(TypeError, match=message):
        sent(completion=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "half \ud83d", Image.new("RGB", (0, 3))])
def test_values_that_cannot_travel(value):
    with pytest.raises(wire.WireError, match="completion"):
        sent(completion=value)


def bomb(width, height):
    """A PNG of few bytes that unpacks to width x height."""
    chunks = b"\x89PNG\r\n\x1a\n"
    rows = zlib.compress(b"\0" * (1 + width // 8) * min(height, 4096))
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return chunks


def media(data=b"", **change):
    return {"$media": "png", "data": base64.b64encode(data).decode()} | change


def picture(form, size=(4, 4)):
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * 100_001, r"completion has 100001 characters, the limit is 100000"),
        (media(bomb(50_000, 50_000)), r"over 33554432 pixels"),
        ([media(bomb(2048, 4096))] * 5, r"completion\[4\]: the item has over 33554432 pixels"),
        (media(picture("PNG", (64, 64))[:900]), r"the PNG is damaged"),
        (media(b"not a picture" * 9), r"completion: no PNG"),
        (media(picture("JPEG")), r"no PNG"),
        (media(picture("TIFF")), r"no PNG"),
        (media(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), r"no PNG"),
        (media() | {"data": "****"}, r"data is not base64"),
        (media() | {"data": "AAAA AAAA"}, r"data is not base64"),
        (media() | {"data": "AAAA*AAA"}, r"data is not base64"),
        (media() | {"data": "AA==AAAA"}, r"data is not base64"),
        (media() | {"data": "AAA"}, r"data is not base64"),
        (media() | {"data": "ÄÄÄÄ"}, r"data is not base64"),
        (media() | {"data": 7}, r"expected \$media 'png' or 'raw' with data"),
        (media(run="me"), r"expected \$media"),
        ({"$media": "pickle", "data": ""}, r"expected \$media 'png' or 'raw'"),
        (media(picture("PNG"), shape=[4, 5, 3]), r"the PNG is 4 wide and 4 high; the shape is \[4, 5, 3\]"),
        (media(picture("PNG"), shape=[4, 4]), r"of mode RGB; the shape is \[4, 4\]"),
        (media(**{"$media": "raw"}, shape=[1, 1]), r"dtype is 'None'"),
        (media(**{"$media": "raw"}, dtype="object", shape=[1, 1]), r"dtype is 'object'; expected 'uint8'"),
        (media(b"1234", **{"$media": "raw"}, dtype="uint8", shape=[1, 1, 3]), r"4 bytes; the shape \[1, 1, 3\] has 3"),
        (media(**{"$media": "raw"}, dtype="uint8"), r"shape is no list of integers"),
        (media(**{"$media": "raw"}, dtype="uint8", shape=[True, 1]), r"shape is no list of integers"),
        (media(**{"$media": "raw"}, dtype="uint8", shape=[-1, -1]), r"nothing empty"),
        (media(**{"$media": "raw"}, dtype="uint8", shape=[10**9, 10**9, 3]), r"over 33554432 pixels"),
        (float("inf"), "no JSON number"),
    ],
)
def test_a_server_refuses_an_item_that_is_too_large_or_no_picture(value, message):
    with pytest.raises(wire.WireError, match=message):
        read(value)


def test_deep_nesting_ends_in_an_error():
    deep = "x"
    for _ in range(wire.Limits().depth + 1):
        deep = [deep]
    with pytest.raises(wire.WireError, match="inside one another"):
        read(deep)
    with pytest.raises(wire.WireError, match="recursion limit"):
        wire.read_request(b'{"schema": 1, "items": [{"completion": ' + b"[" * 50_000)


@pytest.mark.parametrize(
    ("completion", "columns"),
    [
        ("", {"images": ["/etc/passwd"]}),
        ("", {"videos": "http://169.254.169.254/latest"}),
        ([{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}], {}),
        ([{"role": "user", "content": [{"type": "image", "url": "http://10.0.0.1/"}]}], {}),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}], {}),
        ("", {"image": {"bytes": None, "path": "/etc/passwd"}}),
    ],
)
def test_a_client_cannot_name_files_of_the_server(completion, columns):
    # rewards and processors open a string they find where a picture is expected
    with pytest.raises(wire.WireError, match="opens no files"):
        read(completion, **columns)
    read(completion, wire.Limits(paths=True), **columns)


def test_a_column_of_pictures_and_texts_about_them_pass():
    part = wire.encode_item("", [{"type": "image", "image": Image.new("RGB", (1, 1)), "text": "cap"}], {})
    assert read(part["completion"], url="a plain column")[2] == {"url": "a plain column"}


def test_a_column_cannot_stand_in_for_the_prompts():
    with pytest.raises(wire.WireError, match="a column may not be called completions or prompts"):
        read("x", prompts="other", completions="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema: Input should be 1"),
        ({"reward": 3}, "reward: Input should be a valid string"),
        ({"items": []}, "items: List should have at least 1 item"),
        ({"items": [{"prompt": "x"}]}, "items.0.completion: Field required"),
        ({"items": [{"completion": "x", "colums": {}}]}, "items.0.colums: Extra inputs"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
    ],
)
def test_requests_are_read_strictly(change, message):
    body = {"schema": 1, "items": [{"completion": "x"}]}
    assert wire.read_request(json.dumps(body).encode()).items[0].completion == "x"
    with pytest.raises(wire.WireError, match=message):
        wire.read_request(json.dumps(body | change).encode())


@pytest.mark.parametrize("score", ["NaN", "Infinity", "1e999"])
def test_a_reply_never_carries_what_is_no_number(score):
    with pytest.raises(ValueError, match="finite"):
        wire.Reply.model_validate_json(
            f'{{"schema": 1, "items": [{{"score": {score}, "error": null}}], "rewards": {{}}}}'
        )
