"""report.html: true to the run folder, in one file, harmless whatever captions say, shorter when files miss."""

import html
import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
from PIL import Image

from rlkit.report import page as module

write_fake_run = runpy.run_path(str(Path(__file__).with_name("fake_run.py")))["write_fake_run"]

HOSTILE = (
    "<script>window.ran = true</script>",
    '<img src=x onerror="window.ran = true">',
    "\"'><svg onload=window.ran=true>",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:window.ran=true",
    "مرحبا \u202e left-to-right \u2066 override",
    "🎬🟥👩\u200d🚀 emoji \x00\x07 control \ufffe",
    "]]></style><style>body{display:none}</style>",
    "<!-- --><base href=//example.com/>",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_fake_run(tmp_path_factory.mktemp("runs") / "dpo_caption")
    module.write_report(folder)
    return folder


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    folder = write_fake_run(tmp_path_factory.mktemp("runs") / "hostile<b>&", clips=12, strips=2)
    for name in ("eval", "pairs"):
        path = folder / f"samples/{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row, text in zip(rows, HOSTILE, strict=False):
            row["prompt"] = row["truth"] = row["clip"] = text
            if name == "eval":
                row["captions"] = {"base": text, "dpo": text + " more " + HOSTILE[0]}
                row["events"] = {key: [[text, text]] for key in ("truth", "base", "dpo")}
            else:
                row.update(chosen=text, rejected=[text + HOSTILE[1]], rejected_kind=[text], margin=[text])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = json.loads((folder / "results.json").read_text())
    results["systems"][HOSTILE[0]] = {HOSTILE[1]: {"value": 0.5, "low": None, "high": None, "n": 3}}
    results["cost"] = {HOSTILE[0]: HOSTILE[2]}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "recipe.yaml").write_text("# " + HOSTILE[0] + '\nalgorithm: "<script>window.ran = true</script>"\n')
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": i, f"{HOSTILE[0]}": 1.0 * i}) + "\n" for i in range(3))
        file.write(json.dumps({"step": 3, f"alarm/{HOSTILE[0]}": HOSTILE[1]}) + "\n")
    module.write_report(folder)
    return folder


def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def visible(folder):
    text = re.sub(r"<style>.*?</style>", "", page(folder), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def test_headline_is_that_of_the_results(run):
    systems = json.loads((run / "results.json").read_text())["systems"]
    for name in ("base", "dpo"):
        assert f"{100 * systems[name]['order_exact']['value']:.1f}" in visible(run)


def test_every_system_and_metric_has_its_number_and_interval(run):
    systems = json.loads((run / "results.json").read_text())["systems"]
    text = visible(run)
    for metrics in systems.values():
        interval = metrics["extra_sentences"]
        assert f"{interval['value']:.2f} {interval['low']:.2f}–{interval['high']:.2f}" in text


def test_page_stands_alone(run):
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page(run))
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert "<script" not in page(run) and "@import" not in page(run)
    assert "default-src 'none'" in page(run)


def test_film_strips_curves_recipe_and_alarms_are_on_it(run):
    assert page(run).count("data:image/jpeg;base64,") >= 8
    assert page(run).count("<svg") >= 8
    text = visible(run)
    assert (
        "rewards/margins" in text
        and "num_clips: 400" in text
        and "the chosen answers' log-probability lies −3.125 nats from its start" in text
    )
    assert "peak_mib 1,530" in text and "exact order, blind" in text
    assert "What was kept" in text and "colour, %" in text


def test_curves_are_files_too(run):
    assert {"loss.svg", "rewards.svg", "log_probabilities.svg"} <= {path.name for path in (run / "plots").iterdir()}


def test_same_folder_same_page(run):
    before = page(run)
    module.write_report(run)
    assert page(run) == before


def test_told_events_are_ticked_in_order_moved_invented_and_missing():
    truth = [["a"], ["b"], ["c"], ["d"]]
    told = module.told_events(truth, [["b"], ["c"], ["a"], ["x"]])
    assert [(e["label"], e["status"]) for e in told] == [
        ("b", "right"),
        ("c", "right"),
        ("a", "moved"),
        ("x", "invented"),
        ("d", "missing"),
    ]


def test_worst_cases_are_shown_what_got_worse_first(tmp_path):
    rows = [
        {"clip": name, "captions": {"base": "x", "dpo": "y"}, "events": {"truth": [1, 2], "base": base, "dpo": dpo}}
        for name, base, dpo in [
            ("good", [1, 2], [1, 2]),
            ("better", [2, 1], [1, 2]),
            ("still wrong", [], []),
            ("got worse", [1, 2], [2, 1]),
        ]
    ]
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = module.examples(module.read_run(tmp_path), None, None)
    found = {group["title"]: [item["clip"] for item in group["rows"]] for group in groups}
    assert found == {"Most improved": ["better"], "Worst": ["got worse", "still wrong"], "As they come": ["good"]}


def test_hostile_texts_are_escaped(hostile_run):
    source = page(hostile_run)
    for tag in ("<script", "<base", 'onerror="', "<svg onload", "<img src=x"):
        assert tag not in source
    text = html.unescape(source)
    for sample in (HOSTILE[0], HOSTILE[1], HOSTILE[3]):
        assert sample in text


def test_right_to_left_texts_cannot_turn_their_neighbours(hostile_run):
    assert '<dd class="text" dir="auto">مرحبا' in page(hostile_run)
    assert ".text{unicode-bidi:isolate" in page(hostile_run)


@pytest.mark.browser
def test_no_script_runs_in_a_browser(hostile_run, browser):
    browser.get((hostile_run / "report.html").resolve().as_uri())
    assert browser.execute_script("return window.ran") is None
    assert browser.execute_script("return document.scripts.length") == 0
    assert browser.execute_script("return getComputedStyle(document.body).display") == "block"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    texts = browser.execute_script("return [...document.querySelectorAll('.side .text')].map(e => e.textContent)")
    assert any("<script>window.ran = true</script>" in text for text in texts)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth + 1")


FILES = "results.json metrics.jsonl recipe.yaml env.json samples/eval.jsonl samples/pairs.jsonl"


@pytest.mark.parametrize("missing", FILES.split())
def test_a_missing_file_gives_a_shorter_page(tmp_path, run, missing):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / missing).unlink()
    module.write_report(folder)
    assert 200 < len(visible(folder)) < len(visible(run))


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
    module.write_report(tmp_path)
    assert "This run is not finished" in visible(tmp_path)


def test_half_written_and_broken_files_are_said_and_survived(tmp_path):
    (tmp_path / "results.json").write_text('{"systems": {')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 0.5}\n{"step": 3, "lo')
    (tmp_path / "env.json").write_text("[1]")
    (tmp_path / "recipe.yaml").write_bytes(b"\xff: [")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/eval.jsonl").write_text('3\n{"captions": 5}\n{"captions": {"a": null}, "frames": 7}\n')
    (tmp_path / "samples/pairs.jsonl").write_text('{"chosen": "x", "rejected": "y"}\n{}\n')
    module.write_report(tmp_path)
    text = visible(tmp_path)
    assert "results.json: not JSON" in text and "metrics.jsonl: 1 lines" in text
    assert "env.json: not a JSON object" in text and "recipe.yaml: not YAML" in text


def test_pictures_come_from_inside_the_run_folder_only(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples/fake.jpg").write_text("no picture")
    names = ["../secret.png", str(tmp_path / "secret.png"), "samples/fake.jpg", "samples/absent.jpg", 3]
    data = module.read_run(folder)
    assert [data.picture({"frames": name}) for name in names] == [None] * 5


def test_samples_may_be_parquet(tmp_path, run):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [json.loads(line) for line in (run / "samples/pairs.jsonl").read_text().splitlines()]
    (tmp_path / "samples").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "samples/pairs.parquet")
    module.write_report(tmp_path)
    assert "order_swap" in visible(tmp_path) and "+1.32" in visible(tmp_path)


def test_a_run_of_several_trainings_shows_each_parts_curves(tmp_path, run):
    for part in ("dpo", "variants/dpo_k1"):
        (tmp_path / part).mkdir(parents=True)
        shutil.copy(run / "metrics.jsonl", tmp_path / part / "metrics.jsonl")
    module.write_report(tmp_path)
    assert re.findall(r"<summary>(.+?)</summary>", page(tmp_path)) == ["dpo", "variants/dpo_k1"]


def test_two_trainings_in_one_file_are_two_curves_and_totals_are_none():
    rows = [{"step": s, "loss": float(s)} for s in (1, 2, 3, 1, 2, 3)] + [{"step": 3, "train_loss": 1.0}]
    curves = module.families(rows)
    assert curves == {"loss": {"loss": [(1, 1), (2, 2), (3, 3)], "loss (2)": [(1, 1), (2, 2), (3, 3)]}}


def test_command_line_names_a_folder_that_is_not_there(tmp_path, capsys):
    assert module.main([str(tmp_path / "absent")]) == 2
    assert "no such run folder" in capsys.readouterr().out
    assert module.main([str(tmp_path)]) == 0
