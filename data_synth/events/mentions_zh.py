"""Who is meant, in Chinese: dropped subjects stay dropped in the second slot, connectives keep their slot, 一个 ->
那个 is not
needed because the first mention moves with the noun.
"""

import re
from functools import lru_cache

_PEOPLE = (
    "男人|女人|男孩|女孩|男子|女子|孩子|小孩|小男孩|小女孩|老人|老太太|老爷爷|老奶奶|厨师|司机|老师|学生|工人|医生|护士|警察|运动员|球员|选手|舞者|歌手|画家|"
    "服务员|骑手|骑车人|行人|路人|观众|裁判|教练|妈妈|爸爸|母亲|父亲|奶奶|爷爷|姐姐|哥哥|弟弟|妹妹|婴儿|宝宝|新娘|新郎|士兵|农民|渔夫|店员|乘客|人们|人群|人|大家|主持人|"
    "魔术师|消防员|快递员|理发师|裁缝|木匠|园丁|摄影师|演员|模特|滑雪者|冲浪者|登山者|潜水员|飞行员|队员|守门员|前锋|滑板少年|少年|少女|小伙子|小伙|姑娘|青年|机器人|朋友们|同学们|孩子们|"
    "狗|小狗|猫|小猫|鸟|小鸟|马|鸭子|鱼|兔子|猴子|熊|熊猫|大象|狮子|老虎|松鼠|蝴蝶|蜜蜂|海豚|企鹅|羊|牛|鸡|猪|车|汽车|火车|公交车|卡车|自行车|摩托车|飞机|船|小船|球|足球|气球|风筝|"
    "烟花|路灯|灯光|花瓣|树叶|幕布|红色方块|圆|方块|三角形|星形|星星|五角星|圆形|正方形|镜头|画面|摄像机|太阳|月亮|雨|雪|门|灯"
)
_SUBJECT = re.compile(
    rf"(?!变成?|成为|是|有|看[到见]|出现|拿出|拿起|把|将|被|向|从|在|对|给|和|与|及|以)(?:他们|她们|它们|他|她|它|我们|大家|人们|两人|二人|两个人|孩子们|"
    rf"(?:[一两二三四五六七八九十几]|那|这|某|另一|这一|那一|一群|一些|许多)?(?:个|名|位|只|条|匹|头|辆|架|艘|群|对|些|颗|朵|座|台|枚|队)?"
    rf"(?:(?:穿|戴|骑|留|拿|抱|背|身穿|头戴)?[\u3400-\u9fff]{{0,9}}?的)?(?:年轻|小|大|老|红色?|蓝色?|绿色?|黄色?|白色?|黑色?|紫色?|橙色?|橘色?|灰色?|棕色?|金色?|银色?|粉色?|胖|瘦|高个子?)?(?:{_PEOPLE})们?)"
    r"(?![的里上下旁边前后头物工造类形体光])"
)
_PRONOUN = re.compile(r"他们|她们|它们|他|她|它")
_POINTS_BACK = re.compile(r"把(?:它们?|其)|将(?:它们?|其)|它们?|其(?!他|它|余|中|实)")
_INNER = re.compile(
    r"(?:首先|先是|先(?!生|前|后)|再(?!次|度|加|多|一次)|然后|随后|接着|紧接着|随即|最后|最终|又|便|就|才|立刻|马上|开始)+"
)
_NOBODY = re.compile(
    r"(?:下|停)?(?:雨|雪)|(?:下|停)[雨雪]|打雷|刮风|起风|天[黑亮]|日[落出]|比赛|音乐|门铃|铃声|电影|表演"
)
"""Openings of clauses whose subject is no one that the next clause could speak of: 下雨之前，农民…"""
_PICTURE = re.compile(r"(?:照片|特写|近景|全景|远景|中景|视角|标识牌|雕像|模型)$|特写镜头$|等[\u3400-\u9fff]{1,2}$")
_THING = re.compile(
    r"[一二两三四五六几数][个名位只条匹头辆架艘群对些颗朵座台枚张本杯瓶根件份片盆盘碗袋束支把棵块段间幅款堆串]|"
    r"[^，]{0,10}[了满]?[^，]{0,4}的[^，]{1,14}$(?<![了过着来去])|"
    r"(?!.{0,2}[然地])[\u3400-\u9fff]{2,4}[亮响灭停断碎熄暗黑红绿]了(?:起来|下来|下去)?$"
)
_LEFT_OUT = re.compile(
    r"(?:再|又|就|便|都|全|一口)?(?:[扔倒放递塞装抛丢喷交还送摆插挂贴撒浇端搬运](?:进|到|在|给|向|回)|"
    r"[搭做拼折捏堆切剪揉编卷捆]成|"
    r"(?:吃|喝|扔|丢|咬|踢|关|打|擦|洗|切|撕|拿)(?:掉|开|完|下|走|光|上|干净)?了?(?:起来|下去)?$)"
)
"""A predicate whose object was named in the clause before (点燃火柴，然后扔进炉子)."""
_FROM_TO = re.compile(r"[从以由].*开始$|演变|转变[成为]|发展[成为到]|升级[成为]")
"""Says its own place in the telling: 镜头从山脉开始, 演变成冲突."""
_AGAIN = re.compile(r"再次|再度|又一次|继续|仍然|依然|还在|重新|另一|其余|其他|剩下|也")


@lru_cache(maxsize=4096)
def subject(clause: str) -> str:
    """The subject that a clause opens with; "" for a dropped one. Known nouns first, then jieba's tags."""
    found = _SUBJECT.match(clause)
    if found and found.end() < len(clause):
        return found.group()
    return "" if _INNER.match(clause) else _tagged_subject(clause)


def _tagged_subject(clause: str) -> str:
    """Leading words up to the first verb, adverb or preposition, when they end in a noun; "" otherwise."""
    import jieba.posseg

    jieba.setLogLevel(60)  # it reports on stderr that it loads its dictionary
    length, last = 0, ""
    for word, flag in jieba.posseg.cut(clause):
        noun = last[:1] in ("n", "s", "f") or last == "vn"
        if word in "和与及跟" or word == "以及":
            length, last = length + len(word), "u"  # 西兰花和胡萝卜: one subject
            continue
        if (flag[0] in "vdpc" and flag != "vn") or word in "把被将" or (flag[0] == "a" and noun):
            return clause[:length] if noun else ""
        if flag[0] not in "nmqabrsufzjitv":
            return ""
        length, last = length + len(word), flag
    return ""


def is_fragment(clause: str) -> bool:
    """A thing and no event (一张照片, 停满车的街道), or a subject that the rules cannot take off (路灯亮了起来)."""
    return bool(_PICTURE.search(clause)) or (not subject(clause) and bool(_THING.match(clause)))


def _parts(clause: str) -> tuple[str, str, str]:
    """(subject, connective behind it, predicate)."""
    who = subject(clause)
    rest = clause[len(who) :]
    inner = _INNER.match(rest)
    return who, inner.group() if inner else "", rest[inner.end() :] if inner else rest


def _head(who: str) -> str:
    """What a subject is at its end: 男人, 狗."""
    found = re.search(rf"(?:{_PEOPLE})$", who)
    return found.group() if found else who


def _fits(pronoun: str, who: str) -> bool:
    """Can the pronoun stand for this subject?"""
    head = _head(who)
    plural = bool(re.match(r"两|二|三|四|五|几|一群|一些|许多|一对|人们|大家|.*们$", who))
    if pronoun.endswith("们"):
        return plural
    if pronoun == "他":
        return not plural and not re.search(r"女|妈|母|奶|姐|妹|姑娘|新娘|狗|猫|鸟|车", head)
    if pronoun == "她":
        return not plural and not re.search(r"男|爸|父|爷|哥|弟|小伙|新郎|狗|猫|鸟|车", head)
    return not plural and not re.search(r"人|孩|女|男|师|员", head)


def _same(first: str, second: str) -> bool:
    """Do the two subjects, in this order, name the same one?"""
    if not second:
        return True
    if _PRONOUN.fullmatch(second):
        return first == second or (bool(first) and not _PRONOUN.fullmatch(first) and _fits(second, first))
    known = re.match(r"[那这]", second) or not re.search(r"[一两二三四五几另]", second)
    return first == second or (bool(first) and bool(known) and _head(first) == _head(second))


def swap(first: str, second: str) -> tuple[str, str] | None:
    """The two clauses in each other's slot: (text for the first slot, text for the second slot), or None.

    One and the same subject, said or dropped, stays in its slot and so do the connectives behind it (他先…再…); an
    object
    that is 它 in the second clause changes place with the noun of the first. None when something would dangle.
    """
    who_a, order_a, a = _parts(first)
    who_b, order_b, b = _parts(second)
    if _FROM_TO.search(first) or _FROM_TO.search(second):
        return None
    if not a or not b or _AGAIN.search(second) or is_fragment(first) or is_fragment(second):
        return None
    if _LEFT_OUT.match(b) and not _POINTS_BACK.search(b) and "把" not in b:
        return None
    if (order_a and not who_a and subject(a)) or (order_b and not who_b and subject(b)):
        return None  # 先是一个男孩…: the subject stands behind the word of order
    if not who_a and who_b and _NOBODY.match(a):
        return None
    if not who_a and who_b:  # 洗完手之后，他切菜: the subject stands in the second clause
        return f"{order_a}{_bare(b)}", f"{who_b}{order_b}{_bare(a)}"
    same = _same(who_a, who_b)
    if not same and _PRONOUN.fullmatch(who_b):
        return None
    traded = _trade(a, b)
    if traded is None:
        return None
    a, b = traded
    if same:
        return f"{who_a}{order_a}{b}", f"{who_b}{order_b}{a}"
    return f"{who_b}{order_a}{b}", f"{who_a}{order_b}{a}"


def _bare(predicate: str) -> str:
    """Without what only fits in the old slot: 洗完手 -> 洗手, 开始切菜 -> 切菜."""
    return re.sub(r"(?<=[\u3400-\u9fff])[完了](?=[\u3400-\u9fff])", "", predicate, count=1)


def _trade(a: str, b: str) -> tuple[str, str] | None:
    """Let 它 (and 把它) of the second predicate change place with the object of the first."""
    found = _POINTS_BACK.search(b)
    if not found:
        return a, b
    noun = re.search(
        r"(?:[一两三几][个只条块把张本杯瓶根颗件辆份片盆盘碗袋盒束朵台支枚]|那[个只]?)[\u3400-\u9fff]{1,6}$", a
    )
    if noun is None:
        return None
    pronoun = re.search(r"它们?|其", found.group()).group()
    held = found.start() + found.group().index(pronoun)
    return a[: noun.start()] + pronoun, b[:held] + noun.group() + b[held + len(pronoun) :]
