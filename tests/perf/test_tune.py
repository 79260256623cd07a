"""Tuning on a real server: what is tried, what is written, and that it can be undone."""

from __future__ import annotations

import json
import shutil

import pytest

from client import Classifier
from client.images import sample_photographs
from export.config import from_text
from perf.cli import main
from perf.compare import Comparison
from perf.load import Load
from perf.serving import serving
from perf.tune import KEPT_FILENAME, Setting, Trial, Tuner, Tuning
from server.launcher import Server
from tests.conftest import FREE_PORTS


@pytest.fixture
def own(repository, tmp_path):
    """A repository with one model, to be changed."""
    shutil.copytree(repository / "tiny_onnx", tmp_path / "models" / "tiny_onnx")
    return tmp_path / "models"


def test_a_search_says_what_it_tried_and_what_it_found(own, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    command = ["tune", "tiny_onnx", "--repository", str(own), "--results", str(results), "--window", "0.2", "--rounds", "2"]
    assert main([*command, "--p99-ms", "10000"]) == 0
    captured = capsys.readouterr()
    assert "trials, where a full grid has" in captured.out
    record = json.loads(results.read_text())
    assert record["kind"] == "tuning" and record["trials"][0]["step"] == "as it is"
    assert {trial["step"] for trial in record["trials"]} == {"as it is", "instances", "largest batch", "queue delay"}
    assert len(record["trials"]) < record["grid"]
    assert all(trial["throughput"] > 0 for trial in record["trials"])
    written = (own / "tiny_onnx" / KEPT_FILENAME).exists()
    assert written == (record["chosen"] is not None)


def test_what_is_chosen_is_written_served_and_undone(own, capsys):
    path = own / "tiny_onnx" / "config.pbtxt"
    before = path.read_bytes()
    setting = Setting(instances=2, threads=1, max_batch=2, delay_us=500)
    with serving(own, ["tiny_onnx"], control=True) as subject:
        tuner = Tuner(subject, own, Load("tiny_onnx"), None)
        assert tuner.current == Setting(1, 0, 4, 0)
        tuner.write(own, setting)
    config = from_text(path.read_text())
    assert (config.instance_group[0].count, config.max_batch_size) == (2, 2)
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 2]
    with Server(own, ports=FREE_PORTS) as server, Classifier(server.url, "tiny_onnx") as classifier:
        assert (classifier.model.instances, classifier.model.max_batch) == (2, 2)
        assert len(classifier.classify(sample_photographs()[0])) == 5
    assert main(["tune", "tiny_onnx", "--repository", str(own), "--undo"]) == 0
    assert path.read_bytes() == before
    assert main(["tune", "tiny_onnx", "--repository", str(own), "--undo"]) == 1
    assert "it was not tuned, or that was undone" in capsys.readouterr().err


def test_a_model_without_a_batcher(repository, tmp_path):
    """There is nothing to ask about batches, and a config with a batcher would not load."""
    own = tmp_path / "models"
    shutil.copytree(repository / "tiny_openvino", own / "tiny_openvino")
    with serving(own, ["tiny_openvino"], control=True) as subject:
        tuner = Tuner(subject, own, Load("tiny_openvino"), None, window_s=0.1)
        assert tuner.current == Setting(2, 0, 0, 0)
        tuning = tuner.search(2)
        assert {trial.step for trial in tuning.trials} == {"as it is", "instances"}
        assert all(trial.throughput > 0 for trial in tuning.trials)
        tuner.write(own, Setting(1, 1, 0, 0))
    config = from_text((own / "tiny_openvino" / "config.pbtxt").read_text())
    assert (config.instance_group[0].count, config.max_batch_size, config.HasField("dynamic_batching")) == (1, 0, False)
    assert config.parameters["INFERENCE_NUM_THREADS"].string_value == "1"


def test_only_what_is_certainly_faster_is_chosen():
    best = Trial("instances", Setting(2, 1, 8, 0), 110.0, 20.0, within=True)

    def chosen(*turns: float) -> Setting | None:
        return Tuning([best], best, Comparison({"as it was": [100.0, 101.0, 99.0], "tuned": turns}), 36).chosen

    assert chosen(110.0, 111.0, 109.0) == best.setting
    assert chosen(101.0, 120.0, 90.0) is None
    assert Tuning([best], best, None, 36).chosen is None


def test_a_bound_that_is_broken_counts_for_nothing():
    assert Trial("instances", Setting(2, 1, 8, 0), 110.0, 20.0, within=False).score == 0


def test_a_model_that_was_not_published_here(own, capsys):
    assert main(["tune", "nothing", "--repository", str(own)]) == 1
    assert "holds no exported model nothing" in capsys.readouterr().err
