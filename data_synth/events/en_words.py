"""English word tables of the rule parser: verbs and their forms, connectives, pronouns, states."""

from functools import lru_cache

VERBS = """
accelerate add adjust aim announce answer appear applaud apply approach arrange arrive ask assemble assist
attach attack attempt bake balance bark bat bathe beat begin bend bite bleed blend blink block blow board boil
bounce bow box braid brake break bring brush bump burn burst button buy call capture care carry carve catch
celebrate change chase chat check cheer chew chop circle clap clean clear climb clip close coat collapse collect
color comb combine come complete continue control cook cool cough count cover crack crash crawl cross crouch
crush cry curl cut dance deal decorate describe dice dig dip disappear discuss display dive divide do dodge drag
drain draw dress dribble drift drill drink drive drop drum dry dump dunk eat edit embrace emerge empty end enter
erupt examine exchange exercise exit explain explode extend face fade fall fasten feed fight fill film finish
fish fit fix flap flash flex flick flip float fling flow fly focus fold follow freeze fry gallop gather gaze
gesture get give glide glow glue go grab grasp grate greet grill grind grip grow hand hang hammer happen head
heat help hike hit hold hop hug hum hurl imitate insert inspect instruct interview introduce invite iron jog
join juggle jump keep kick kiss kneel knit knock land laugh launch lay lead lean leap leave let lick lie lift
light line listen load lock look loop lose lower make march marinate mark mash massage measure meet melt merge
miss mix mop mount move mow nail nod observe open operate pack paddle paint pan pass paste pat pause pay pedal
peel perform pet pick pin place plant play plunge point poke polish pop pose pour practice prepare present press
proceed pull pump punch push put raise rake reach read rearrange receive record release remove repair repeat
repeatedly replace rest return reveal ride rinse rise roast rock roll rotate row rub run rush sail salute sand
say scatter scoop score scrape scratch scream scrub sculpt search season see seem serve set sew shake shape
sharpen shave shift shine shoot shout shovel show shred shrink shuffle shut sing sink sit skate sketch ski skip
slam slap sleep slice slide slip slow smash smell smile smoke smooth snap sneeze sniff snowboard soak solve
speak spin splash split spray spread sprinkle sprint squat squeeze stab stack stand stare start steam steer step
stick stir stop straighten stretch strike strum style surf surround swallow sway sweep swim swing switch take
talk tap taste taunt teach tear tell test thank throw tie tighten tilt toss touch tour trade train travel trim
trip try tuck tumble turn twirl twist type unbox unfold unlock unpack unscrew unwrap use vacuum vanish vault
wait wake walk wander wash watch wave wax wear weave weigh weld whip whisk whisper wind wipe work wrap wrestle
write yell zoom juice strain dismount joust fire spike pitch prep scuba maneuver knead whittle squirt handle
guide pipe fluff reappear re-enter straddle prop cradle scold confront escort notice dial stroll hover blast
bloom blossom climax crumble crumple curve dash descend ascend dissolve deliver drape drizzle expand fetch
garnish grease hoist howl ignite lather layer lunge mend nibble nudge orbit overtake park perch pivot plug
pounce prance preheat puff quiver ripple saute saw scamper scan sear shimmer shove shrug sift simmer sip slurp
soar spill spit sprout stomp strap strip stroke stumble submerge swap swirl thread tickle tow track trot unroll
unzip uncover wag wade wiggle wink yawn zip warm race whistle honk beep glance hurry rehearse sign parade dart
scramble transfer loosen separate season refrigerate chill loose beat
growl meow roar chirp dab smear trace erase scribble frost drizzle blanch mince crack flatten bandage hatch clink
demonstrate retrieve pierce pretend manage create stay succeed recover peek offer inhale exhale conclude produce argue
decide enjoy install congratulate inflate share fail unhook resume transition lob engage relax occur advance
toast juggle crouch limp nap snore sob giggle grin frown blush shiver sweat tremble dine sew
""".split()

IRREGULAR = """
be is are was were been being|have has had had having|do does did done doing|go goes went gone going
lie lies lay lain lying|tie ties tied tied tying|begin begins began begun beginning|bend bends bent bent bending
bite bites bit bitten biting|blow blows blew blown blowing|break breaks broke broken breaking
bring brings brought brought bringing|buy buys bought bought buying|catch catches caught caught catching
come comes came come coming|cut cuts cut cut cutting|dig digs dug dug digging|dive dives dove dived diving
draw draws drew drawn drawing|drink drinks drank drunk drinking|drive drives drove driven driving
eat eats ate eaten eating|fall falls fell fallen falling|feed feeds fed fed feeding
fight fights fought fought fighting|fly flies flew flown flying|freeze freezes froze frozen freezing
get gets got gotten getting|give gives gave given giving|grind grinds ground ground grinding
grow grows grew grown growing|hang hangs hung hung hanging|hit hits hit hit hitting|hold holds held held holding
keep keeps kept kept keeping|kneel kneels knelt knelt kneeling|lay lays laid laid laying
lead leads led led leading|leap leaps leapt leapt leaping|leave leaves left left leaving
let lets let let letting|light lights lit lit lighting|lose loses lost lost losing|make makes made made making
meet meets met met meeting|pay pays paid paid paying|put puts put put putting|read reads read read reading
ride rides rode ridden riding|rise rises rose risen rising|run runs ran run running|say says said said saying
see sees saw seen seeing|sew sews sewed sewn sewing|shake shakes shook shaken shaking
shine shines shone shone shining|shoot shoots shot shot shooting|show shows showed shown showing
shrink shrinks shrank shrunk shrinking|shut shuts shut shut shutting|sing sings sang sung singing
sink sinks sank sunk sinking|sit sits sat sat sitting|sleep sleeps slept slept sleeping
slide slides slid slid sliding|speak speaks spoke spoken speaking|spin spins spun spun spinning
split splits split split splitting|spread spreads spread spread spreading|stand stands stood stood standing
stick sticks stuck stuck sticking|strike strikes struck struck striking|sweep sweeps swept swept sweeping
swim swims swam swum swimming|swing swings swung swung swinging|take takes took taken taking
teach teaches taught taught teaching|tear tears tore torn tearing|tell tells told told telling
throw throws threw thrown throwing|wake wakes woke woken waking|wear wears wore worn wearing
weave weaves wove woven weaving|wind winds wound wound winding|write writes wrote written writing
hurl hurls hurled hurled hurling|ring rings rang rung ringing|flee flees fled fled fleeing
wet wets wet wet wetting|win wins won won winning|find finds found found finding|choose chooses chose chosen choosing
forget forgets forgot forgotten forgetting|creep creeps crept crept creeping|bow bows bowed bowed bowing
"""

AUXILIARIES = {
    "is",
    "are",
    "was",
    "were",
    "be",
    "been",
    "being",
    "has",
    "have",
    "had",
    "do",
    "does",
    "did",
    "can",
    "could",
    "will",
    "would",
    "'s",
    "'re",
}
LIGHT = {
    "begin",
    "start",
    "continue",
    "proceed",
    "try",
    "attempt",
    "see",
    "show",
    "go",
    "keep",
    "get",
    "appear",
    "seem",
}
"""Verbs that hand the meaning on: the lemma of "begins pushing" is push."""

STATIVE = set(
    """be have hold wear stand sit lie seem look watch contain face surround lean hang rest wait listen live own need
    want like love
    consist belong resemble know stay remain feature depict observe see stare gaze display""".split()
)

DETERMINERS = {
    "a",
    "an",
    "the",
    "this",
    "that",
    "these",
    "those",
    "his",
    "her",
    "its",
    "their",
    "my",
    "our",
    "your",
    "some",
    "several",
    "many",
    "another",
    "each",
    "every",
    "both",
    "all",
    "two",
    "three",
    "four",
    "five",
    "six",
    "one",
    "various",
    "different",
    "other",
    "more",
    "no",
    "any",
    "multiple",
    "numerous",
    "few",
}
PREPOSITIONS = {
    "of",
    "in",
    "on",
    "at",
    "to",
    "from",
    "with",
    "by",
    "for",
    "into",
    "onto",
    "over",
    "under",
    "through",
    "across",
    "along",
    "around",
    "behind",
    "between",
    "near",
    "beside",
    "inside",
    "outside",
    "off",
    "towards",
    "toward",
    "against",
    "upon",
    "about",
    "without",
    "within",
    "during",
    "above",
    "below",
    "past",
    "down",
    "up",
    "out",
    "like",
    "next",
}
SUBJECT_PRONOUNS = {"he": "sg", "she": "sg", "it": "sg", "they": "pl", "we": "pl", "i": "sg", "you": "pl"}
POSSESSIVES = {"his", "her", "their", "its"}
ADVERBS = {
    "also",
    "then",
    "quickly",
    "slowly",
    "carefully",
    "gently",
    "suddenly",
    "again",
    "finally",
    "now",
    "just",
    "still",
    "soon",
    "immediately",
    "eventually",
    "simply",
    "successfully",
    "repeatedly",
    "gradually",
    "together",
    "even",
    "first",
    "next",
    "later",
    "briefly",
    "softly",
    "happily",
    "smoothly",
    "gracefully",
}
_NO_ADVERBS = set("family fly reply supply jelly belly bully ally lily assembly butterfly dragonfly early only".split())


def is_adverb(word: str) -> bool:
    """An adverb that may stand between subject and verb: one of the list, or by its ending ("slightly")."""
    return word in ADVERBS or (word[-2:] == "ly" and word not in _NO_ADVERBS and len(word) > 4)


SEQUENCE_MARKERS = (
    "after(?=\\s*,)|first of all|first|firstly|to begin with|to start with|to start|and then|then|after that|"
    "after this|after which|afterwards|afterward|"
    "next up|next|later on|later|subsequently|thereafter|following that|following this|soon after|soon afterwards|"
    "shortly after|"
    "shortly afterwards|a moment later|moments later|seconds later|a few seconds later|a few moments later|eventually|"
    "finally|lastly|at last|in the end|at the end|to finish|secondly|thirdly|second|third|fourth|last|suddenly|"
    "immediately after|once done|once finished"
)
OPENING_MARKERS = {"first", "firstly", "first of all", "to begin with", "to start with", "to start"}
WEAK_MARKERS = {"suddenly", "second", "third", "fourth", "last"}
"""Kept in their slot like the others, but no evidence of order by themselves."""
SIMULTANEOUS_MARKERS = (
    "meanwhile|in the meantime|at the same time|simultaneously|all the while|in the background|nearby|"
    "throughout the video|throughout|"
    "during this time|during this|while this happens|as this happens|at this time|behind him|behind her|behind them|"
    "around him|around her|around them|"
    "on the side|to the side"
)
NEUTRAL_MARKERS = (
    "also|additionally|in addition|moreover|besides|furthermore|however|now|there|here|instead|overall|again|"
    "once again|but|and|so"
)


def _regular(verb: str) -> tuple[str, str, str]:
    """-s, -ed and -ing forms of a regular verb."""
    consonant_y = verb.endswith("y") and verb[-2] not in "aeiou"
    third = (
        verb[:-1] + "ies" if consonant_y else verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")
    )
    stem = verb
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        stem = verb[:-1]
    elif (
        len(verb) >= 3
        and verb[-1] in "bdgklmnprt"
        and verb[-2] in "aeiou"
        and verb[-3] not in "aeiou"
        and (
            len(verb) <= 4
            or verb in {"unplug", "unwrap", "unzip", "strum", "scrub", "scrap", "strap", "strip", "squat", "shrug"}
        )
    ):
        stem = verb + verb[-1]
    past = verb[:-1] + "ied" if consonant_y else stem + "ed"
    return third, past, stem + "ing"


@lru_cache(maxsize=1)
def verb_forms() -> dict[str, tuple[str, str]]:
    """Word form -> (lemma, tag); tags: base, third, past, ing. A past participle that differs has the tag past too."""
    forms: dict[str, tuple[str, str]] = {}
    irregular = {row.split()[0]: row.split() for row in IRREGULAR.replace("\n", "|").split("|") if row.strip()}
    for verb in VERBS:
        if verb in irregular or verb == "repeatedly":
            continue
        third, past, ing = _regular(verb)
        for form, tag in ((past, "past"), (ing, "ing"), (third, "third"), (verb, "base")):
            forms[form] = (verb, tag)
    for verb, (base, third, *pasts, ing) in irregular.items():
        for form in pasts:
            forms[form] = (verb, "past")
        forms[ing] = (verb, "ing")
        forms[third] = (verb, "third")
        forms[base] = (verb, "base")
    for form in ("is", "are"):
        forms[form] = ("be", "third" if form == "is" else "base")
    for form in ("was", "were"):
        forms[form] = ("be", "past")
    forms["lay"] = ("lay", "base")
    return forms


def conjugate(form: str, lemma: str, number: str) -> str:
    """Present tense of a verb for a singular or plural subject: ("are", "be", "sg") -> "is"."""
    if lemma == "be":
        return "is" if number == "sg" else "are"
    if number == "pl":
        return lemma
    if form != lemma:
        return form
    irregular = {"have": "has", "do": "does", "go": "goes"}
    return irregular.get(lemma) or _regular(lemma)[0]
