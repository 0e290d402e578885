"""The language-model probe: its log-probabilities, what it tells the audit, and one clear error without a model."""

import itertools
import random
import subprocess
import sys

import pytest

from data_synth import audit, lm_probe
from data_synth.errors import DataError
from data_synth.pair_files import Pair

WORDS = "a dog cat runs sleeps sits on the mat and then it barks".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny real model, not trained."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {word: k for k, word in enumerate(["<s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("lm")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(vocabulary), n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


def test_log_probabilities_are_those_of_the_model(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["a dog runs", "the cat sits on the mat and then it sleeps", "a dog barks"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    for text, (total, count) in zip(texts, lm_probe.scorer(str(folder), batch_size=2)(texts), strict=True):
        ids = torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        assert count == len(text.split())
        assert total == pytest.approx(-model(input_ids=ids, labels=ids).loss.item() * count, rel=1e-4)


def test_empty_texts_score_nothing(folder):
    assert lm_probe.scorer(str(folder))(["", "a dog"])[0] == (0.0, 0)


def test_what_a_model_finds_unlikely_is_a_leak():
    draw = random.Random(0)
    pairs = []
    for k in range(120):
        words = [draw.choice(WORDS) for _ in range(8)]
        pairs.append(Pair(f"clip {k}", " ".join(sorted(words)), " ".join(words), "shuffled"))

    def score(texts):  # a model that knows that words come in the order of the alphabet
        rows = [t.split() for t in texts]
        return [(-float(sum(a > b for a, b in itertools.pairwise(r))), len(r)) for r in rows]

    report = audit.audit(pairs, score=score, sample=100)
    entry = report["operators"]["shuffled"]
    assert entry["lm"] > 0.95 and entry["lm_n"] == 100 and entry["intervals"]["lm"][0] > 0.9
    assert any("lm probe" in line for line in audit.leaks(report))
    assert "lm" in audit.table({**report, "leaks": []}).splitlines()[0]


def test_without_a_model_one_sentence_says_so(tmp_path):
    with pytest.raises(DataError, match="no causal language model"):
        lm_probe.scorer(str(tmp_path / "none"))


def test_the_audit_does_not_import_torch():
    code = "import sys, data_synth.audit, data_synth.lm_probe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
