"""The language-model operator: what it accepts and refuses, over HTTP against a local server, and with a tiny model."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from data_synth.errors import DataError
from data_synth.events import parse
from data_synth.negatives import llm

CAPTION = "A man opens the door. Then a dog runs into the garden."
SWAPPED = "A dog runs into the garden. Then a man opens the door."


@pytest.fixture
def server():
    """A server that answers every question with `answer` and remembers what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.reply)

        def log_message(self, *_):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    httpd.asked, httpd.reply = [], b"{}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def url(server):
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_a_server_is_asked_in_the_common_form_and_its_answer_checked(server):
    server.reply = json.dumps({"choices": [{"message": {"content": f'"{SWAPPED}"'}}]}).encode()
    negative = llm.corrupt(CAPTION, endpoint=url(server), model="tiny", seed=3)
    asked = server.asked[0]
    assert (asked["model"], asked["seed"]) == ("tiny", 3) and asked["messages"][0]["content"].endswith(CAPTION)
    assert (negative.kind, negative.text, negative.edit["events"]) == ("order_swap", SWAPPED, [0, 1])


def test_a_server_without_an_answer_is_one_sentence(server):
    with pytest.raises(DataError, match="OpenAI-compatible"):
        llm.corrupt(CAPTION, endpoint=url(server), model="tiny")
    with pytest.raises(DataError, match="gave no answer"):
        llm.corrupt(CAPTION, endpoint="http://127.0.0.1:9/v1", model="tiny", timeout=5)
    with pytest.raises(DataError, match="no http address"):
        llm.corrupt(CAPTION, endpoint="localhost", model="tiny")


@pytest.mark.parametrize(
    ("kind", "caption", "answer", "spans"),
    [
        ("attribute_swap", "A red car stops.", "A blue car stops.", ([[2, 5]], [[2, 6]])),
        ("count_change", "Two dogs run.", "Three dogs run.", ([[0, 3]], [[0, 5]])),
        ("actor_swap", "A man sings a song.", "A woman sings a song.", ([[2, 5]], [[2, 7]])),
        ("insert_event", "A man sings.", "A man sings. Then he bows.", ([[12, 12]], [[13, 26]])),
        ("attribute_swap", "一辆红车停下。", "一辆蓝车停下。", ([[2, 3]], [[2, 3]])),
    ],
)
def test_what_was_asked_for_comes_with_its_spans(kind, caption, answer, spans):
    negative = llm.written(caption, kind, lambda _: answer)
    assert negative.kind == kind and (negative.edit["spans"], negative.edit["rejected_spans"]) == spans


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("order_swap", CAPTION),
        ("order_swap", ""),
        ("order_swap", "A dog runs into the garden after a man opens the door."),
        ("order_swap", "A woman closes a window. Then a cat jumps onto the roof."),
        ("order_swap", "一只狗跑进花园，然后一个男人打开门。"),
        ("order_swap", "Sure! Here it is:\nA dog runs."),
        ("attribute_swap", "Nothing of this caption is left in the answer at all."),
        ("count_change", "A woman opens the door. Then a dog runs into the garden."),
        ("insert_event", "A man opens the window. Then a dog runs into the garden."),
    ],
)
def test_anything_else_is_refused(kind, answer):
    assert llm.written(CAPTION, kind, lambda _: answer) is None


def test_without_evidence_of_order_nothing_is_asked():
    def ask(_):
        raise AssertionError("asked")

    assert llm.written("A man sings while a woman dances.", "order_swap", ask) is None


def test_no_model_and_unknown_kinds_are_one_sentence():
    with pytest.raises(DataError, match="no model"):
        llm.corrupt(CAPTION)
    with pytest.raises(DataError, match="choose one of"):
        llm.corrupt(CAPTION, kind="verbose", model="x")


def test_a_local_model_is_asked(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = [m[0] for m in llm._TOKEN.finditer(llm.prompt(parse(CAPTION), "order_swap"))]
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(["<s>", "<unk>", *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<s>", unk_token="<unk>").save_pretrained(tmp_path)
    size = {"vocab_size": len(vocabulary), "n_positions": 256, "n_embd": 8, "n_layer": 1, "n_head": 1}
    GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path)
    answer = llm._ask_local(str(tmp_path), llm.prompt(parse(CAPTION), "order_swap"), 0)
    assert isinstance(answer, str) and answer == llm._ask_local(
        str(tmp_path), llm.prompt(parse(CAPTION), "order_swap"), 1
    )
    assert llm.corrupt(CAPTION, model=str(tmp_path)) is None  # an untrained model never passes the round trip


def test_a_missing_local_model_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no causal language model"):
        llm.corrupt(CAPTION, model=str(tmp_path / "none"))
