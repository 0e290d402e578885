"""llm: a language model writes the wrong caption; it counts only when the parser confirms what was asked for.

The model is any OpenAI-compatible endpoint (`http://host:port/v1`) or a local folder or hub id that transformers loads.
Whatever it answers is checked as our own negatives are: it must differ, in the language of the caption, in the words it
was asked to change and hardly anywhere else, and an order swap must pass the round trip through the parser. What fails
is refused; nothing is repaired. The key of an endpoint is read from the environment variable OPENAI_API_KEY.
"""

import difflib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import lru_cache

from data_synth.errors import DataError
from data_synth.events import Caption, Negative, detect_language, parse
from data_synth.events.order import content_words, order_flipped
from data_synth.negatives.order_swap import refusal

ASKED = {
    "order_swap": "two neighbouring events change places in time; everything else stays",
    "attribute_swap": "one colour, size, material or other attribute is wrong; everything else stays",
    "count_change": "one number of things is wrong; everything else stays",
    "actor_swap": "somebody else does it; everything else stays",
    "insert_event": "one event that did not happen is added; everything else stays",
}
MOST_CHANGED = 0.5
"""Largest part of the words of the caption that a change of one detail may touch."""
_TOKEN = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*|[\u3400-\u9fff]|[^\w\s]")
_NUMBER = re.compile(
    r"\b(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|once|twice|an?)\b|[一二两三四五六七八九十\d]",
    re.IGNORECASE,
)


def corrupt(
    caption: str | Caption,
    *,
    seed: int = 0,
    kind: str = "order_swap",
    endpoint: str = "",
    model: str = "",
    timeout: float = 60.0,
) -> Negative | None:
    """Ask a language model for a wrong caption of one `kind`; None when its answer does not pass the checks.

    `endpoint`: base URL of an OpenAI-compatible server, with `model` the name it knows; without it, `model` is a local
    folder or hub id. `timeout`: seconds to wait for a server. Raises DataError for an unknown kind, a missing model, or
    a server that does not answer.
    """
    if not model:
        raise DataError("operator llm has no model; give endpoint and model, or model alone for a local one")
    if endpoint:
        return written(caption, kind, lambda question: _ask_endpoint(endpoint, model, question, seed, timeout))
    return written(caption, kind, lambda question: _ask_local(model, question, seed))


def written(caption: str | Caption, kind: str, ask: Callable[[str], str]) -> Negative | None:
    """What `ask` (question -> answer) writes, checked; None when it fails a check or the caption offers no such change.

    Nothing is asked where no two events have a stated order. Raises DataError for an unknown kind.
    """
    if kind not in ASKED:
        raise DataError(f"kind {kind!r} cannot be asked of a language model; choose one of {', '.join(ASKED)}")
    caption = parse(caption) if isinstance(caption, str) else caption
    if not caption.text.strip() or (kind == "order_swap" and not _swappable(caption)):
        return None
    return check(caption, _cleaned(ask(prompt(caption, kind))), kind)


def prompt(caption: Caption, kind: str) -> str:
    """What the model is asked, in the language of the caption's words."""
    return (
        "Rewrite the video caption below so that it becomes wrong in exactly one way: "
        f"{ASKED[kind]}. Keep its language, style and length. Answer with the rewritten caption alone.\n\n"
        f"{caption.text}"
    )


def check(caption: Caption, answer: str, kind: str) -> Negative | None:
    """The answer as a negative with the spans that changed; None when it is not what was asked for."""
    if not answer or "\n" in answer or detect_language(answer) != caption.language:
        return None
    spans, rejected_spans, changed = changes(caption.text, answer)
    if not changed:
        return None
    edit = {"spans": spans, "rejected_spans": rejected_spans, "asked": kind}
    if kind == "order_swap":
        return _checked_swap(caption, answer, edit)
    same_words = caption.language == "en" and content_words(answer, caption.language) == content_words(
        caption.text, caption.language
    )
    old = [caption.text[s:e] for s, e in spans]
    new = [answer[s:e] for s, e in rejected_spans]
    if kind == "insert_event":
        fine = not any(word.strip() for word in old) and len(parse(answer).events) > len(caption.events)
    elif kind == "count_change":
        fine = changed <= MOST_CHANGED and all(_NUMBER.search(w) for w in (" ".join(old), " ".join(new)))
    else:
        fine = changed <= MOST_CHANGED and not same_words
    return Negative(answer, kind, edit, f"{old} became {new}: {ASKED[kind]}") if fine else None


def changes(chosen: str, rejected: str) -> tuple[list[list[int]], list[list[int]], float]:
    """Spans of the words that differ in the two texts, and the part of the chosen words that they are."""
    left, right = list(_TOKEN.finditer(chosen)), list(_TOKEN.finditer(rejected))
    matcher = difflib.SequenceMatcher(None, [m[0] for m in left], [m[0] for m in right], autojunk=False)
    spans, landed, touched = [], [], 0
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            continue
        spans.append(_span(left, a, b, len(chosen)))
        landed.append(_span(right, c, d, len(rejected)))
        touched += max(b - a, d - c)
    return spans, landed, touched / max(len(left), 1)


def _span(found: list[re.Match], a: int, b: int, end: int) -> list[int]:
    if a < b:
        return [found[a].start(), found[b - 1].end()]
    place = found[a].start() if a < len(found) else end
    return [place, place]


def _swappable(caption: Caption) -> list[tuple[int, int]]:
    pairs = [(k, k + 1) for k in range(len(caption.events) - 1)]
    return [pair for pair in pairs if not refusal(caption, *pair)]


def _checked_swap(caption: Caption, answer: str, edit: dict) -> Negative | None:
    """The round trip: the answer says of one pair of events the opposite of the caption, and tells no other words."""
    now = parse(answer, caption.language)
    told, known = content_words(answer, caption.language), content_words(caption.text, caption.language)
    if len(told ^ known) > 0.2 * max(len(known), 1):
        return None
    turned = next((pair for pair in _swappable(caption) if order_flipped(caption, pair, now)), None)
    if turned is None:
        return None
    first, second = (caption.events[k].text for k in turned)
    edit = edit | {"events": list(turned)}
    return Negative(answer, "order_swap", edit, f"'{first}' and '{second}' change places, as both texts parse")


def _cleaned(answer: str) -> str:
    """The answer without the quotes, the label and the fence that chat models like to put around it."""
    text = re.sub(r"^```\w*\n|\n?```$", "", answer.strip()).strip()
    text = re.sub(r"^(?:rewritten |wrong )?caption:\s*", "", text, flags=re.IGNORECASE)
    return text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in ('""', "“”", "''") else text


def _ask_endpoint(endpoint: str, model: str, question: str, seed: int, timeout: float) -> str:
    """One chat completion of an OpenAI-compatible server."""
    if not endpoint.startswith(("http://", "https://")):
        raise DataError(f"endpoint {endpoint!r} is no http address; give one like http://localhost:8000/v1")
    url = endpoint.rstrip("/") + "/chat/completions"
    body = {"model": model, "seed": seed, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    headers = {"Content-Type": "application/json"}
    if os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            data = json.loads(reply.read(10_000_000))
    except (urllib.error.URLError, TimeoutError, ConnectionError, json.JSONDecodeError) as error:
        raise DataError(f"{url} gave no answer ({error}); check the server and the model name {model!r}") from None
    try:
        return str(data["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError):
        raise DataError(
            f"{url} answered without choices[0].message.content; expected an OpenAI-compatible server"
        ) from None


@lru_cache(maxsize=1)
def _local(model: str):
    """A tokenizer and a model that transformers loads."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise DataError(f"a local model needs {error.name}; install it, or give an endpoint") from None
    try:
        return AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"no causal language model at {model} ({reason}); give a folder or a hub id") from None


def _ask_local(model: str, question: str, seed: int) -> str:
    """Greedy answer of a local model; `seed` changes nothing, the same question has the same answer."""
    tokenizer, network = _local(model)
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": question}]
        question = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(question, return_tensors="pt", return_token_type_ids=False)
    size = inputs["input_ids"].shape[1]
    output = network.generate(**inputs, max_new_tokens=size, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(output[0, size:], skip_special_tokens=True)
