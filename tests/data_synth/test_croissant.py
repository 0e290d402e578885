"""croissant.json is valid by MLCommons' own reader, and names the files by their content."""

import hashlib
import json

import pytest

from data_synth.croissant import write_croissant
from data_synth.records import make_record, write_records

mlcroissant = pytest.importorskip("mlcroissant", reason="the optional package mlcroissant is not installed")


def test_mlcroissant_validates_it_and_reads_the_lineage(tmp_path):
    rows = [
        make_record(
            "Describe.", f"A dog {k}.", [("verbose", f"A dog {k}. Yes.")], source_id=f"s{k}", licence="CC0-1.0",
            operator="verbose", tier="silver",
        )
        for k in range(3)
    ]  # fmt: skip
    write_records(rows, tmp_path)
    path = write_croissant(tmp_path)
    dataset = mlcroissant.Dataset(jsonld=str(path))  # raises where it is not valid
    assert dataset.metadata.name == tmp_path.name and not dataset.metadata.ctx.issues.errors
    assert {field.name for field in dataset.metadata.record_sets[0].fields} >= {"pair_id", "source_id", "tier"}
    (file,) = [one for one in json.loads(path.read_text())["distribution"] if one["@type"] == "cr:FileObject"]
    assert file["sha256"] == hashlib.sha256((tmp_path / file["contentUrl"]).read_bytes()).hexdigest()
