"""verbose: the caption with a tail that says too much: redundant, generic, or invented."""

import random
import re
from collections.abc import Sequence

from data_synth.events import Caption, Negative, parse
from data_synth.events.edit import capital_first, end_as, splice
from data_synth.events.fragments import CAMERA_TAG
from data_synth.events.nouns import noun_phrases, subject_of

KINDS = ("redundant", "generic", "invented")

GENERIC = {
    "en": (
        "The overall atmosphere is calm and pleasant.",
        "It is an interesting moment captured on camera.",
        "The scene feels natural and full of life.",
        "Everything comes together in a harmonious way.",
        "The video invites the viewer to keep watching.",
        "There is a clear sense of movement throughout.",
        "The composition draws attention to what matters.",
        "The mood remains consistent from start to end.",
    ),
    "zh": (
        "整个画面给人一种宁静而美好的感觉。",
        "这一幕充满了生活的气息。",
        "整体氛围和谐自然，令人回味。",
        "画面富有层次感，引人入胜。",
        "画面流畅而自然。",
        "镜头记录下了这个有趣的瞬间。",
    ),
}
INVENTED = {
    "en": (
        "A dog walks past in the background.",
        "Someone off screen starts to laugh.",
        "A phone rings somewhere.",
        "It begins to rain.",
        "A bird lands nearby and flies off again.",
        "Two children run across the scene.",
        "It gets dark for a moment.",
        "A woman in a red coat waves at the camera.",
    ),
    "zh": (
        "一只狗从后面走过。",
        "画面外有人笑了起来。",
        "有手机响了。",
        "开始下雨了。",
        "一只鸟落在旁边又飞走了。",
        "两个孩子跑过画面。",
        "画面暗了一会儿。",
        "一个穿红色外套的女人向镜头挥手。",
    ),
}
REDUNDANT = {
    "en": (
        "In other words, {event}.",
        "In short, {event}.",
        "To put it another way, {event}.",
        "That is to say, {event}.",
    ),
    "zh": ("也就是说，{event}。", "换句话说，{event}。", "简单地说，{event}。", "总之，{event}。"),
}


def corrupt(
    caption: str | Caption,
    *,
    seed: int = 0,
    kind: str | None = None,
    sentences: int = 1,
    pool: Sequence[str] = (),
) -> Negative | None:
    """Add a tail of `sentences` sentences.

    `kind`: redundant (says an event again), generic (fits every clip), invented (tells what is not there), or None to
    draw one from `seed`. `pool`: sentences of other captions to invent from, instead of the built-in ones.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    if not caption.text.strip():
        return None
    draw = random.Random(f"{seed} {caption.text}")
    kind = kind or draw.choice(KINDS)
    tail = _tail(caption, kind, sentences, pool, draw)
    if not tail:
        return None
    closing = "" if caption.text.rstrip()[-1] in '.!?。！？…"”' else ("。" if caption.language == "zh" else ".")
    body = caption.text.rstrip() + closing
    gap = "" if caption.language == "zh" else " "
    text = end_as(body + gap + gap.join(tail), caption.text)
    edit = {"spans": [[len(caption.text.rstrip())] * 2], "rejected_spans": [[len(body) + len(gap), len(text)]]}
    return Negative(text, f"verbose_{kind}", edit, _WHY[kind])


_WHY = {
    "redundant": "the tail repeats what the caption has said",
    "generic": "the tail would fit any clip and says nothing about this one",
    "invented": "the tail tells of something that the caption does not contain",
}


def _tail(caption: Caption, kind: str, sentences: int, pool: Sequence[str], draw: random.Random) -> list[str]:
    """The sentences of the tail; fewer than asked for when there is not enough to draw from."""
    if kind == "generic":
        source = list(GENERIC[caption.language])
    elif kind == "invented":
        source = [
            s for s in (pool or INVENTED[caption.language]) if s.strip(" .。").lower() not in caption.text.lower()
        ]
    else:
        frames = list(REDUNDANT[caption.language])
        draw.shuffle(frames)
        events = [e.text for e in caption.events if e.subject and _stands_alone(e.text, caption.language)]
        events = draw.sample(events, min(sentences, len(events)))
        return [f.format(event=_restate(caption, event)) for f, event in zip(frames, events, strict=False)]
    draw.shuffle(source)
    return [capital_first(s.strip()) for s in source[:sentences]]


_TIED = re.compile(
    r"\b(?:then|next|finally|first|again|later|afterwards|as|while|when|once|after|before|until|continues?|"
    r"him|them|it)\b|^[随当在因为]|^以及|^并|[时后前]$|先|再|然后|接着|随后|最后",
    re.IGNORECASE,
)
"""Words that tie a clause to its neighbours: it cannot be said again on its own."""
_NOTHING_SEEN = {"lot", "moment", "bit", "while", "time", "way", "few", "row", "series", "variety", "group", "number"}


def _stands_alone(event: str, language: str) -> bool:
    """Whether an event can be a sentence of its own: with a subject, and without a word that ties it to another."""
    if _TIED.search(event):
        return False
    return bool(subject_of(event)) if language == "en" else not CAMERA_TAG.fullmatch(event)


def _restate(caption: Caption, event: str) -> str:
    """An event as said the second time: first mentions become known ones."""
    if caption.language == "zh":
        return event
    low = event[:1].lower() + event[1:]
    known = [p for p in noun_phrases(low) if p.determiner in ("a", "an") and p.head not in _NOTHING_SEEN]
    return splice(low, [(p.start, p.start + len(p.determiner), "the") for p in known])[0]
