"""croissant.json: what is in a folder of pairs, for machines, in MLCommons' Croissant 1.0 with its lineage.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html. Written as plain JSON-LD; the package mlcroissant reads
and validates it (the tests do).
"""

import hashlib
from pathlib import Path
from typing import Any

from data_synth.card import count, splits_of
from data_synth.making.files import whole_json
from data_synth.records import shards_of

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
FIELDS = {
    "pair_id": "content hash of prompt, media and answers",
    "source_id": "the clip or caption row it was made from",
    "parent_id": "content hash of that row",
    "operator": "what made the rejected answers",
    "tier": "gold, silver or bronze: how far it can be trusted",
    "licence": "of the source",
    "consent": "of the source",
    "rubric_version": "of the rules for what is wrong and for tiers",
}


def write_croissant(folder: str | Path) -> Path:
    """Write croissant.json into a folder of pairs; returns its path."""
    folder = Path(folder)
    whole_json(folder / "croissant.json", croissant(folder))
    return folder / "croissant.json"


def croissant(folder: Path) -> dict[str, Any]:
    """The description of a folder of pairs as JSON-LD."""
    counts = count(folder)
    files = [_file(path, folder) for path in shards_of(folder)]
    pattern = "*/pairs-*.parquet" if splits_of(folder) else "pairs-*.parquet"
    shards = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "encodingFormat": "application/x-parquet",
        "includes": pattern,
    }
    licences = sorted(name for name in counts.licences if name != "not said")
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": folder.resolve().name,
        "description": f"{counts.pairs:,} preference pairs with {counts.answers:,} rejected answers from "
        f"{counts.sources:,} sources; what is wrong: {', '.join(sorted(counts.kinds))}.",
        "version": "1.0.0",
        **({"license": licences} if licences else {}),
        "rai:dataCollection": "Chosen answers are the captions of the sources; rejected ones are made from them by the "
        f"operators {', '.join(sorted(counts.operators))}, each with its spans, seed and reason in the column edit.",
        "distribution": [*files, shards] if files else [shards],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "pairs", "name": "pairs", "field": _fields()}],
    }


def _file(path: Path, folder: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": "application/x-parquet",
        "sha256": digest.hexdigest(),
    }


def _fields() -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:Field",
            "@id": f"pairs/{name}",
            "name": name,
            "description": meaning,
            "dataType": "sc:Text",
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": name}},
        }
        for name, meaning in FIELDS.items()
    ]
