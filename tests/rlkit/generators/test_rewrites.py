"""Rewrites from a language model: padding changes nothing, seeds decide, texts without a chat template work too."""

import pytest

from rlkit.generators.rewrites import answer, ask, sample
from rlkit.models import tiny_language

SHORT = ["a red ball", "three purple rings on a teal background, medium shot", "two bars"]


@pytest.fixture(scope="module")
def small():
    return tiny_language.build([*SHORT * 20], width=32, layers=1)


@pytest.fixture(params=["chat", "plain"])
def tokenizer(small, request, monkeypatch):
    monkeypatch.setattr(small[1], "chat_template", small[1].chat_template if request.param == "chat" else None)
    return small[1]


def drawn(small, tokenizer, asked, **options):
    return sample(small[0], tokenizer, asked, **({"count": 1, "max_new_tokens": 8, "seed": 0} | options))


def test_greedy_rewrites_do_not_depend_on_what_is_beside_them(small, tokenizer):
    asked = [ask(tokenizer, "Rewrite: {prompt}", one) for one in SHORT]
    together = drawn(small, tokenizer, asked, temperature=0)
    assert together == [drawn(small, tokenizer, [one], temperature=0)[0] for one in asked]
    assert len({text for (text,) in together}) > 1


def test_the_seed_decides(small, tokenizer):
    asked = [ask(tokenizer, "{prompt}", one) for one in SHORT]
    first, again, other = (drawn(small, tokenizer, asked, count=3, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and [len(one) for one in first] == [3, 3, 3]


def test_prompts_and_answers_are_trls_columns(tokenizer):
    asked, said = ask(tokenizer, "Rewrite {prompt}!", "a {ball}"), answer(tokenizer, "A ball.")
    if tokenizer.chat_template is None:
        assert (asked, said) == ("Rewrite a {ball}!\n", "A ball.")
    else:
        assert asked == [{"role": "user", "content": "Rewrite a {ball}!"}]
        assert said == [{"role": "assistant", "content": "A ball."}]


def test_the_same_arguments_give_the_same_model_and_its_folder_loads(small, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = tiny_language.build([*SHORT * 20], width=32, layers=1)
    for name, weight in small[0].state_dict().items():
        assert weight.equal(model.state_dict()[name])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, of_folder = (one.from_pretrained(tmp_path) for one in (AutoModelForCausalLM, AutoTokenizer))
    asked = [ask(of_folder, "{prompt}", SHORT[0])]
    assert drawn((loaded, of_folder), of_folder, asked, temperature=0) == drawn(small, small[1], asked, temperature=0)
