"""Order swaps: evidence, slots, mentions, casing; no false negatives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_synth.events import with_events
from data_synth.negatives import order_swap

WORLD = "A red circle moves left. Then a blue square spins. Finally a green star grows."


def swapped(text, seed=0):
    negative = order_swap.corrupt(text, seed=seed)
    return None if negative is None else negative.text


def test_markers_stay_in_their_slots():
    expected = {
        "A blue square spins. Then a red circle moves left. Finally a green star grows.",
        "A red circle moves left. Then a green star grows. Finally a blue square spins.",
    }
    assert {swapped(WORLD, seed) for seed in range(8)} == expected


def test_the_edit_points_at_both_texts():
    negative = order_swap.corrupt(WORLD)
    (a, b), (c, d) = negative.edit["spans"], negative.edit["rejected_spans"]
    assert WORLD[slice(*a)].lower() == negative.text[slice(*d)].lower()
    assert WORLD[slice(*b)].lower() == negative.text[slice(*c)].lower()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man runs. Then he jumps.", "A man jumps. Then he runs."),
        ("He cuts an onion before he fries it.", "He fries an onion before he cuts it."),
        ("The ball rolls away after the boy kicks it.", "The boy kicks the ball after it rolls away."),
        (
            "A woman mixes some eggs. Then she adds the eggs to a bowl.",
            "A woman adds some eggs to a bowl. Then she mixes the eggs.",
        ),
        ("The cook opens the lid, then stirs the soup.", "The cook stirs the soup, then opens the lid."),
    ],
)
def test_antecedents_move(caption, expected):
    assert swapped(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "A dog barks while a cat sleeps.",
        "A man sings. Meanwhile a woman dances.",
        "A man sings and a woman dances.",
        "A man sings. A woman dances.",
        "A man walks and then he walks.",
        "A man is standing in a room. Then a dog barks.",
        "A man sings.",
        "",
    ],
)
def test_no_evidence_no_negative(caption):
    assert order_swap.corrupt(caption) is None


@pytest.mark.parametrize(
    "sentences",
    [
        ("Whisk the eggs.", "Chop some herbs."),  # commute: nothing in common
        ("Add salt to the pan.", "Add pepper to the pan."),
        ("A boy scores a goal.", "A girl scores another goal."),
        ("He is pulling the handles of the boat.", "She is turning a wheel with one hand."),  # both go on
        ("Break two eggs into a bowl.", "Whisk those eggs with a fork."),
        ("They run home from the yard.", "They are in a large room with a piano."),
        ("A man lifts the bar.", "The clip ends with a red title."),
        ("Now Anna runs through a course.", "She is now going back to the woods."),
    ],
)
def test_sentences_without_evidence_stay(sentences):
    told = ["A man walks into a yard and opens a box.", *sentences, "He waves."]
    assert order_swap.corrupt_sentences(told, first=1) is None


def test_words_that_only_look_as_if_they_pointed_back():
    told = [
        "Two players are seen in a hall.",
        "A referee blows a whistle and then walks off the field.",
        "The players hit one another with long sticks and then bow.",
        "He waves.",
    ]
    swapped = order_swap.corrupt_sentences(told, first=1)
    assert swapped is not None and "one another" in swapped.text.split(". ")[1]


def test_what_follows_keeps_its_subject():
    assert order_swap.corrupt("After the man opens the box, the dog jumps out and then barks.", pair=(0, 1)) is None


def test_given_events_are_trusted():
    caption = with_events("A man sings. A dog barks.", [(0, 11), (13, 24)])
    assert order_swap.corrupt(caption).text == "A dog barks. A man sings."


def test_same_seed_same_negative():
    assert order_swap.corrupt(WORLD, seed=3) == order_swap.corrupt(WORLD, seed=3)


def test_chinese_markers_stay():
    assert swapped("一个男人打开门，然后一只狗跑进来。") == "一只狗跑进来，然后一个男人打开门。"


SUBJECTS = st.sampled_from(["A man", "The girl", "A dog", "Two boys", "Anna", "People"])
ACTIONS = st.sampled_from(
    ["opens the box", "runs home", "kicks a ball", "picks up the stone", "jumps", "washes some cups", "sits down"]
)
JOINS = st.sampled_from([". Then {b} {y}.", " before {b} {y}.", " after {b} {y}.", ". Next, {b} {y}.", ", then {y}."])


@given(SUBJECTS, ACTIONS, SUBJECTS, ACTIONS, JOINS, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_every_swap_of_a_caption_passes_the_round_trip(a, x, b, y, join, seed):
    chosen = a + " " + x + join.format(b=b[0].lower() + b[1:] if b != "Anna" else b, y=y)
    negative = order_swap.corrupt(chosen, seed=seed)
    if negative is not None:
        assert negative.text != chosen and order_swap.proves(chosen, negative.text, negative.edit)
        assert not order_swap.proves(chosen, chosen, {"events": negative.edit["events"]})


@given(st.lists(st.tuples(SUBJECTS, ACTIONS), min_size=3, max_size=6))
@settings(max_examples=100, deadline=None)
def test_every_swap_of_sentences_passes_the_round_trip(told):
    sentences = [f"{who} {what}." for who, what in told]
    for negative in order_swap.sentence_pairs(sentences):
        assert order_swap.proves(" ".join(sentences), negative.text, negative.edit)
