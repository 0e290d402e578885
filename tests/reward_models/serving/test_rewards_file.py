"""rewards.yaml: every mistake at once, with file and key."""

import pytest

from reward_models.serving.rewards_file import load_rewards, read_rewards

REWARD = """
def load(device="cpu", *, scale=1.0):
    return lambda *, completions, **_: [scale * len(one) for one in completions]
"""


def write(tmp_path, text):
    path = tmp_path / "rewards.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "length.py").write_text(REWARD)
    path = write(
        tmp_path, "long:\n  reward: ./length.py\n  options: {scale: 2.0}\n  weight: 0.5\nshort: {reward: length.py}\n"
    )
    monkeypatch.chdir("/")
    entries = read_rewards(path)
    assert (entries["long"].weight, entries["short"].weight, entries["short"].device) == (0.5, 1.0, "cpu")
    rewards = load_rewards(entries)
    assert [rewards[name](prompts=[""], completions=["abc"]) for name in ("long", "short")] == [[6.0], [3.0]]


def test_names_of_ours_stay_names(tmp_path):
    assert read_rewards(write(tmp_path, "a: {reward: event_order}\n"))["a"].reward == "event_order"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("a: {reward: x, devise: cuda}\n", ["rewards.yaml: a.devise: no such key. Did you mean 'device'?"]),
        ("a: {reward: x, colour: red}\n", ["a.colour: no such key. Known: reward, options, device, weight."]),
        (
            "a: {device: cpu}\nb: {reward: 3}\n",
            ["a.reward: is missing", "b.reward: Input should be a valid string; found"],
        ),
        ("a: {reward: x, weight: .nan}\n", ["a.weight: Input should be a finite number"]),
        ("a: {reward: x, weight: '1'}\n", ["a.weight: Input should be a valid number; found '1'"]),
        ("a: {reward: x, options: [1]}\n", ["a.options: Input should be a valid dictionary"]),
        ("a: clip_score\n", ["a: Input should be a valid dictionary"]),
        ("a: {reward: x}\na: {reward: y}\n", ["the key 'a' stands twice", "line 1"]),
        ("", ["found NoneType; expected a section per reward"]),
        ("- a\n", ["found list"]),
        ("a: {reward: [}\n", ["not the YAML expected"]),
        (
            "a: !!python/object/apply:os.system ['true']\n",
            ["not the YAML expected", "could not determine a con"],
        ),
    ],
)
def test_mistakes(tmp_path, text, messages):
    with pytest.raises(ValueError) as caught:
        read_rewards(write(tmp_path, text))
    for message in messages:
        assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == (2 if "b:" in text else 1)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.yaml: cannot be read"):
        read_rewards(tmp_path / "nowhere.yaml")


def test_a_reward_that_does_not_load_is_named(tmp_path):
    (tmp_path / "length.py").write_text(REWARD)
    path = write(tmp_path, "mine: {reward: ./length.py, options: {scales: 2}}\n")
    with pytest.raises(ValueError, match=r"mine: cannot load .*length.py \(TypeError: .*scales"):
        load_rewards(read_rewards(path))
    with pytest.raises(ValueError, match=r"mine: cannot load nowhere \(FileNotFoundError: no reward 'nowhere'"):
        load_rewards(read_rewards(write(tmp_path, "mine: {reward: nowhere}\n")))
