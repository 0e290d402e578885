"""`engine: ray` on a local cluster of two processes: what dies is done again, and files are those of one process."""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from data_synth import ray_tasks
from data_synth.errors import DataError
from data_synth.making import Operator, Options
from data_synth.records import shards_of
from data_synth.sources import read_captions
from rlkit import cli

ray = pytest.importorskip("ray", reason="the optional package ray is not installed")
build_module = importlib.import_module("data_synth.making.build")
REWARD = """
import os, signal
from pathlib import Path

def load(device="cpu"):
    def score(*, prompts, completions, **_):
        if "9" in prompts and not Path("died").exists():
            Path("died").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return [float(len(one)) / 7 if one else None for one in completions]
    return score
"""


@pytest.fixture(scope="module")
def cluster():
    # Ray runs its processes at a low priority, which beside other work takes minutes to import anything
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config={"worker_niceness": 0})
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


def die_once(mark):
    """Kill this process as a machine that fails would, the first time."""
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_order_and_a_task_whose_process_dies_is_run_again(cluster, tmp_path):
    mark = tmp_path / "died"

    def square(number):
        if number == 5:
            die_once(mark)
        return number * number, os.getpid()

    found = list(ray_tasks.results(square, range(12)))
    assert [(one, value) for one, (value, _) in found] == [(n, n * n) for n in range(12)]
    workers = [pid for _, (_, pid) in found]
    assert workers[5] != int(mark.read_text()) and os.getpid() not in workers and len(set(workers)) >= 2


def test_errors_are_those_of_the_function_and_a_task_that_always_kills_ends(cluster, monkeypatch):
    monkeypatch.setattr(ray_tasks, "RETRIES", 1)

    def failing(number):
        if number == 1:
            raise DataError("shard 1: cannot be read.")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"^shard 1: cannot be read\.$"):
        list(ray_tasks.results(failing, [1]))
    with pytest.raises(DataError, match="process of a task on Ray died 2 times"):
        list(ray_tasks.results(failing, [2]))


def test_pairs_whose_workers_are_killed_are_the_pairs_of_one_process(cluster, tmp_path, monkeypatch):
    source = tmp_path / "captions.jsonl"
    texts = (f"A man with badge {n} opens a red box. Then he turns left. Then he throws {n} hats." for n in range(60))
    source.write_text("".join(json.dumps({"id": f"c{n}", "caption": one}) + "\n" for n, one in enumerate(texts)))
    options = Options([Operator("order_swap"), Operator("attribute_swap"), Operator("verbose")], rows_per_shard=12)
    made, finished, marks = build_module.make_shard, build_module.finish_shard, [tmp_path / "a", tmp_path / "b"]

    def dying_before(work, options, shard):
        if shard == 2:
            die_once(marks[0])
        made(work, options, shard)

    def dying_after(work, options, shard):
        finished(work, options, shard)
        if shard == 3:
            die_once(marks[1])

    def contents(name, engine):
        out = tmp_path / name
        out.mkdir()
        done = build_module.build(lambda: read_captions(source), out, options, engine=engine)
        assert done.pairs + done.without_negative == 60 and done.shards == 5
        files = [*shards_of(out), out / "rejected_rows.jsonl"]
        return {path.name: path.read_bytes() for path in files if path.exists()}

    alone = contents("alone", "local")
    monkeypatch.setattr(build_module, "make_shard", dying_before)
    monkeypatch.setattr(build_module, "finish_shard", dying_after)
    assert contents("ray", "ray") == alone
    assert all(int(mark.read_text()) != os.getpid() for mark in marks)


def test_scores_whose_worker_is_killed_are_the_scores_of_one_process(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(REWARD)
    rows = [{"id": f"r{n}", "prompt": str(n), "completion": "x" * (n % 5)} for n in range(40)]
    rows.insert(7, {"id": "gone", "image": "nowhere.png"})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def score(*more):
        with pytest.raises(SystemExit) as caught:
            cli.main(["reward", "score", "./own.py", "rows.jsonl", "--batch-size", "4", *more])
        assert caught.value.code == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])  # before it, Ray tells of the death
        assert told.pop("seconds") >= 0  # two decimals: 0.0 on a fast machine
        return told

    on_ray = score("--out", "ray.parquet", "--engine", "ray")
    assert Path("died").exists() and int(Path("died").read_text()) != os.getpid()
    assert on_ray == score("--out", "alone.parquet") and (on_ray["rows"], on_ray["masked"]) == (41, 9)
    assert Path("ray.parquet").read_bytes() == Path("alone.parquet").read_bytes()
