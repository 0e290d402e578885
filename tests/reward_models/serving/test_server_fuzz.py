"""10,000 hostile requests: none runs anything, none brings the server down, every answer is JSON with 2xx or 4xx."""

import asyncio
import base64
import io
import json
import os
import pickle
import random
import struct
import zlib
from collections import Counter

import numpy as np
from PIL import Image

from reward_models.serving import server, wire
from tests.reward_models.asgi import ask

PAYLOADS = 10_000
UNPACKS_TO_3_MB = b"a\0\0" + zlib.compress(bytes(3_000_000))
WORDS = ["", "a dog", "x" * 300, "\0", "\u202e", "💥" * 9, "../../etc/passwd", "'; DROP TABLE", "{{7*7}}", "${jndi:x}"]
NUMBERS = [0, -1, 1, 2**63, -(2**64), 10**400, 0.1, -1e308, 1e-320, True, False, None]
HEADERS = {
    "x-deadline-ms": ["1", "1e9", "-1", "nan", "", "0x10", "9" * 400, "1;2", "\xff"],
    "idempotency-key": ["", "k", "k" * 300, "\xff\xfe", "../x"],
    "content-type": ["", "application/x-pickle", "text/html", "application/json;charset=utf-16", "json", "\xff"],
    "content-encoding": ["gzip", "br", "", "identity"],
    "content-length": ["0", "-1", "1e3", "9" * 30, "abc", "²", "5"],
    "authorization": ["Bearer", "Bearer \xff", "Basic eA==", "Bearer secret, Bearer secret", ""],
}


class Bait:
    """Unpickling it runs a command that leaves a file behind."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def reward(*, prompts, completions, **columns):
    """Looks at everything it is given; some of it makes it raise."""
    return [len(str(one)) + float(np.asarray(one).size if isinstance(one, Image.Image) else 0) for one in completions]


def good(rng):
    """A request that is right, to be spoiled."""
    frames = np.frombuffer(rng.randbytes(2 * 4 * 4 * 3), np.uint8).reshape(2, 4, 4, 3)
    pictures = [Image.fromarray(frames[0]), frames, frames[0]]
    items = [
        wire.encode_item(rng.choice(WORDS), rng.choice([*WORDS, *pictures]), {"n": k, "videos": [frames]})
        for k in range(rng.randint(1, 3))
    ]
    return {"schema": 1, "reward": rng.choice([None, "length"]), "items": items}


def junk(rng, depth=0):
    """Any JSON value."""
    kind = rng.randrange(6 if depth < 4 else 3)
    if kind == 0:
        return rng.choice(WORDS)
    if kind in (1, 2):
        return rng.choice(NUMBERS)
    if kind == 3:
        return [junk(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    keys = ["$media", "data", "shape", "dtype", "images", "url", "prompt", "completion", "columns", "__class__", "\0"]
    found = {rng.choice(keys): junk(rng, depth + 1) for _ in range(rng.randint(0, 4))}
    if kind == 5:
        data = base64.b64encode(rng.randbytes(rng.choice([0, 3, 12, 48]))).decode()
        found |= {
            "$media": rng.choice(["raw", "png", "pickle", "npy"]),
            "data": data,
            "dtype": rng.choice(["uint8", "O"]),
        }
        found["shape"] = [rng.choice([0, 1, 4, -1, 2**40, 3]) for _ in range(rng.randint(0, 5))]
    return found


def places(tree, path=()):
    """The way to every value inside."""
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def spoiled_tree(rng, bait):
    """A right request with one value replaced, removed or added."""
    tree = good(rng)
    *path, last = rng.choice([path for path in places(tree) if path])
    inside = tree
    for key in path:
        inside = inside[key]
    what = rng.randrange(4)
    if what == 0 and isinstance(inside, dict):
        del inside[last]
    elif what == 1 and isinstance(inside, dict):
        inside[rng.choice(["$media", "extra", "prompts", "images", "path"])] = junk(rng)
    else:
        inside[last] = junk(rng) if what == 2 else base64.b64encode(bait).decode()
    return json.dumps(tree).encode()


def spoiled_bytes(rng, bait):
    """A right request with bytes changed, cut or put in."""
    body = bytearray(json.dumps(good(rng)).encode())
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(body) + 1)
        body[place : place + rng.choice([0, 1, 1, 9])] = rng.randbytes(rng.choice([0, 1, 1, 4]))
    return bytes(body[: rng.choice([len(body), len(body), rng.randrange(len(body) + 1)])])


def spoiled_png(rng, bait):
    """A PNG with bytes changed, chunks invented, or a size it does not have."""
    file = io.BytesIO()
    mode = rng.choice(wire.PNG_MODES[:6])
    Image.fromarray(np.frombuffer(rng.randbytes(300), np.uint8).reshape(10, 10, 3)).convert(mode).save(file, "PNG")
    data = bytearray(file.getvalue())
    what = rng.randrange(4)
    if what == 0:
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
    elif what == 1:
        data = data[: rng.randrange(len(data))]
    elif what == 2:
        head = struct.pack(
            ">IIBBBBB", rng.choice([0, 1, 2**31, 9, 500]), rng.choice([0, 2**20, 10, 500]), *rng.randbytes(5)
        )
        data[16:29], data[29:33] = head, struct.pack(">I", zlib.crc32(b"IHDR" + head))
    else:
        kind = rng.choice([b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fdAT", b"tRNS", b"PLTE", b"gAMA"])
        inside = rng.choice([bait, UNPACKS_TO_3_MB, rng.randbytes(40), b""])
        data[33:33] = struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))
    media = {"$media": "png", "data": base64.b64encode(bytes(data)).decode()}
    if rng.random() < 0.3:
        media["shape"] = [10, 10, 3]
    return json.dumps({"schema": 1, "items": [{"completion": media}]}).encode()


def raw_bytes(rng, bait):
    """What is no request at all."""
    start = b'{"schema": 1, "items": [{"completion": '
    kinds = [
        lambda: bait,
        lambda: rng.randbytes(rng.randrange(200)),
        lambda: b"[" * rng.randrange(5000),
        lambda: b'{"schema":' * rng.randrange(300),
        lambda: json.dumps(junk(rng)).encode(),
        lambda: json.dumps({"schema": 1, "items": [junk(rng)]}).encode(),
        lambda: json.dumps({"schema": 1, "items": [{"completion": junk(rng), "columns": {"a": junk(rng)}}]}).encode(),
        lambda: start + b'"' + rng.choice([b"\\ud800", b"\xed\xa0\x80", b"\\u0000"]) + b'"}]}',
        lambda: start + rng.choice([b"NaN", b"-Infinity", b"1e999", b"9" * 5000]) + b"}]}",
        lambda: json.dumps(good(rng)).encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + json.dumps(good(rng)).encode(),
    ]
    return rng.choice(kinds)()


def some_headers(rng):
    """Mostly none; else one or two that are wrong."""
    return {name: rng.choice(HEADERS[name]) for name in rng.sample(list(HEADERS), rng.choice([0, 0, 0, 0, 0, 1, 2]))}


def test_hostile_requests_run_nothing_and_break_nothing(tmp_path):
    trap = tmp_path / "sprung"
    bait = pickle.dumps(Bait(f"touch {trap}"))
    assert b"touch" in bait
    rng, seen = random.Random(4), Counter()
    served = server.create_app({"length": reward}, max_wait_ms=0.0, token="secret", deadline_s=10.0)

    async def throw():
        for number in range(PAYLOADS):
            make = (spoiled_tree, spoiled_bytes, spoiled_png, raw_bytes)[number % 4]
            body, headers = make(rng, bait), {"authorization": "Bearer secret"} | some_headers(rng)
            status, about, answer = await ask(served, body, headers)
            assert 200 <= status < 300 or 400 <= status < 500, (number, status, body[:200])
            assert about["content-type"] == "application/json"
            told = json.loads(answer)
            if status == 200:
                for item in told["items"]:
                    assert (item["score"] is None) == bool(item["error"])
            seen[make, status == 200 and told["items"][0]["error"] is None] += 1
        ok = await ask(served, json.dumps(good(rng)).encode(), {"authorization": "Bearer secret"})
        assert ok[0] == 200 and (await ask(served, method="GET", path="/health"))[0] == 200

    asyncio.run(throw())
    assert not trap.exists()
    assert sum(seen.values()) == PAYLOADS
    for make in (spoiled_tree, spoiled_bytes, spoiled_png, raw_bytes):  # neither side of the check is idle
        assert min(seen[make, True], seen[make, False]) > 50, seen


def test_the_bait_would_work(tmp_path):
    pickle.loads(pickle.dumps(Bait(f"touch {tmp_path / 'sprung'}")))  # noqa: S301
    assert (tmp_path / "sprung").exists()
