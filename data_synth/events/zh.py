"""Rule parser for Chinese captions: sentences and clauses by punctuation, and the connectives that order them.

先…再/然后/接着/随后/最后/之后/之前/…前/…后 order; 同时/一边…一边/边…边/…的时候/…时/着/与此同时 are simultaneous.
Words are not needed
for that; jieba, where asked for, only finds the verb of a clause.
"""

import itertools
import re
from dataclasses import replace

from data_synth.events.types import AFTER, BEFORE, SIMULTANEOUS, UNKNOWN, Caption, Event, Relation

SEQUENCE = (
    "在?(?:这|那|此|做完|完成)?(?:之后|以后|过后)(?!的)|然后|随后(?!的)|紧接着|接着|接下来(?!的)|紧跟着|跟着|继而|随即|而后|其后|后来|此后|再然后|"
    "最后(?!的|一)|最终(?!的)|末了|终于|过了一会儿?|不一会儿?|片刻(?:之)?后|稍后|没多久|不久(?:之后|后)?|(?:几|数|两|三)(?:秒|分钟|分)(?:钟)?(?:之)?后|"
    "再(?!次|度|加|多|一次)|又接着|然后又|接着又|第[二三四五六]步?(?=[，,：:])|其次|下一步|(?<![\\u3400-\\u9fff])才"
)
OPENING = "首先|起初|一开始|开始时|最初|最开始|先是|先(?!生|前|后)|第一步?(?=[，,：:])"
SIMULTANEOUS_WORDS = "与此同时|同时|此时|这时候?|这期间|期间|另一边|旁边|一旁|背景(?:中|里)"
NEUTRAL = "而且|并且|此外|另外|也|还|但是?|不过|可是|所以|于是|而"

_LEAD = re.compile(
    rf"\s*(?:(?P<simultaneous>{SIMULTANEOUS_WORDS})|(?P<sequence>{SEQUENCE})|(?P<opening>{OPENING})|(?P<neutral>{NEUTRAL}))"
    r"[，,、：:]?\s*"
)
_INNER = re.compile(
    r"(?P<sequence>然后|随后|接着|紧接着|随即|最后|最终|再(?!次|度|加|多|一次))|(?P<opening>首先|先是|先(?!生|前|后))|(?P<simultaneous>同时|一边|边)"
)
_CUT = re.compile(r"[，。！？；,!?;…\n]+|(?=然后|(?<!伴)随后(?!的)|(?<!紧)接着|紧接着)")
_FRONT_AFTER = re.compile(r"(?:之后|以后|过后|完毕|完后|[^前最今背身向往落脑幕然随此其稍]后|完|好后|了后)$")
_FRONT_BEFORE = re.compile(r"(?:之前|以前|[^面眼跟身门窗台人向往朝胸桌床楼车镜幕]前)$")
_FRONT_WHILE = re.compile(r"(?:的时候|的同时|之时|期间|[^当同小平及准随计定按实暂临]时)$")
_TOGETHER = re.compile(r"一边|一面|边\S{1,8}边|同时|与此同时|一起|伴随|随着|一同")
_STATE = re.compile(
    r"(?:正在|在\S{0,12}(?:着|玩|聊天)|[坐站躺趴挂摆放停穿戴靠举抱拿握盯望看等围][着]|是一|有一|位于|整洁|干净|显得|看起来|充满|很[\u3400-\u9fff]|十分|非常)|着"
)
_PLACED = re.compile(
    r"[摆放挂停站坐装盛铺堆插种]满|[上里中前旁边下](?:摆放|停靠|悬挂|放|挂|停)了?[者着一二两三四五几许]"
)
PRONOUN = r"(?<![吉其])[他她](?!人)"
"""他 or 她, not in 吉他, 其他, 他人."""
_PUNCTUATION = "，。！？；、,.!?;:：…\"'“”‘’（）()《》 \n\t　"


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Sentence spans, closing punctuation included."""
    found = re.finditer(r"[^。！？!?\n]*[^。！？!?\n\s][^。！？!?\n]*[。！？!?”』」]*", text)
    return [(m.start() + len(m.group()) - len(m.group().lstrip()), m.end()) for m in found]


def leading_marker(text: str, start: int, end: int) -> tuple[str, str, int]:
    """The connective that `text[start:end]` opens with: (words, class, where the rest starts).

    Classes: sequence, opening, simultaneous, neutral, or "" when there is none.
    """
    found = _LEAD.match(text, start, end)
    if found is None or found.end() >= end:
        return "", "", start
    cue, kind = found.group().strip(_PUNCTUATION), found.lastgroup or ""
    following = _LEAD.match(text, found.end(), end)
    if following is not None and following.end() < end and kind in ("neutral", "sequence"):
        inner = leading_marker(text, found.end(), end)
        return (inner[0], inner[1], inner[2]) if kind == "neutral" else (cue, kind, inner[2])
    return cue, kind, found.end()


def tail(clause: str) -> str:
    """The connective that closes a fronted clause: 洗完手之后, 吃饭前, 他唱歌的时候; "" without one."""
    for pattern in (_FRONT_AFTER, _FRONT_BEFORE, _FRONT_WHILE):
        found = pattern.search(clause)
        if found and len(clause) > len(found.group()) + 1:
            return re.search(
                r"(?:之后|以后|过后|后|之前|以前|前|的时候|的同时|之时|期间|时|完毕)?$", found.group()
            ).group()
    return ""


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Narrow a span to the event: no connective in front, no punctuation or space around."""
    while end > start and text[end - 1] in _PUNCTUATION:
        end -= 1
    while start < end and text[start] in _PUNCTUATION:
        start += 1
    return leading_marker(text, start, end)[2], end


def clause_parts(text: str, start: int, end: int) -> tuple[str, tuple[int, int] | None, int | None]:
    """(verb, span of the subject, where the predicate starts) of one clause; the verb stays empty without jieba.

    The subject is what `mentions_zh.subject` finds by its opening (他, 一个男人, 那只狗); None for a dropped subject.
    """
    from data_synth.events.mentions_zh import subject

    found = subject(text[start:end])
    if not found:
        return "", None, start
    return "", (start, start + len(found)), start + len(found)


def _verb(clause: str) -> str:
    """The first verb that jieba tags in a clause; "" without one."""
    import jieba.posseg

    return next((word for word, flag in jieba.posseg.lcut(clause) if flag.startswith("v")), "")


def _clauses(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Spans between marks; a stretch without a predicate (at most two characters) joins the next one."""
    cuts = sorted({start, end, *(p for m in _CUT.finditer(text, start, end) for p in (m.start(), m.end()))})
    spans, pending = [], None
    for low, high in itertools.pairwise(cuts):
        body = text[low:high].strip(_PUNCTUATION)
        if not body:
            continue
        low = pending if pending is not None else low
        alone = _LEAD.fullmatch(text, low, high)
        pending = low if alone else None
        if pending is None:
            spans.append((low, high))
    if pending is not None and spans:
        spans[-1] = (spans[-1][0], end)
    return spans


def _inner(text: str, start: int, end: int) -> tuple[str, str]:
    """(words, class) of a connective behind the subject: 他先…, 女孩再…, 狗随后…."""
    from data_synth.events.mentions_zh import subject

    skip = len(subject(text[start:end]))
    found = _INNER.match(text, start + skip, end)
    return (found.group(), found.lastgroup or "") if found else ("", "")


def _relation(text: str, previous: tuple[int, int], current: tuple[int, int], cue: str, kind: str) -> tuple[str, str]:
    """How the clause `previous` stands to the clause `current`: (relation, words that say so)."""
    before, now = text[slice(*previous)].strip(_PUNCTUATION), text[slice(*current)].strip(_PUNCTUATION)
    if _FRONT_WHILE.search(before) or kind == "simultaneous":
        return SIMULTANEOUS, cue or "时"
    if _TOGETHER.search(now) or ("一边" in before and "边" in now):
        return SIMULTANEOUS, "同时"
    if kind == "sequence":
        return BEFORE, cue
    if _FRONT_AFTER.search(before):
        return BEFORE, "后"
    if _FRONT_BEFORE.search(before):
        return AFTER, "前"
    return UNKNOWN, ""


def _is_state(body: str) -> bool:
    """A state or a background: 着, 正在, 有一…, 摆满了"""
    if _PLACED.search(body):
        return True
    return bool(_STATE.search(body)) and not re.search(
        r"开始|起来|突然|[走跑跳飞]?(?:出|进|过|起|下|上)(?:来|去)|了", body
    )


def parse(text: str, use_jieba: bool = False) -> Caption:
    """Parse a Chinese caption; `use_jieba` adds the verbs."""
    sentences = split_sentences(text)
    events: list[Event] = []
    relations: list[Relation] = []
    previous: tuple[int, int] | None = None
    for number, (start, end) in enumerate(sentences):
        for low, high in _clauses(text, start, end):
            cue, kind, _ = leading_marker(text, low, high)
            first, last = trim(text, low, high)
            last -= len(tail(text[first:last]))
            if last <= first:
                continue
            if not kind or kind in ("neutral", "opening"):
                inner_cue, inner_kind = _inner(text, first, last)
                cue, kind = (inner_cue, inner_kind) if inner_kind else (cue, kind)
            body = text[first:last]
            _, subject, predicate = clause_parts(text, first, last)
            event = Event(first, last, body, "", subject, predicate, number, _is_state(body))
            events.append(replace(event, verb=_verb(body)) if use_jieba else event)
            if previous is not None:
                relation = _relation(text, previous, (low, high), cue, kind)
                relations.append(Relation(len(events) - 2, len(events) - 1, *relation))
            previous = (low, high)
    return Caption(text, "zh", tuple(sentences), tuple(events), tuple(relations), "jieba" if use_jieba else "rules")
