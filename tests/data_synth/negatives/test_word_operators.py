"""Operators on single words and phrases: what they change, what they leave alone, in both languages."""

import pytest

from data_synth.negatives import actor_swap, attribute_swap, camera_swap, count_change, direction_flip

CASES = [
    (direction_flip, "A red circle moves left.", {"A red circle moves right."}),
    (direction_flip, "Left of the tree stands a dog.", {"Right of the tree stands a dog."}),
    (
        direction_flip,
        "The wheel turns clockwise.",
        {"The wheel turns counterclockwise.", "The wheel turns counter-clockwise.", "The wheel turns anticlockwise."},
    ),
    (direction_flip, "红色圆形向左移动。", {"红色圆形向右移动。"}),
    (direction_flip, "一只猫往上爬。", {"一只猫往下爬。"}),
    (camera_swap, "镜头推近。", {"镜头拉远。", "镜头静止。", "镜头左摇。", "镜头右摇。"}),
    (attribute_swap, "A tall man waits.", {"A short man waits."}),
    (attribute_swap, "年轻的女人在跑步。", {"年老的女人在跑步。"}),
    (actor_swap, "A boy kicks the ball to a girl.", {"A girl kicks the ball to a boy."}),
    (actor_swap, "一个男子打开门。", {"一个女子打开门。"}),
    (actor_swap, "狗追猫。", {"猫追狗。"}),
]


@pytest.mark.parametrize(("operator", "caption", "expected"), CASES)
def test_the_phrase_gives_way_to_another_of_its_kind(operator, caption, expected):
    assert {operator.corrupt(caption, seed=s).text for s in range(30)} <= expected


@pytest.mark.parametrize(
    ("operator", "caption"),
    [
        (direction_flip, "He has left the room."),
        (direction_flip, "She is all right."),
        (direction_flip, "He picks up a box."),
        (direction_flip, "He looks left and right."),
        (direction_flip, "她左右摇头。"),
        (camera_swap, "A man pans for gold."),
        (attribute_swap, "She drinks orange juice."),
        (attribute_swap, "He opens the door."),
        (attribute_swap, "A man walks."),
        (count_change, "At 3:45 he arrives in 2019."),
        (count_change, "A man walks."),
        (actor_swap, "A man and a woman dance."),
        (actor_swap, "男人和女人跳舞。"),
        (actor_swap, "It rains."),
        (actor_swap, "A man made lake freezes."),
        (actor_swap, "A boy waves at a group of boys."),
        (actor_swap, "A boy waves. Another guy waves back."),
        (actor_swap, "盘子里有热狗。"),
        (attribute_swap, "Her short blonde hair shines."),
        (attribute_swap, "A young woman sits down. The girl sings."),
        (attribute_swap, "He reads an old book."),
        (attribute_swap, "Stars fill the night sky."),
        (attribute_swap, "一张黑白照片。"),
        (count_change, "Three men throw. Two more men throw."),
        (count_change, "Three children, 2 girls and a boy, play."),
        (count_change, "It is a 2.5D game."),
        (count_change, "一黑一黄两头牛吃草。"),
        (actor_swap, "A bald man waves. The male smiles."),
        (actor_swap, "A woman throws a dart. She bends down beside a man."),
        (actor_swap, "吉他旁边没有别的。"),
        (camera_swap, "The camera films from a high angle, looking down."),
        (direction_flip, "牵引力上升。"),
        (direction_flip, "镜头从街道上升到屋顶。"),
        (direction_flip, "镜头从下往上拍摄。"),
        (attribute_swap, "A young lady sings. Then the young lady bows."),
        (count_change, "Two teams pull. The two teams rest."),
        (count_change, "Three men hug each other."),
        (camera_swap, "The camera zooms in on a man."),
        (camera_swap, "The camera remains fixed, with no intentional movement."),
        (camera_swap, "这是脸部特写镜头。"),
        (direction_flip, "He pulls out a rope."),
        (direction_flip, "镜头拉近到一座塔。"),
        (direction_flip, "She explains the right way to stand."),
        (direction_flip, "Season the onion with the sauce left."),
        (direction_flip, "Roll up the rice paper."),
        (direction_flip, "A man runs down a narrow track."),
        (direction_flip, "The camera zooms in closer."),
        (camera_swap, "The cameraman shows the tire and zooms in closer."),
        (camera_swap, "The camera pans right to face the road."),
        (camera_swap, "The camera shows a close-up view of a hand."),
        (camera_swap, "镜头静止不动，湖面平静。"),
        (actor_swap, "Add onions, star anise and water to a pan."),
        (actor_swap, "The film star bows."),
        (actor_swap, "People walk past a dog collar."),
        (actor_swap, "Coat the dogs in it and serve the corn dogs."),
        (actor_swap, "The drone tracks a herd of horses."),
        (actor_swap, "An athlete climbs on the pommel horse."),
        (actor_swap, "They are seated in a wide circle."),
    ],
)
def test_nothing_to_say_nothing_said(operator, caption):
    assert all(operator.corrupt(caption, seed=s) is None for s in range(10))


def test_the_article_follows_the_colour():
    texts = {attribute_swap.corrupt("A green ball rolls.", seed=s).text for s in range(60)}
    assert "An orange ball rolls." in texts and "A orange ball rolls." not in texts


def test_colours_that_shade_into_each_other_are_never_exchanged():
    texts = {attribute_swap.corrupt("A brown calf eats.", seed=s).text for s in range(60)}
    assert not any(near in text for text in texts for near in ("red", "orange", "black"))
    shots = {camera_swap.corrupt("这是行李箱的特写镜头。", seed=s).text for s in range(30)}
    assert shots == {"这是行李箱的全景镜头。", "这是行李箱的远景镜头。"}


def test_the_actor_that_is_named_is_the_one_replaced():
    for seed in range(20):
        negative = actor_swap.corrupt("Men sweep the yard near a horse.", seed=seed)
        old, new = negative.edit["from"], negative.edit["to"]
        assert new in negative.text.lower() and negative.why == f"'{old}' does it, not '{new}'"
        assert "dog sweep" not in negative.text.lower()
    assert {actor_swap.corrupt("一个小男孩在跑。", seed=s).text for s in range(20)} == {"一个小女孩在跑。"}


def test_possessives_are_renamed_with_their_owner():
    for seed in range(10):
        text = actor_swap.corrupt("A clumsy dog runs. The camera captures the dog's leaps.", seed=seed).text
        assert "dog" not in text and text.count(text.split()[2]) == 2


def test_a_shape_that_does_something_is_an_actor():
    assert actor_swap.corrupt("A red star grows.") is not None


def test_left_behind_a_noun_that_moves_is_a_direction():
    assert direction_flip.corrupt("He pushes the box left.").text == "He pushes the box right."


def test_the_camera_does_not_do_one_thing_twice():
    texts = [camera_swap.corrupt("The camera pans left while tilting down.", seed=s) for s in range(40)]
    assert any(texts) and not any("tilts down while tilting down" in n.text for n in texts if n)


def test_the_longer_camera_term_goes_as_a_whole():
    texts = {camera_swap.corrupt("The camera captures close-up shots of a tree.", seed=s).text for s in range(20)}
    assert texts == {"The camera captures wide shots of a tree.", "The camera captures long shots of a tree."}


def test_a_colour_that_the_caption_holds_is_never_taken():
    texts = {attribute_swap.corrupt("A red ball hits a blue ball.", seed=s).text for s in range(60)}
    assert all(text.count("red") + text.count("blue") == 1 for text in texts)


def test_counts_stay_plural_and_go_both_ways():
    assert {count_change.corrupt("two dogs run", seed=s).edit["to"] for s in range(60)} == set(
        "three four five six seven eight".split()
    )
    assert "two" in {count_change.corrupt("three dogs run", seed=s).edit["to"] for s in range(60)}


def test_pronouns_follow_the_only_actor():
    texts = {actor_swap.corrupt("A man takes off his hat and he bows.", seed=s).text for s in range(20)}
    assert "A woman takes off her hat and she bows." in texts
    assert "A girl takes off her hat and she bows." in texts
    assert not any("boy" in text for text in texts)  # no wrong word for a young man


def test_spans_hold_the_old_and_the_new_words():
    negative = count_change.corrupt("Two dogs run.")
    (a, b), (c, d) = negative.edit["spans"][0], negative.edit["rejected_spans"][0]
    assert "Two dogs run."[a:b] == "Two" and negative.text[c:d] == negative.edit["to"]


def test_no_unigram_is_only_ever_a_negative():
    """Trap 10: a word that one side alone uses gives the pair away; each table goes both ways."""
    for groups in (direction_flip.GROUPS["en"][:6], attribute_swap.GROUPS["en"], count_change.GROUPS["en"]):
        for group in groups:
            assert len(set(group)) == len(group) >= 2


@pytest.mark.parametrize("caption", ["A child runs up and down a hill.", "He walks in and out of the room."])
def test_a_movement_both_ways_is_left_alone(caption):
    assert direction_flip.corrupt(caption) is None


@pytest.mark.parametrize("caption", ["He pours milk into a glass.", "She spins round and round."])
def test_a_word_that_is_no_attribute_here_is_left_alone(caption):
    assert attribute_swap.corrupt(caption) is None
