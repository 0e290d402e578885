"""vLLM's draws: the bytes are vLLM's own, captions and log-probs come back to their clips, wrong servers are found.

The server here is a stand-in that decodes what it is sent and lets the same tiny model speak. With RLKIT_VLLM naming a
`vllm` executable (0.32, of another environment) the last test trains against the real one.
"""

import base64
import contextlib
import json
import os
import subprocess
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import msgpack
import numpy as np
import pytest
import torch

from rlkit.caption import generate, rows, vllm_wire
from rlkit.caption.rounds import Rounds
from rlkit.caption.vllm_server import VllmServer
from rlkit.errors import GuardError, ModelError
from rlkit.models import prepare, tiny
from rlkit.recipe import Grpo, Lora, PlugIn, Recipe, Sampling
from rlkit.scoring import Rewards

# encode_mm_kwargs_item of vLLM 0.32 of pixels [4, 2] = 0, 1/4, ..., grid [1, 2, 2] and half a second a grid.
IMAGE = (
    "gqxwaXhlbF92YWx1ZXOCpGRhdGGTp2Zsb2F0MzKSBALHIAMAAAAAAACAPgAAAD8AAEA/AACAPwAAoD8AAMA/AADgP6VmaWVsZJKkZmxhdIOra2Vl"
    "cF9vbl9jcHXCpnNsaWNlc5GTAATAo2RpbQCuaW1hZ2VfZ3JpZF90aHeCpGRhdGGTpWludDY0kQPHGAMBAAAAAAAAAAIAAAAAAAAAAgAAAAAAAACl"
    "ZmllbGSSp2JhdGNoZWSBq2tlZXBfb25fY3B1ww=="
)
VIDEO = (
    "g7NwaXhlbF92YWx1ZXNfdmlkZW9zgqRkYXRhk6dmbG9hdDMykgQCxyADAAAAAAAAgD4AAAA/AABAPwAAgD8AAKA/AADAPwAA4D+lZmllbGSSpGZs"
    "YXSDq2tlZXBfb25fY3B1wqZzbGljZXORkwAEwKNkaW0ArnZpZGVvX2dyaWRfdGh3gqRkYXRhk6VpbnQ2NJEDxxgDAQAAAAAAAAACAAAAAAAAAAIA"
    "AAAAAAAApWZpZWxkkqdiYXRjaGVkgatrZWVwX29uX2NwdcOyc2Vjb25kX3Blcl9ncmlkX3RzgqRkYXRhk6dmbG9hdDMykNYDAAAAP6VmaWVsZJKn"
    "YmF0Y2hlZIGra2VlcF9vbl9jcHXD"
)
VIDEO_TOKEN, GROUP = 7, 3


def an_example(family, tokens, positions, grid):
    patches = int(np.prod(grid))
    prompt = {
        "input_ids": torch.tensor([tokens]),
        "pixel_values_videos": torch.arange(2.0 * patches).reshape(patches, 2) / 4,
        "video_grid_thw": torch.tensor([grid]),
    }
    if family == "qwen2_5_vl":
        prompt["second_per_grid_ts"] = [0.5]
    return rows.Example(prompt, torch.tensor([positions] * 3), [], [])


@pytest.mark.parametrize(("family", "kind", "expected"), [("qwen3_vl", "image", IMAGE), ("qwen2_5_vl", "video", VIDEO)])
def test_pixels_are_the_bytes_of_vllms_own_encoder(family, kind, expected):
    made = vllm_wire.features(family, an_example(family, [1, 7, 2], [0, 1, 2], [1, 2, 2]), VIDEO_TOKEN, "salt")
    assert made["kwargs_data"] == {kind: [expected]} and made["mm_placeholders"] == {kind: [{"offset": 1, "length": 1}]}


def test_qwen3_sends_each_temporal_grid_to_its_own_place():
    example = an_example("qwen3_vl", [1, 7, 7, 2, 7, 7, 3], [0, 1, 1, 2, 3, 3, 4], [2, 2, 4])
    made = vllm_wire.features("qwen3_vl", example, VIDEO_TOKEN, "salt")
    assert made["mm_placeholders"]["image"] == [{"offset": 1, "length": 2}, {"offset": 4, "length": 2}]
    for at, packed in enumerate(made["kwargs_data"]["image"]):
        item = msgpack.unpackb(base64.b64decode(packed))
        pixels = np.frombuffer(item["pixel_values"]["data"][2].data, np.float32).reshape(8, 2)
        np.testing.assert_array_equal(pixels, example.prompt["pixel_values_videos"][at * 8 : at * 8 + 8])
    assert len(set(made["mm_hashes"]["image"])) == 2


@pytest.mark.parametrize(
    ("family", "positions", "grid", "told"),
    [
        ("qwen2_5_vl", [0, 5, 2], [1, 2, 2], "at position 2, vLLM at 6"),  # transformers 5.23 on a long narrow clip
        ("qwen3_vl", [0, 1, 2], [2, 2, 2], "2 pieces of the clip, 1 places"),
    ],
)
def test_what_vllm_would_read_otherwise_is_refused(family, positions, grid, told):
    with pytest.raises(ModelError, match=told):
        vllm_wire.features(family, an_example(family, [1, 7, 2], positions, grid), VIDEO_TOKEN, "salt")


def test_other_families_are_refused_before_a_server_is_asked(build):
    with pytest.raises(ModelError, match="the model is llava_onevision"):
        build("http://127.0.0.1:9", family="llava_onevision")


@pytest.fixture
def build(tiny_model, four_clips, tmp_path):
    """(url, model, lora, family, keys of grpo) -> Rounds on four clips that are drawn at `url`, and their examples."""
    (tmp_path / "letters.py").write_text(
        "def load(device='cpu'):\n    return lambda *, completions, **_: [float(len(one)) for one in completions]\n"
    )

    def make(url, model=None, lora=None, family="qwen3_vl", **grpo):
        captioner = prepare(*(model or tiny_model(family)), vision="frozen", lora=lora)
        clips, examples = four_clips(captioner)
        plugin = PlugIn(str(tmp_path / "letters.py"))
        recipe = Recipe(
            algorithm="grpo",
            rewards=[plugin],
            sampling=Sampling(temperature=0.7, max_completion_length=8),
            grpo=Grpo(num_generations=GROUP, use_vllm=True, vllm_server_base_url=url, vllm_server_timeout=2, **grpo),
        )
        server = VllmServer(captioner, recipe, tmp_path / "run" / "vllm")
        return Rounds(captioner, examples, clips, Rewards([plugin]), recipe, "Describe the video.", server), examples

    return make


@pytest.fixture
def stand_in():
    """() -> a server as vLLM's: its url, the requests it had, and `speak`, which answers a body of generate."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, found, status=200):
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer({"data": [{"id": "served"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.had.append((self.path, body))
            if self.path in server.refused:
                return self.answer({"error": {"message": "disabled here"}}, 403)
            return self.answer(server.speak(body) if "generate" in self.path else {})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.had, server.refused, server.lock = [], set(), threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def spoken_by(made, examples, server, off=0.0, first_token=None):
    """The stand-in answers with the captioner's own captions of the clip whose first pixels it was sent; log-probs of
    the second caption are `off`, of the third twice that. The first caption may begin with `first_token`."""
    first = {examples[at].prompt["pixel_values_videos"][0].numpy().tobytes(): at for at in range(4)}

    def speak(body):
        item = msgpack.unpackb(base64.b64decode(body["features"]["kwargs_data"]["image"][0]))
        at = first[item["pixel_values"]["data"][2].data[: item["pixel_values"]["data"][1][1] * 4]]
        said = body["sampling_params"]
        with server.lock:
            drawn = generate.completions(
                made.captioner,
                [examples[at]],
                num_generations=said["n"],
                max_completion_length=said["max_tokens"],
                temperature=said["temperature"],
                seeds=[said["seed"]],
            )[0]
        if first_token is not None:
            drawn[0].ids[0] = first_token
        assert body["token_ids"] == examples[at].prompt["input_ids"][0].tolist()
        return {
            "choices": [
                {
                    "token_ids": one.ids.tolist(),
                    "logprobs": {"content": [{"logprob": float(value) + off * at} for value in one.log_probs]},
                }
                for at, one in enumerate(drawn)
            ]
        }

    server.speak = speak


def collect(made, examples, number=0):
    return made.collect(number, [[examples[0], examples[1]], [examples[2], examples[3]]], contextlib.nullcontext)


def test_a_round_that_a_server_draws_is_the_round_of_generate(build, stand_in):
    made, examples = build(stand_in.url)
    spoken_by(made, examples, stand_in)
    found = collect(made, examples)
    own = replace(made.recipe, grpo=replace(made.recipe.grpo, use_vllm=False))
    alone = Rounds(made.captioner, made.examples, made.clips, made.rewards, own, made.question)
    for part, other in zip(found.parts, collect(alone, examples).parts, strict=True):
        assert torch.equal(part.batch["targets"], other.batch["targets"])
        torch.testing.assert_close(part.advantages, other.advantages)
        torch.testing.assert_close(part.sampling_ratio, torch.ones(2, GROUP, 1), atol=1e-3, rtol=0)
    assert found.metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
    again = made.restore(0, found.tensors())
    assert torch.equal(again.parts[0].sampling_ratio, found.parts[0].sampling_ratio)


def test_weights_go_over_before_each_round_and_nothing_of_old_ones_is_used(build, stand_in, tmp_path):
    made, examples = build(stand_in.url, lora=Lora(r=2))
    spoken_by(made, examples, stand_in)
    folder = tmp_path / "run" / "vllm"
    for number in range(2):
        collect(made, examples, number)
        assert [(path / "adapter_model.safetensors").is_file() for path in folder.iterdir()] == [True]
    asked = [(path, body) for path, body in stand_in.had if "generate" not in path]
    loaded = [body["lora_name"] for path, body in asked if path == "/v1/load_lora_adapter"]
    assert [path for path, _ in asked] == ["/v1/load_lora_adapter"] * 2 + ["/v1/unload_lora_adapter"]
    assert asked[2][1] == {"lora_name": loaded[0]} and loaded[0] != loaded[1]
    names = [body["model"] for path, body in stand_in.had if "generate" in path]
    assert names == [loaded[0]] * 4 + [loaded[1]] * 4
    assert {body["cache_salt"] for path, body in stand_in.had if "generate" in path} == set(loaded)
    assert [path.name for path in folder.iterdir()] == [loaded[1]]
    made.server.close()
    assert not folder.exists()


def test_full_weights_are_reloaded_and_the_towers_cache_is_not_relied_on(build, stand_in):
    made, examples = build(stand_in.url)
    spoken_by(made, examples, stand_in)
    hashes = []
    for number in range(2):
        collect(made, examples, number)
        body = next(body for path, body in reversed(stand_in.had) if "generate" in path)
        hashes.append(body["features"]["mm_hashes"]["image"])
    reloads = [body for path, body in stand_in.had if path == "/collective_rpc"]
    assert [one["method"] for one in reloads] == ["reload_weights"] * 2 and not set(hashes[0]) & set(hashes[1])


def test_a_server_with_other_weights_is_found(build, stand_in):
    made, examples = build(stand_in.url)
    spoken_by(made, examples, stand_in, off=-0.1)
    with pytest.raises(GuardError, match=r"0\.1 nats a token off"):
        collect(made, examples)


def test_rounding_is_weighed(build, stand_in):
    """exp of the summed gap a caption; a caption above the limit does not count."""
    made, examples = build(stand_in.url, vllm_importance_sampling_clip_max=1.2)
    spoken_by(made, examples, stand_in, off=-0.02)
    part = collect(made, examples).parts[0]
    expected = (0.02 * torch.arange(GROUP) * part.batch["answer_lengths"]).exp()
    assert (expected > 1.2).any() and ((expected > 1) & (expected < 1.2)).any()
    expected[expected > 1.2] = 0
    torch.testing.assert_close(part.sampling_ratio[..., 0], expected, atol=1e-3, rtol=0)


def test_a_caption_that_is_left_out_is_neither_compared_nor_weighed(build, stand_in):
    """A placeholder in an answer is replaced, so its log-probs are of another token."""
    made, examples = build(stand_in.url, vllm_importance_sampling_mode="sequence_truncate")
    spoken_by(made, examples, stand_in, first_token=made.captioner.processor.video_token_id)
    part = collect(made, examples).parts[0]
    assert not part.mask[:, 0].any() and torch.equal(part.sampling_ratio[:, 0], torch.ones(2, 1))


def test_a_server_that_refuses_or_is_not_there_is_told(build, stand_in):
    made, examples = build(stand_in.url)
    stand_in.refused = {"/inference/v1/generate"}
    with pytest.raises(ModelError, match=r"refused \(403\): disabled here\. Start one with .*--enable-scale-out"):
        collect(made, examples)
    with pytest.raises(ModelError, match="no vLLM server answers"):
        build("http://127.0.0.1:9")


def test_a_server_that_goes_is_waited_for(build, stand_in):
    made, examples = build(stand_in.url)
    spoken_by(made, examples, stand_in)
    stand_in.shutdown()
    stand_in.server_close()
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer within grpo\.vllm_server_timeout, 2 s"):
        collect(made, examples)
    assert time.monotonic() - started > 2


@pytest.mark.skipif("RLKIT_VLLM" not in os.environ, reason="RLKIT_VLLM names no vllm executable")
@pytest.mark.parametrize("lora", [None, Lora(r=4)])
def test_the_real_server_speaks_as_training_does(build, tmp_path, lora):
    """Before and after the weights have moved: log-probs of vLLM's draws are those of training."""
    # vLLM's CPU kernels want heads of 32
    model = tiny.build("qwen3_vl", ["A man opens a box.", "Describe the video."] * 9, vision_hidden_size=128)
    for part in model:
        part.save_pretrained(tmp_path / "model")
    flags = "--port 8765 --dtype float32 --max-model-len 512 --enforce-eager --enable-scale-out --max-lora-rank 16 "
    flags += "--no-mm-device-do-normalize --logprobs-mode processed_logprobs --enable-lora"
    own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    command = [os.environ["RLKIT_VLLM"], "serve", str(tmp_path / "model"), *flags.split()]
    with subprocess.Popen(command, env=environment) as process:
        try:
            for _ in range(100):
                try:
                    urlopen("http://localhost:8765/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(3)
            made, examples = build("http://localhost:8765", model, lora)
            made.server.timeout = made.server.client.timeout = 200
            for number in range(2):
                found = collect(made, examples, number)
                assert found.metrics["sampling/sampling_logp_difference/max"] < 1e-4
                with torch.no_grad():
                    for name, weight in made.captioner.model.named_parameters():
                        # vLLM's CPU backend keeps a copy of embeddings that are tied
                        if weight.requires_grad and "visual" not in name and "embed" not in name:
                            weight.add_(0.05 * torch.randn_like(weight))
        finally:
            process.terminate()
