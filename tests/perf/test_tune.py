"""Tuning on a real server: what is tried, what is written, and that it can be undone."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.export.config import from_text, to_text
from seresnext101_triton.export.formats.torchscript import TorchScript
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.promotion import BACKUP_FILENAME
from seresnext101_triton.perf import tune
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.load import LoadGenerator
from seresnext101_triton.perf.records import Load, Measurement
from seresnext101_triton.perf.serving import MeasuredServer, serving
from seresnext101_triton.perf.settings import Setting, Trial
from seresnext101_triton.perf.tune import Tuner, Tuning, explore, undo
from seresnext101_triton.perf.turns import Comparison, ratio_of
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, QUIET, tiny_request


@pytest.fixture
def own(repository, tmp_path):
    """A repository with one model, to be changed."""
    shutil.copytree(repository / "tiny_onnx", tmp_path / "models" / "tiny_onnx")
    return tmp_path / "models"


def test_a_search_says_what_it_tried_and_what_it_found(own, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    command = [
        "tune",
        "tiny_onnx",
        "--repository",
        str(own),
        "--results",
        str(results),
        "--window",
        "0.2",
        "--rounds",
        "3",
    ]
    assert main([*command, "--p99-ms", "10000"]) == 0
    captured = capsys.readouterr()
    assert "trials, where a full grid has" in captured.out
    record = json.loads(results.read_text())
    assert record["kind"] == "tuning" and record["trials"][0]["step"] == "as it is"
    assert {trial["step"] for trial in record["trials"]} == {
        "as it is",
        "instances",
        "largest batch",
        "queue delay",
    }
    assert len(record["trials"]) < record["grid"]
    assert all(trial["throughput"] > 0 for trial in record["trials"])
    written = (own / "tiny_onnx" / BACKUP_FILENAME).exists()
    assert written == (record["chosen"] is not None)


def test_what_is_chosen_is_written_served_and_undone(own, capsys):
    path = own / "tiny_onnx" / "config.pbtxt"
    before = path.read_bytes()
    setting = Setting(instances=2, threads=1, max_batch=2, delay_us=500)
    with serving(own, ["tiny_onnx"], allow=["model-repository"]) as running:
        tuner = Tuner(running, own, Load("tiny_onnx"), None)
        assert tuner.current == Setting(1, 0, 4, 0)
        tuner.apply(setting)  # what is measured is what the server has, before it is written
        with Connection(running.url) as connection:
            served = connection.config("tiny_onnx")
        assert (served.instance_group[0].count, served.max_batch_size) == (2, 2)
        assert path.read_bytes() == before
        tuner.write(setting)
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
    """It is tried with a batcher too, and can be written with and without."""
    own = tmp_path / "models"
    shutil.copytree(repository / "tiny_openvino", own / "tiny_openvino")
    load = Load("tiny_openvino", batch=2)
    with (
        serving(own, ["tiny_openvino"], allow=["model-repository"]) as running,
        LoadGenerator(running.url) as generator,
    ):
        tuner = Tuner(running, own, load, None)
        assert tuner.current == Setting(2, 0, 0, 0)
        for setting in (Setting(1, 0, 4, 500), tuner.current, Setting(2, 1, 4, 0)):
            tuner.apply(setting)
            assert generator.measure_for(load, 0.3).throughput > 0
            with Classifier(running.url, "tiny_openvino") as classifier:
                assert classifier.model.max_batch == setting.max_batch
        tuner.write(Setting(1, 1, 0, 0))
    config = from_text((own / "tiny_openvino" / "config.pbtxt").read_text())
    assert (
        config.instance_group[0].count,
        config.max_batch_size,
        config.HasField("dynamic_batching"),
    ) == (1, 0, False)
    assert config.parameters["INFERENCE_NUM_THREADS"].string_value == "1"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository with one model, of the format that takes half a second."""
    repository = tmp_path_factory.mktemp("published") / "models"
    export(tiny_request(repository), QUIET)
    return repository


@pytest.fixture
def changed(published, tmp_path):
    """A function that gives a tuner for the published model with another config."""

    def change(edit=None, load=Load(NAME), **options) -> Tuner:  # noqa: B008
        shutil.copytree(published, tmp_path / "models", dirs_exist_ok=True)
        path = tmp_path / "models" / NAME / "config.pbtxt"
        config = from_text((published / NAME / "config.pbtxt").read_text())
        if edit:
            edit(config)
        path.write_text(to_text(config))
        return Tuner(NOWHERE, tmp_path / "models", load, options.pop("bound", None), **options)

    return change


NAME = "tiny_torchscript"
THREADS = "INTRA_OP_THREAD_COUNT"
NOWHERE = MeasuredServer("127.0.0.1:1", "", None)
START = Setting(instances=1, threads=0, max_batch=8, delay_us=0)


def measured(throughput: float, p99_ms: float = 1.0, p50_ms: float = 1.0) -> Measurement:
    latency = {"p50": p50_ms, "p90": p50_ms, "p95": p50_ms, "p99": p99_ms}
    return Measurement(throughput, latency, {}, stable=True, generator_cpu=0.0, harness_cpu=0.0)


def more_instances(best: Setting) -> list[Setting]:
    return [replace(best, instances=count) for count in (1, 2, 3, 4)]


def other_delays(best: Setting) -> list[Setting]:
    return [replace(best, delay_us=delay) for delay in (0, 500)]


QUESTIONS = [("instances", more_instances), ("delay", other_delays)]


def test_each_question_is_asked_from_the_best_so_far():
    told: list[Trial] = []
    speeds = {(1, 0): 10.0, (2, 0): 12.0, (3, 0): 15.0, (4, 0): 11.0, (3, 500): 14.0}
    trials, best = explore(
        START, QUESTIONS, lambda s: measured(speeds[s.instances, s.delay_us]), None, told.append
    )
    asked = [(trial.step, trial.setting.instances, trial.setting.delay_us) for trial in trials]
    assert asked == [
        ("as it is", 1, 0),
        ("instances", 2, 0),
        ("instances", 3, 0),
        ("instances", 4, 0),
        ("delay", 3, 500),
    ]
    assert best is trials[2] and told == trials
    assert [trial.throughput for trial in trials] == [10.0, 12.0, 15.0, 11.0, 14.0]


def test_a_setting_must_give_2_percent_more():
    for speed, chosen in ((101.9, 1), (102.0, 1), (102.1, 2)):
        speeds = {1: measured(100.0), 2: measured(speed), 3: measured(1.0), 4: measured(1.0)}

        def measure(setting: Setting, speeds: dict[int, Measurement] = speeds) -> Measurement:
            return speeds[setting.instances]

        assert (
            explore(START, QUESTIONS[:1], measure, None, lambda trial: None)[1].setting.instances
            == chosen
        )


def test_the_bound_is_on_the_99th_percentile():
    answers = {
        1: measured(10.0, 20.0, 20.0),
        2: measured(100.0, 50.1, 1.0),
        3: measured(30.0, 50.0, 49.0),
        4: measured(20.0, 1.0, 1.0),
    }
    trials, best = explore(
        START, QUESTIONS[:1], lambda s: answers[s.instances], 50.0, lambda trial: None
    )
    assert [trial.within for trial in trials] == [True, False, True, True]
    assert [trial.p99_ms for trial in trials] == [20.0, 50.1, 50.0, 1.0]
    assert [trial.score for trial in trials] == [10.0, 0.0, 30.0, 20.0]
    assert best.setting.instances == 3
    trials, best = explore(
        START, QUESTIONS[:1], lambda s: answers[s.instances], None, lambda trial: None
    )
    assert best.setting.instances == 2 and all(trial.within for trial in trials)
    # Where nothing keeps the bound, the configuration stays as it is.
    assert (
        explore(START, QUESTIONS[:1], lambda s: answers[s.instances], 0.5, lambda trial: None)[
            1
        ].setting
        == START
    )


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(1, 1), (2, 1)]),
        (2, [(1, 2), (2, 1), (2, 2)]),
        (6, [(1, 6), (2, 3), (4, 1), (2, 6)]),
        (16, [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1), (2, 16)]),
    ],
)
def test_instances_share_the_cores(changed, monkeypatch, cores, expected):
    monkeypatch.setattr(tune, "usable_cores", lambda: cores)
    tuner = changed()
    best = Setting(instances=9, threads=9, max_batch=3, delay_us=7)
    settings = list(tuner.parallelism(best))
    assert [(setting.instances, setting.threads) for setting in settings] == expected
    assert {(setting.max_batch, setting.delay_us) for setting in settings} == {(3, 7)}
    monkeypatch.setattr(TorchScript, "thread_parameter", "")  # a format that has none
    assert {setting.threads for setting in tuner.parallelism(best)} == {0}


def test_on_a_gpu_only_instances_are_asked(changed):
    def on_gpu(config) -> None:
        config.instance_group[0].kind = config.instance_group[0].KIND_GPU

    settings = list(changed(on_gpu).parallelism(START))
    assert settings == [replace(START, instances=count) for count in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("largest", "batch", "expected"),
    [(8, 1, [8, 4, 2]), (8, 4, [8, 4]), (8, 3, [8, 4]), (4, 1, [4, 2, 1]), (1, 1, [1])],
)
def test_batches_are_halved_as_far_as_the_load_lets_them(changed, largest, batch, expected):
    tuner = changed(
        lambda config: setattr(config, "max_batch_size", largest), Load(NAME, batch=batch)
    )
    assert [setting.max_batch for setting in tuner._batches(START)] == expected
    assert {replace(setting, max_batch=8) for setting in tuner._batches(START)} == {START}
    assert [setting.delay_us for setting in tuner._delays(START)] == [500, 2000, 5000]


def test_the_questions_and_the_grid(changed, monkeypatch):
    monkeypatch.setattr(tune, "usable_cores", lambda: 2)
    tuner = changed()
    steps = ["instances", "batcher", "largest batch", "queue delay"]
    assert [step for step, _ in tuner._steps()] == steps
    assert [len(list(candidates(START))) for _, candidates in tuner._steps()] == [3, 0, 3, 3]
    assert tuner._grid() == 3 * 3 * (3 + 1)  # the delay as it is is a fourth
    assert tuner.alternatives(START) == [START, *tuner.parallelism(START)]


def test_the_questions_and_the_grid_of_a_model_without_a_batcher(repository, monkeypatch):
    monkeypatch.setattr(tune, "usable_cores", lambda: 2)
    tuner = Tuner(NOWHERE, repository, Load("tiny_openvino"), None)
    bare = tuner.current
    assert [len(list(candidates(bare))) for _, candidates in tuner._steps()] == [3, 3, 0, 0]
    assert tuner._grid() == 3 * (1 + 3 * (3 + 1))  # without a batcher, and all with one
    batched = tuner.with_batcher(bare)
    assert {setting.max_batch for setting in batched} == {4}
    assert tuner.alternatives(bare) == [bare, *tuner.parallelism(bare), *batched]
    made = tuner._config_with(batched[0])
    assert (made.max_batch_size, made.instance_group[0].count) == (4, batched[0].instances)
    assert made.parameters["ENABLE_BATCH_PADDING"].string_value == "YES"


def test_the_current_setting_is_the_configs(changed, monkeypatch):
    def edit(config) -> None:
        config.instance_group[0].count = 3
        config.parameters[THREADS].string_value = "5"
        config.max_batch_size = 6
        config.dynamic_batching.max_queue_delay_microseconds = 700

    assert changed(edit).current == Setting(instances=3, threads=5, max_batch=6, delay_us=700)
    bare = changed(lambda config: config.instance_group[0].ClearField("count"))
    assert bare.current.instances == 1
    bare._config.parameters[THREADS].string_value = ""
    assert bare.current.threads == 0
    monkeypatch.setattr(TorchScript, "thread_parameter", "")  # a format that has none
    assert bare.current.threads == 0


def test_a_setting_becomes_a_config(changed, monkeypatch):
    tuner = changed()
    before = to_text(tuner._config)
    made = tuner._config_with(Setting(instances=3, threads=2, max_batch=3, delay_us=900))
    assert to_text(tuner._config) == before  # the old one stays
    assert (made.instance_group[0].count, made.max_batch_size) == (3, 3)
    assert (
        made.parameters[THREADS].string_value,
        made.dynamic_batching.max_queue_delay_microseconds,
    ) == ("2", 900)
    # No warmup is larger than the largest batch, and the largest batch has one.
    assert [(each.name, each.batch_size) for each in made.model_warmup] == [
        ("batch 1", 1),
        ("batch 3", 3),
    ]
    assert made.model_warmup[1].inputs == made.model_warmup[0].inputs
    assert [
        each.batch_size for each in tuner._config_with(replace(START, max_batch=4)).model_warmup
    ] == [1, 4]
    assert [
        each.batch_size for each in tuner._config_with(replace(START, max_batch=1)).model_warmup
    ] == [1]
    monkeypatch.setattr(TorchScript, "thread_parameter", "")
    assert (
        tuner._config_with(Setting(1, 7, 4, 0)).parameters[THREADS]
        == tuner._config.parameters[THREADS]
    )


def test_a_setting_without_a_batcher(changed):
    def edit(config) -> None:
        config.max_batch_size = 0
        config.ClearField("dynamic_batching")

    tuner = changed(edit)
    made = tuner._config_with(Setting(instances=2, threads=1, max_batch=0, delay_us=0))
    assert (
        made.instance_group[0].count,
        made.max_batch_size,
        made.HasField("dynamic_batching"),
    ) == (2, 0, False)
    assert made.model_warmup == tuner._config.model_warmup


class Recorded:
    """Replaces the generator: records the calls, and answers by the setting applied last."""

    def __init__(self) -> None:
        self.applied: list[Setting] = []
        self.turns: list[float] = []

    def __call__(self, url: str, http_url: str) -> Recorded:
        assert (url, http_url) == ("127.0.0.1:1", "elsewhere:2")
        return self

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def window_s(self, load: Load) -> float:
        return 2.0

    def measure_for(self, load: Load, seconds: float) -> Measurement:
        assert load == Load(NAME)
        self.turns.append(seconds)
        setting = self.applied[-1]
        return measured(
            100.0 * setting.instances + len(self.turns) / 100, p99_ms=10.0 * setting.instances
        )


@pytest.mark.parametrize(("window_s", "seconds"), [(None, 6.0), (0.5, 1.5)])
def test_a_search_confirms_what_it_found_by_turns(changed, monkeypatch, window_s, seconds):
    monkeypatch.setattr(tune, "usable_cores", lambda: 4)
    recorded = Recorded()
    monkeypatch.setattr(tune, "LoadGenerator", recorded)
    told: list[Trial] = []
    tuner = changed(bound=25.0, window_s=window_s)
    tuner._server = MeasuredServer("127.0.0.1:1", "elsewhere:2", None)
    monkeypatch.setattr(tuner, "apply", recorded.applied.append)
    tuning = tuner.search(3, told.append)
    assert tuning.trials == told and recorded.applied[: len(told)] == [
        trial.setting for trial in told
    ]
    assert tuning.trials[0].setting == tuner.current
    # Four instances would be faster, but over the bound of the latency.
    assert (tuning.best.setting.instances, tuning.best.setting.threads) == (2, 2)
    assert set(recorded.turns) == {seconds}
    old, new = tuner.current, tuning.best.setting
    assert recorded.applied[len(told) :] == [old, new, new, old, old, new]
    assert {name: len(turns) for name, turns in tuning.confirmed.turns.items()} == {
        "as it was": 3,
        "tuned": 3,
    }
    assert tuning.chosen == new and tuning.grid == tuner._grid()


def test_a_search_that_finds_nothing_confirms_nothing(changed, monkeypatch):
    monkeypatch.setattr(tune, "usable_cores", lambda: 1)
    recorded = Recorded()
    monkeypatch.setattr(tune, "LoadGenerator", recorded)
    tuner = changed(bound=15.0)
    tuner._server = MeasuredServer("127.0.0.1:1", "elsewhere:2", None)
    monkeypatch.setattr(tuner, "apply", recorded.applied.append)
    tuning = tuner.search(3)
    assert tuning.confirmed is None and tuning.chosen is None and tuning.best is tuning.trials[0]
    assert tuning.grid == tuner._grid() and len(recorded.turns) == len(tuning.trials)


def test_undo_goes_back_to_before_the_first_of_several(changed, tmp_path):
    tuner, repository = changed(), tmp_path / "models"
    path = repository / NAME / "config.pbtxt"
    before = path.read_text()
    for setting in (Setting(2, 1, 4, 500), Setting(3, 1, 2, 900)):
        tuner.write(setting)
        assert (path.parent / BACKUP_FILENAME).read_text() == before
    assert Tuner(NOWHERE, repository, Load(NAME), None).current == Setting(3, 1, 2, 900)
    undo(repository, NAME)
    assert path.read_text() == before and not (path.parent / BACKUP_FILENAME).exists()
    with pytest.raises(PerfError, match=f"{NAME} holds no {BACKUP_FILENAME}"):
        undo(repository, NAME)


def test_a_model_of_somebody_else(changed, tmp_path):
    changed()
    (tmp_path / "models" / NAME / "1" / "manifest.json").unlink()
    for name in (NAME, "nothing"):
        with pytest.raises(
            PerfError, match=f"models holds no model {name} that this toolkit published"
        ):
            Tuner(NOWHERE, tmp_path / "models", Load(name), None)


def test_what_is_stored_of_a_search():
    old, new = (
        Trial("as it is", START, 100.0, 5.0, within=True),
        Trial("instances", Setting(2, 1, 8, 500), 110.0, 20.0, within=True),
    )
    confirmed = Comparison({"as it was": [100.0, 101.0, 99.0], "tuned": [110.0, 111.0, 109.0]})
    record = asdict(Tuning([old, new], new, confirmed, 36).outcome)
    assert record["trials"] == [
        {
            "step": "as it is",
            "setting": {"instances": 1, "threads": 0, "max_batch": 8, "delay_us": 0},
            "throughput": 100.0,
            "p99_ms": 5.0,
            "within": True,
        },
        asdict(new),
    ]
    assert (
        record["chosen"] == {"instances": 2, "threads": 1, "max_batch": 8, "delay_us": 500}
        and record["grid"] == 36
    )
    ratio = ratio_of([110.0, 111.0, 109.0], [100.0, 101.0, 99.0])
    assert record["confirmed"] == {
        "value": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "turns": dict(confirmed.turns),
    }
    assert asdict(Tuning([old], old, None, 9).outcome) == {
        "trials": [asdict(old)],
        "chosen": None,
        "grid": 9,
        "confirmed": None,
    }
    json.dumps(record)


def test_a_setting_says_what_it_is():
    assert str(Setting(1, 0, 4, 0)) == "1 instance x all threads, batches to 4, delay 0 us"
    assert str(Setting(1, 2, 0, 0)) == "1 instance x 2 threads, no batches"
    assert str(Setting(2, 3, 8, 500)) == "2 instances x 3 threads, batches to 8, delay 500 us"


def test_only_what_is_certainly_faster_is_chosen():
    best = Trial("instances", Setting(2, 1, 8, 0), 110.0, 20.0, within=True)

    def chosen(*turns: float) -> Setting | None:
        return Tuning(
            [best], best, Comparison({"as it was": [100.0, 101.0, 99.0], "tuned": turns}), 36
        ).chosen

    assert chosen(110.0, 111.0, 109.0) == best.setting
    assert chosen(101.0, 120.0, 90.0) is None
    assert Tuning([best], best, None, 36).chosen is None
    # An interval that ends at 1 exactly does not leave it out.
    assert chosen(100.0, 101.0, 99.0) is None


def test_a_bound_that_is_broken_counts_for_nothing():
    assert Trial("instances", Setting(2, 1, 8, 0), 110.0, 20.0, within=False).score == 0


def test_a_model_that_was_not_published_here(own, capsys):
    assert main(["tune", "nothing", "--repository", str(own)]) == 1
    assert "holds no exported model nothing" in capsys.readouterr().err
