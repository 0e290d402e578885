"""`rlkit reward`: scores of folders and files, and of a server, with one clear error for what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_synth.video import write_mp4
from rlkit import cli
from rlkit.plugins import ROOT

SLOW = ("torch", "transformers", "numpy", "PIL", "pydantic", "fastapi", "httpx", "pyarrow")
REWARD = """
import numpy as np

def load(device="cpu", *, scale=1.0):
    def score(*, prompts, completions, images=None, videos=None, **columns):
        beside = [*(images or []), *(videos or [])] or [None] * len(completions)
        return [scale * size(one) + len(p) + sum(map(size, b or [])) for p, one, b in zip(prompts, completions, beside)]
    return score

def size(one):
    return len(one) if isinstance(one, str) else float(np.asarray(one).size)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLKIT_REWARD_TOKEN", raising=False)
    Path("size.py").write_text(REWARD)
    Path("images/more").mkdir(parents=True)
    for name, side in (("a.png", 2), ("more/b.jpg", 3)):
        Image.new("RGB", (side, side), "red").save(Path("images") / name)
    return tmp_path


def rlkit(*argv):
    with pytest.raises(SystemExit) as caught:
        cli.main(["reward", *argv])
    return caught.value.code


def scores(path="s.parquet"):
    return {row["id"]: row["score"] for row in pq.read_table(path).to_pylist()}


def errors(path="s.parquet"):
    return {row["id"]: row["error"] for row in pq.read_table(path).to_pylist() if row["error"]}


def test_check_ends_with_1_where_a_probe_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    head = "def load(device='cpu'):\n    def score(*, prompts, completions, **columns):\n        return "
    Path("steady.py").write_text(head + "[float(len(set(one.split()))) for one in completions]\n    return score\n")
    Path("shaky.py").write_text("import random\n" + head + "[random.random() for _ in completions]\n    return score\n")
    only = [word for name in ("signature", "deterministic", "batch_size") for word in ("--only", name)]
    assert rlkit("check", "./steady.py", "--kind", "text", *only) == 0
    assert rlkit("check", "./shaky.py", "--kind", "text", "--json", *only) == 1
    told = capsys.readouterr().out
    assert "deterministic" in told and '"fail"' in told


def test_check_says_what_is_wrong_before_any_probe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rlkit("check", "clip_scor", "--kind", "text") != 0
    assert "no reward 'clip_scor'" in capsys.readouterr().err
    Path("own.py").write_text("def load(device='cpu'):\n    return lambda *, prompts, completions, **c: [1.0]\n")
    assert rlkit("check", "./own.py", "--kind", "text", "--data", "absent.jsonl") != 0
    assert "absent.jsonl" in capsys.readouterr().err


def test_help_imports_nothing_slow():
    code = (
        "import sys\nfrom rlkit.cli import main\ntry:\n    main(['reward', '--help'])\nexcept SystemExit:\n    pass\n"
    )
    code += f"print('slow:', [name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("usage: rlkit reward") and done.stdout.strip().splitlines()[-1] == "slow: []"


def test_a_folder_of_pictures_and_clips(folder, capsys):
    write_mp4("images/clip.mp4", np.zeros((8, 16, 16, 3), np.uint8), 4)
    Path("images/broken.png").write_text("no picture")
    Path("images/notes.txt").write_text("not for scoring")
    assert rlkit("score", "./size.py", "images", "--out", "s.parquet", "--frames", "4", "--option", "scale=2.0") == 0
    assert scores() == {"a.png": 24.0, "broken.png": None, "clip.mp4": 2.0 * 4 * 16 * 16 * 3, "more/b.jpg": 54.0}
    assert errors()["broken.png"].endswith("not a picture that Pillow can read.")
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["scored"], told["masked"], told["added"]) == (4, 3, 1, 4)
    assert told["mean"] == round((24 + 6144 + 54) / 3, 6)


def test_prompts_of_a_folder(folder):
    Path("images/metadata.jsonl").write_text('{"file_name": "more/b.jpg", "prompt": "four"}\n')
    assert rlkit("score", "./size.py", "images", "--out", "s.parquet") == 0
    assert scores() == {"a.png": 12.0, "more/b.jpg": 31.0}


def test_a_prompt_for_a_file_that_is_not_there(folder, capsys):
    Path("images/metadata.jsonl").write_text('{"file_name": "gone.png", "prompt": "x"}\n')
    assert rlkit("score", "./size.py", "images", "--out", "s.parquet") == 2
    assert "file_name 'gone.png' is no picture or clip of the folder" in capsys.readouterr().err


def test_rows_of_a_jsonl(folder):
    write_mp4("clip.mp4", np.zeros((8, 16, 16, 3), np.uint8), 4)
    rows = [
        {"id": "text", "completion": "abc"},
        {"prompt": "ab", "completion": "abc", "extra": 1},
        {"id": "picture", "prompt": "p", "image": "images/a.png"},
        {"id": "beside", "completion": "abcd", "images": ["images/a.png", "images/more/b.jpg"]},
        {"id": "clip", "completion": "a", "video": "clip.mp4"},
        {"id": "nothing", "prompt": "p"},
        {"id": "gone", "image": "nowhere.png"},
        {"id": 7, "image": 7},
    ]
    Path("rows.jsonl").write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    assert rlkit("score", "./size.py", "rows.jsonl", "--out", "s.parquet", "--frames", "2") == 0
    found = scores()
    assert (found["text"], found["1"], found["picture"]) == (3.0, 5.0, 13.0)
    assert (found["beside"], found["clip"]) == (4.0 + 12 + 27, 1.0 + 2 * 16 * 16 * 3)
    assert "no completion and 0 pictures or clips" in errors()["nothing"]
    assert "no such file" in errors()["gone"]
    assert "image is a int; expected a path" in errors()["7"]
    assert "not JSON" in errors()["rows.jsonl:9"] and len(found) == 9


def test_pictures_inside_a_parquet_file_and_what_they_tell(folder):
    about, exif = PngInfo(), Image.Exif()
    about.add_text("parameters", "steps: 20")
    exif[0x0112] = 6  # turn a quarter
    Image.new("RGB", (2, 3)).save("told.png", pnginfo=about, exif=exif)
    Path("told.py").write_text(
        "def load(device='cpu'):\n"
        "    def score(*, completions, **_):\n"
        "        return [10.0 * one.width + one.getexif().get(0x0112, 0) + told(one) for one in completions]\n"
        "    return score\n"
        "def told(one):\n"
        "    return one.info['parameters'] == 'steps: 20'\n"
    )
    data = Path("told.png").read_bytes()
    images = [{"bytes": data, "path": None}, {"bytes": None, "path": "told.png"}, {"bytes": b"x", "path": None}]
    pq.write_table(pa.table({"id": ["bytes", "path", "bad"], "image": images}), "rows.parquet")
    assert rlkit("score", "./told.py", "rows.parquet", "--out", "s.parquet") == 0
    assert scores() == {"bytes": 31.0, "path": 31.0, "bad": None}  # upright, 3 wide, the turn no longer noted


def test_nothing_scored_is_exit_code_1_and_can_be_tried_again(folder, capsys):
    Path("none.py").write_text(
        "def load(device='cpu'):\n    return lambda *, completions, **_: [None] * len(completions)\n"
    )
    assert rlkit("score", "./none.py", "images", "--out", "s.parquet") == 1
    assert json.loads(capsys.readouterr().out)["mean"] is None
    Path("none.py").write_text(REWARD)
    assert rlkit("score", "./none.py", "images", "--out", "s.parquet") == 1
    assert rlkit("score", "./none.py", "images", "--out", "s.parquet", "--retry-masked") == 0
    assert scores() == {"a.png": 12.0, "more/b.jpg": 27.0}


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (
            ["score", "nowhere", "images", "--out", "s.parquet"],
            1,
            "nowhere: cannot be loaded (FileNotFoundError: no reward",
        ),
        (["score", "./size.py", "images", "--out", "s.parquet", "--option", "scala=1"], 1, "scala"),
        (["score", "./size.py", "images", "--out", "s.parquet", "--option", "scale"], 2, "expected key=value"),
        (["score", "./size.py", "nowhere", "--out", "s.parquet"], 2, "nowhere: expected a folder"),
        (["score", "./size.py", "empty", "--out", "s.parquet"], 2, "empty: has no pictures or clips"),
        (["serve", "nowhere.yaml"], 1, "nowhere.yaml: cannot be read"),
        (["serve", "rewards.yaml", "--host", "0.0.0.0"], 1, "0.0.0.0 can be reached by others and there is no token"),
    ],
)
def test_one_clear_error(folder, capsys, argv, code, message):
    Path("empty").mkdir()
    assert rlkit(*argv) == code
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not Path("s.parquet").exists()


def test_a_server_that_refuses_ends_the_job_with_its_reason(folder, capsys, monkeypatch):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    Thread(target=server.serve_forever, args=(0.01,)).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    assert rlkit("score", url, "images", "--out", "s.parquet") == 1
    server.shutdown()
    server.server_close()
    assert "RLKIT_REWARD_TOKEN" in capsys.readouterr().err and not Path("s.parquet").exists()


def test_a_job_that_is_killed_goes_on(folder):
    Path("slow.py").write_text(
        "import time\n"
        "def load(device='cpu'):\n"
        "    def score(*, prompts, completions, **_):\n"
        "        time.sleep(0.01)\n"
        "        open('calls.txt', 'a').write(''.join(one + '\\n' for one in completions))\n"
        "        return [float(one) if int(one) % 5 else None for one in completions]\n"
        "    return score\n"
    )
    Path("rows.jsonl").write_text("".join(json.dumps({"id": f"r{k}", "completion": str(k)}) + "\n" for k in range(400)))
    command = ["reward", "score", "./slow.py", "rows.jsonl", "--out", "s.parquet", "--batch-size", "2"]
    code = "from reward_models.serving import scoring_job; scoring_job.SHARD_SECONDS = 0.05\n"
    code += f"from rlkit.cli import main; main({command})"
    job = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    while len(list(Path().glob("s.parquet.parts/*.parquet"))) < 3:
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    before = len(Path("calls.txt").read_text().splitlines())
    assert not Path("s.parquet").exists() and before < 400
    assert rlkit(*command[1:]) == 0
    assert scores() == {f"r{k}": float(k) if k % 5 else None for k in range(400)}
    after = Path("calls.txt").read_text().splitlines()
    assert len(after) - before < 400 - 6, "what was written before the kill is not scored again"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_of_a_launcher_share_the_items(folder):
    """What `torchrun --no-python rlkit reward score ...` does."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    code = "from rlkit.cli import main; main()"
    job = ["reward", "score", "./own.py", "rows.jsonl", "--out", "s.parquet"]
    Path("own.py").write_text(
        "import os\ndef load(device='cpu'):\n"
        "    return lambda *, prompts, completions: [float(os.environ['RANK']) for _ in completions]\n"
    )
    lines = [json.dumps({"id": f"r{n}", "prompt": "", "completion": f"A dog {n}."}) for n in range(40)]
    Path("rows.jsonl").write_text("\n".join(lines))
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launcher, sys.executable, "-c", code, *job]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) == 1 and (told[0]["rows"], told[0]["scored"], told[0]["added"]) == (40, 40, 40)
    rows = pq.read_table("s.parquet").to_pylist()
    assert {row["id"] for row in rows} == {f"r{n}" for n in range(40)} and {row["score"] for row in rows} == {0.0, 1.0}
