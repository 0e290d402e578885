"""A round: one tower call and prompt a group, the draw's log-probs are those of training, what has no score is out."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlkit.caption import generate, one_row, rows
from rlkit.caption.rounds import Rounds, compare
from rlkit.errors import GuardError, ModelError
from rlkit.losses.policy import require_unit_ratio
from rlkit.models import prepare
from rlkit.recipe import Grpo, PlugIn, Recipe, Sampling
from rlkit.scoring import Rewards

GROUP, FAMILIES = 3, ("qwen2_5_vl", "qwen3_vl", "llava_onevision")
# The number of letters, so that captions differ; None for each third.
LETTERS = """\
def load(device="cpu", *, missing: bool = False):
    def score(*, prompts, completions, video, events, **_):
        assert len(video) == len(events) == len(completions)
        return [None if missing and at % 3 == 0 else float(len(one)) for at, one in enumerate(completions)]
    return score
"""


@pytest.fixture
def rounds(tiny_model, four_clips, tmp_path):
    """(family, missing, keys of grpo, temperature) -> Rounds on four clips and the clips as rows.Example."""
    (tmp_path / "letters.py").write_text(LETTERS)

    def build(family="qwen2_5_vl", *, missing=False, temperature=0.7, sharing="auto", **grpo):
        captioner = prepare(*tiny_model(family), vision="frozen", sharing=sharing)
        clips, examples = four_clips(captioner)
        plugin = PlugIn(str(tmp_path / "letters.py"), options={"missing": missing})
        recipe = Recipe(
            algorithm="grpo",
            rewards=[plugin],
            sampling=Sampling(temperature=temperature, max_completion_length=8),
            grpo=Grpo(num_generations=GROUP, **grpo),
        )
        return Rounds(captioner, examples, clips, Rewards([plugin]), recipe, "Describe the video."), examples

    return build


def collect(rounds, examples, chunks=((0, 1), (2, 3)), number=0):
    return rounds.collect(number, [[examples[at] for at in chunk] for chunk in chunks], contextlib.nullcontext)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_runs_once_a_clip_for_the_draw_and_all_log_probs(rounds, family):
    made, examples = rounds(family, beta=0.1, num_iterations=2)
    pixels = []
    towers = [made.captioner.base, made.reference.base]
    for base in towers:
        tower = base.model.vision_tower if family == "llava_onevision" else base.model.visual
        tower.register_forward_pre_hook(lambda _, given: pixels.append(len(given[0])) if given else None)
    found = collect(made, examples)
    for part in found.parts:
        made.log_probs(made.captioner, part)  # the policy's
    each = [sum(len(value) for key, value in examples[at].prompt.items() if "pixel" in key) for at in range(4)]
    if family == "llava_onevision":
        each = [6] * 4  # frames
    assert sum(pixels) == sum(each) and all(part.ref_log_probs is not None for part in found.parts)


def test_the_prompt_runs_once_a_clip_through_the_language_model(rounds):
    made, examples = rounds()
    tokens = []
    made.captioner.base.model.language_model.register_forward_hook(
        lambda _module, _given, output: tokens.append(output.last_hidden_state.shape[:2].numel())
    )
    with torch.no_grad():
        drawn = generate.completions(
            made.captioner, [examples[0]], num_generations=8, max_completion_length=4, seeds=[1]
        )
    prompt = examples[0].prompt["input_ids"].shape[1]
    assert tokens[0] == prompt - 1 and sum(tokens[1:]) <= 8 * 4 and len(drawn[0]) == 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_log_probs_of_the_draw_are_those_of_separate_rows(rounds, family, temperature):
    """Separate rows through the stock forward, logits divided by the temperature as trl does."""
    made, examples = rounds(family, temperature=temperature)
    drawn = made._draw(0, [examples[0], examples[1]], None)
    for example, group in zip((examples[0], examples[1]), drawn, strict=True):
        for one in group:
            if made._holds_media(one):  # the stock forward would look for a clip there
                continue
            ids = torch.cat([example.prompt["input_ids"][0], one.ids])[None]
            given = {key: value for key, value in example.prompt.items() if key not in rows.ROW_KEYS}
            if "mm_token_type_ids" in example.prompt:
                types = example.prompt["mm_token_type_ids"]
                given["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, len(one.ids)))
            with torch.no_grad():
                logits = made.captioner.base(input_ids=ids, **given).logits[0, -len(one.ids) - 1 : -1]
            said = (logits / temperature).log_softmax(-1).gather(1, one.ids[:, None])[:, 0]
            torch.testing.assert_close(one.log_probs, said, atol=2e-5, rtol=1e-5)


def test_a_clips_captions_depend_on_seed_round_and_clip_alone(rounds):
    made, examples = rounds()
    both, alone = made._draw(3, [examples[0], examples[1]], None)[1], made._draw(3, [examples[1]], None)[0]
    assert [one.ids.tolist() for one in both] == [one.ids.tolist() for one in alone]
    later, other = made._draw(4, [examples[1]], None)[0], made._draw(3, [examples[2]], None)[0]
    assert len({tuple(map(tuple, [one.ids.tolist() for one in group])) for group in (alone, later, other)}) == 3


def test_draws_follow_the_models_distribution(rounds):
    """The first token of 1,500 draws against its probabilities: total variation of what chance leaves."""
    made, examples = rounds(temperature=0.5)
    example, count = examples[0], 1500
    drawn = generate.completions(
        made.captioner, [example], num_generations=count, max_completion_length=1, temperature=0.5, seeds=[0]
    )
    batch = rows.batch_of(made.captioner, [example])
    with torch.no_grad():
        logits = made.captioner.base(
            input_ids=example.prompt["input_ids"],
            mm_token_type_ids=example.prompt["mm_token_type_ids"],
            **one_row.media(batch),
        ).logits[0, -1]
    expected = (logits / 0.5).softmax(-1).numpy()
    found = np.bincount([int(one.ids[0]) for one in drawn[0]], minlength=len(expected)) / count
    assert abs(found - expected).sum() / 2 < math.sqrt(len(expected) / (2 * math.pi * count)) * 1.5


def test_separate_rows_draw_and_score_the_same(rounds):
    """What families run on whose rows are not known to be shareable."""
    (shared, examples), (apart, others) = rounds(num_iterations=2), rounds(sharing="off", num_iterations=2)
    one, other = collect(shared, examples).parts[0], collect(apart, others).parts[0]
    assert other.vision is None and torch.equal(one.batch["targets"], other.batch["targets"])
    torch.testing.assert_close(one.old_log_probs, other.old_log_probs, atol=2e-5, rtol=1e-5)


def test_a_draw_at_another_temperature_is_found(rounds, monkeypatch):
    made, examples = rounds()
    right = generate.completions
    monkeypatch.setattr(generate, "completions", lambda *given, **named: right(*given, **named | {"temperature": 1.0}))
    with pytest.raises(GuardError, match="drawn with log-probs up to"):
        collect(made, examples)


def test_ratios_before_the_first_update_are_1(rounds):
    made, examples = rounds()
    part = collect(made, examples).parts[0]
    made.captioner.model.train()
    ratio = made.log_probs(made.captioner, part) - part.old_log_probs
    require_unit_ratio(ratio.flatten(), part.batch["target_mask"].flatten())


def test_a_caption_without_a_score_has_no_advantage_and_leaves_its_group_as_it_is(rounds):
    made, examples = rounds(missing=True, scale_rewards="none")
    found = collect(made, examples)
    for part in found.parts:
        assert not part.mask[:, 0].any() and not part.advantages[:, 0].any()
        torch.testing.assert_close(part.advantages[:, 1], -part.advantages[:, 2])
    assert found.metrics["rewards/missing"] == 4


def test_a_clip_whose_captions_are_all_alike_is_not_trained_on(rounds):
    """What stays is as if it were there: the same numbers from the same captions, from the features of its own clip."""
    made, examples = rounds("qwen3_vl", num_iterations=2)
    whole = collect(made, examples, chunks=[(0, 1, 2)]).parts[0]
    score = made.rewards.scores[0]
    made.rewards.scores = [
        lambda *, prompts, completions, video, **other: [
            1.0 if name == "1.mp4" else value
            for name, value in zip(
                video, score(prompts=prompts, completions=completions, video=video, **other), strict=True
            )
        ]
    ]
    made.rewards.names, made.columns = ["letters"], frozenset({"events"})
    found = collect(made, examples, chunks=[(0, 1, 2), (1,)])
    part, rest = found.parts
    assert part.batch["index"].tolist() == [0, 2] and found.metrics["frac_reward_zero_std"] == 0.5
    longest = part.batch["targets"].shape[2]
    torch.testing.assert_close(part.old_log_probs, whole.old_log_probs[[0, 2], :, :longest], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(part.advantages, whole.advantages[[0, 2]])
    assert rest.batch["index"].tolist() == [1] and not rest.mask.any()


def test_no_score_at_all_stops_the_run(rounds):
    made, examples = rounds()
    made.rewards.scores = [lambda *, prompts, completions, **_: [None] * len(completions)]
    with pytest.raises(ModelError, match="gave none of 12 captions a score"):
        collect(made, examples)


def test_a_placeholder_in_a_caption_is_left_out_and_harms_nothing(rounds, monkeypatch):
    made, examples = rounds()
    right, video = generate.completions, made.captioner.processor.video_token_id

    def one_wrong(*given, **named):
        drawn = right(*given, **named)
        drawn[0][0].ids[0] = video
        return drawn

    monkeypatch.setattr(generate, "completions", one_wrong)
    part = collect(made, examples).parts[0]
    assert not part.mask[0, 0] and video not in part.batch["targets"]
    assert made.log_probs(made.captioner, part).isfinite().all()


def test_cut_captions_are_left_out_where_asked(rounds):
    made, examples = rounds(mask_truncated_completions=True)
    part = collect(made, examples).parts[0]
    end = made.captioner.processor.tokenizer.eos_token_id
    last = part.batch["targets"].gather(2, part.batch["answer_lengths"][:, :, None] - 1)[:, :, 0]
    assert not part.mask[last != end].any() and (last != end).any()


def test_a_stored_round_is_the_round(rounds):
    made, examples = rounds(num_iterations=2, beta=0.1)
    found = collect(made, examples)
    again = made.restore(0, found.tensors())
    for one, other in zip(found.parts, again.parts, strict=True):
        for name, tensor in one.batch.items():
            if name != "processed_tokens":
                assert torch.equal(tensor, other.batch[name]), name
        for name in ("advantages", "mask", "old_log_probs", "ref_log_probs"):
            assert torch.equal(vars(one)[name], vars(other)[name]), name
        assert torch.equal(one.vision["video"].pooler_output[0], other.vision["video"].pooler_output[0])


def test_ways_to_compare():
    """Hand-computed; a caption without one of its rewards has no sum."""
    scores = torch.tensor([[1.0, 10.0], [2.0, 40.0], [6.0, 40.0], [math.nan, 0.0]])
    recipe = replace(Recipe(algorithm="grpo"), grpo=Grpo(num_generations=4, advantages="rloo"))
    found = compare(scores, [0] * 4, [1.0, 0.1], recipe)
    total = np.array([2.0, 6.0, 10.0])
    np.testing.assert_allclose(found.values[:3], total - (total.sum() - total) / 2, rtol=1e-5)
    assert found.mask.tolist() == [True, True, True, False]
    summed = replace(recipe, grpo=Grpo(num_generations=4, multi_objective_aggregation="sum_then_normalize"))
    np.testing.assert_allclose(
        compare(scores, [0] * 4, [1.0, 0.1], summed).values[:3], (total - 6) / (total.std() + 1e-4), rtol=1e-4
    )
    apart = replace(recipe, grpo=Grpo(num_generations=4))
    assert compare(scores, [0] * 4, [1.0, 0.1], apart).mask.all()
