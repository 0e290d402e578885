"""Captions drawn by a vLLM server, for GRPO; the policy's weights are handed over through a folder before each round.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank 16 \\
      --enable-scale-out --no-mm-device-do-normalize --logprobs-mode processed_logprobs

vLLM (0.32) lives in an environment of its own, as a rule on devices of its own. An adapter is loaded by the stock
endpoint; full weights by `reload_weights`, for which the server needs VLLM_SERVER_DEV_MODE=1 too.
Pixels go over normalised (hence --no-mm-device-do-normalize), log-probs come back at the temperature of the draw
(hence --logprobs-mode). A server that was started otherwise is found by its log-probs (rlkit/caption/rounds.py).

Draws are seeded, but vLLM's kernels depend on what else is in the batch: a resumed run draws other captions.
"""

import shutil
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch

from rlkit.caption import rows, vllm_wire
from rlkit.caption.generate import Completion
from rlkit.errors import ModelError
from rlkit.models import Captioner, is_adapted
from rlkit.recipe import Recipe
from rlkit.running import ranks

PARALLEL = 32  # requests under way, each for all captions of a clip
PAUSE = 1.0  # seconds between attempts to reach a server that has gone
START = (
    "Start one with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-lora "
    "--enable-scale-out --no-mm-device-do-normalize --logprobs-mode processed_logprobs`"
)


class VllmServer:
    """A server that speaks as the policy did at the last `update`."""

    def __init__(self, captioner: Captioner, recipe: Recipe, folder: Path) -> None:
        """Reach the server; `folder`, which it must see under the same path, takes the weights.

        Raises ModelError where none answers, for a model that vLLM cannot be handed, and without msgpack.
        """
        self.url, self.timeout = recipe.grpo.vllm_server_base_url.rstrip("/"), recipe.grpo.vllm_server_timeout
        self.captioner, self.folder, self.version = captioner, folder.absolute(), ""
        self.name = ranks.gathered(f"rlkit-{uuid.uuid4().hex[:12]}")[0]
        vllm_wire.require_known(captioner.family)
        if ranks.sharded():
            raise ModelError("grpo.use_vllm runs on one process or under ddp: the weights of shards are not handed on.")
        try:
            import msgpack  # noqa: F401
        except ImportError:
            raise ModelError("grpo.use_vllm needs msgpack: pip install 'rlkit[vllm]'.") from None
        self.client = httpx.Client(base_url=self.url, timeout=self.timeout)
        try:
            self.model = self.client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
            where = f"grpo.vllm_server_base_url {self.url}"
            raise ModelError(f"{where}: no vLLM server answers ({error}). {START}.") from None

    def update(self, number: int) -> None:
        """Hand the policy as it is now to the server. Called by all processes, before they draw round `number`."""
        previous, self.version = self.version, f"{self.name}-{number}"  # new names: nothing cached is of old weights
        path, adapted = self.folder / self.version, is_adapted(self.captioner.model)
        if ranks.is_main():
            self.captioner.model.save_pretrained(path)
            if adapted:
                self._post("/v1/load_lora_adapter", {"lora_name": self.version, "lora_path": str(path)})
            else:
                self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(path)}})
            self._forget(previous)
        self.model = self.version if adapted else self.model
        ranks.wait()

    def close(self) -> None:
        """Take the adapter from the server and remove the files; full weights stay on it."""
        if ranks.is_main():
            self._forget(self.version)
            shutil.rmtree(self.folder, ignore_errors=True)
        self.client.close()

    def _forget(self, version: str) -> None:
        """Drop the adapter and the files of earlier weights; there are none before the first."""
        if version:
            if is_adapted(self.captioner.model):
                self._post("/v1/unload_lora_adapter", {"lora_name": version})
            shutil.rmtree(self.folder / version, ignore_errors=True)

    def completions(
        self,
        examples: Sequence[rows.Example],
        *,
        num_generations: int,
        max_completion_length: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[list[Completion]]:
        """`num_generations` samples for the prompt of each example, as generate.completions draws them."""
        video, end = self.captioner.processor.video_token_id, self.captioner.processor.tokenizer.eos_token_id
        shared = {"n": num_generations, "temperature": temperature, "max_tokens": max_completion_length, "logprobs": 0}
        own = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": [end]}
        # Reloading empties the worker's cache of what the tower saw, but not the list of what is in it.
        salt = self.name if is_adapted(self.captioner.model) else self.version
        bodies = [
            {
                "model": self.model,
                "token_ids": example.prompt["input_ids"][0].tolist(),
                "features": vllm_wire.features(self.captioner.family, example, video, salt),
                "sampling_params": {**shared, **own, "seed": seed % 2**62},
                "cache_salt": self.version,  # prefixes that other weights have cached are not these weights'
            }
            for example, seed in zip(examples, seeds, strict=True)
        ]
        with ThreadPoolExecutor(PARALLEL) as pool:
            answers = list(pool.map(lambda body: self._post("/inference/v1/generate", body), bodies))
        return [[_completion(choice) for choice in answer["choices"]] for answer in answers]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """The server's answer. One that cannot be reached is waited for; one that refuses raises ModelError."""
        stop = time.monotonic() + self.timeout
        while True:
            try:
                answer = self.client.post(path, json=body)
                break
            except httpx.TransportError as error:
                if time.monotonic() > stop:
                    raise ModelError(
                        f"{self.url}{path}: no answer within grpo.vllm_server_timeout, {self.timeout:g} s ({error}). "
                        f"{START}, then run the recipe again: it goes on from its last checkpoint."
                    ) from None
                time.sleep(PAUSE)
        if answer.is_success:
            return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text
        raise ModelError(f"{self.url}{path}: vLLM refused ({answer.status_code}): {_said(answer)}. {START}.")


def _said(answer: httpx.Response) -> str:
    """What the server tells of an error, shortened."""
    try:
        text = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        text = answer.text
    return " ".join(str(text).split())[:300]


def _completion(choice: dict[str, Any]) -> Completion:
    """One sample of an answer. Raises ModelError where the server told no log-probs."""
    said = (choice.get("logprobs") or {}).get("content") or []
    ids = choice["token_ids"]
    if len(said) != len(ids) or not ids:
        raise ModelError(f"vLLM gave {len(said)} log-probs for {len(ids)} tokens; its version may not be 0.32.")
    return Completion(torch.tensor(ids), torch.tensor([float(one["logprob"]) for one in said]))
