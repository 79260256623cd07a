"""Advice: who leaves a race and when, that the best is found in noise, and a race on a server."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from seresnext101_triton.export import manifest
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.errors import OptionError, ParityError
from seresnext101_triton.export.options import parse
from seresnext101_triton.export.promotion import BACKUP_FILENAME
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.perf import advise, candidates, results, tune
from seresnext101_triton.perf.advise import AdviceOptions, Racer, judge, outcome, race, subjects
from seresnext101_triton.perf.cli import main
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.records import AdviceRecord
from seresnext101_triton.perf.settings import Setting
from seresnext101_triton.perf.tables import advice_verdict

SETTING = Setting(instances=1, threads=1, max_batch=4, delay_us=0)
MINE = "mine_torchscript"
INT8 = ("openvino", "int8")
SMALL = ["--architecture", "se-resnext-tiny", "--crop", "64", "--resize", "72"]


def racer(name: str, throughput: list[float], p99_ms: float = 10.0) -> Racer:
    return Racer(name, SETTING, throughput, [p99_ms] * len(throughput))


def left(*racers: Racer, p99_ms: float | None = None) -> dict[str, str]:
    judge(racers, p99_ms)
    return {each.model: each.left for each in racers}


def test_one_bad_turn_ends_no_race():
    """A turn may take three times as long, because another program ran meanwhile."""
    assert left(racer("a", [100.0]), racer("b", [51.0])) == {"a": "", "b": ""}
    assert left(racer("a", [100.0]), racer("b", [49.0]))["b"] == "slower after 1 round"
    assert left(racer("a", [100.0, 99.0]), racer("b", [30.0, 98.0]))["b"] == ""
    assert left(racer("a", [100.0, 90.0]), racer("b", [30.0, 76.0]))["b"] == "slower after 2 rounds"


def test_after_three_rounds_an_interval_decides():
    close = racer("b", [98.0, 97.9, 98.1])
    assert left(racer("a", [100.0, 100.1, 99.9]), close)["b"] == "slower after 3 rounds"
    assert close.ratio is not None and close.ratio.high < 1
    assert left(racer("a", [100.0, 100.1, 99.9]), racer("b", [99.0, 110.0, 89.0]))["b"] == ""


def test_who_is_over_the_bound_leaves_and_does_not_lead():
    fast, slow = racer("fast", [100.0, 100.0], p99_ms=60.0), racer("slow", [50.0, 50.0])
    assert judge([fast, slow], 50.0) is slow
    assert (fast.left, slow.left) == ("p99 over 50 ms", "")
    found = outcome([], [fast, slow], {"fast": 0.0, "slow": 0.0}, 50.0)
    assert [each.model for each in found.contestants] == ["slow", "fast"]
    with pytest.raises(PerfError, match="no model keeps a p99 of 5 ms .* nearest is slow with 10"):
        outcome([], [fast, slow], {"fast": 0.0, "slow": 0.0}, 5.0)


def test_of_equals_the_one_that_lost_no_accuracy_is_the_best():
    """As INT8 without VNNI, which runs in floating point."""
    int8, fp32 = racer("int8", [100.0, 99.0, 101.0]), racer("fp32", [99.0, 101.0, 99.0])
    losses = {"int8": 0.03, "fp32": 0.0}
    assert [each.model for each in outcome([], [int8, fp32], losses, None).contestants] == [
        "fp32",
        "int8",
    ]
    losses["fp32"] = 0.03
    assert outcome([], [int8, fp32], losses, None).best.model == "int8"


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_found_in_noise(seed):
    """The machine's speed drifts, turns differ by 5 %, and one of ten is disturbed."""
    random = np.random.default_rng(seed)
    speeds = {"a": 10.0, "b": 42.0, "c": 47.0, "d": 50.0, "e": 49.5}
    turns = 0

    def run(one: Racer) -> None:
        nonlocal turns
        turns += 1
        drift = 1 + 0.2 * np.sin(turns / 10)
        disturbed = random.uniform(0.5, 0.9) if random.random() < 0.1 else 1.0
        one.throughput.append(
            speeds[one.model] * drift * disturbed * np.exp(random.normal(0, 0.05))
        )
        one.p99_ms.append(1.0)

    racers = [Racer(name, SETTING) for name in speeds]
    for _ in race(racers, run, None, lambda line: line, rounds=10):
        pass
    found = outcome([], racers, dict.fromkeys(speeds, 0.0), None)
    best = {found.best.model, *(each.model for each in found.equals)}
    assert "d" in best and not best & {"a", "b"}


def test_a_race_ends_with_its_last_racer():
    racers = [Racer("a", SETTING), Racer("b", SETTING)]

    def run(one: Racer) -> None:
        one.throughput.append({"a": 10.0, "b": 1.0}[one.model])
        one.p99_ms.append(5.0)

    assert list(race(racers, run, None, lambda line: line, rounds=9)) == [1, 2]
    assert len(racers[1].throughput) == 1
    over = [Racer("a", SETTING)]
    assert list(race(over, run, 1.0, lambda line: line, rounds=9)) == [1, 2]


def test_a_race_of_nobody_has_no_round():
    """All models left the first race, for example because none keeps the bound on the latency."""
    assert not list(race([], lambda one: None, 1.0, lambda line: line, rounds=9))


def test_settings_that_are_the_same_run_once(monkeypatch):
    monkeypatch.setattr(advise, "usable_cores", lambda: 2)
    settings = [replace(SETTING, threads=threads) for threads in (0, 2, 1)]
    assert [setting.threads for setting in advise.different(settings)] == [0, 1]


@pytest.fixture
def own(repository, tmp_path) -> Path:
    """A repository with two models of one network, to be changed."""
    for name in ("tiny_onnx", "tiny_openvino"):
        shutil.copytree(repository / name, tmp_path / "models" / name)
    return tmp_path / "models"


def edited(folder: Path, **changes: object) -> None:
    path = folder / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_who_takes_part(own):
    options = AdviceOptions(name="tiny", max_loss=0.01)
    assert {each.model for each in subjects(own, options)[0]} == {"tiny_onnx", "tiny_openvino"}
    parity = manifest.load(own / "tiny_onnx" / "1").parity
    edited(own / "tiny_onnx", parity=parity | {"top1": 0.97})
    models, refused = subjects(own, options)
    assert [each.model for each in models] == ["tiny_openvino"]
    assert refused == ["tiny_onnx: it loses 3.0% of the accuracy"]
    edited(own / "tiny_onnx", parity=parity | {"accuracy": 0.795, "network_accuracy": 0.8})
    assert [each.loss for each in subjects(own, options)[0]] == [pytest.approx(0.005), 0.0]
    edited(own / "tiny_onnx", parity={"unproven": True})
    assert subjects(own, options)[1] == ["tiny_onnx: it is unproven"]
    edited(own / "tiny_onnx", parity=parity, weights={**_weights(own), "sha256": "0" * 64})
    with pytest.raises(PerfError, match="tiny_onnx, tiny_openvino have different weights"):
        subjects(own, options)
    with pytest.raises(PerfError, match="holds no model pets_"):
        subjects(own, replace(options, name="pets"))


def _weights(repository: Path) -> dict[str, object]:
    return dict(vars(manifest.load(repository / "tiny_onnx" / "1").weights))


def test_the_best_of_a_repository_is_measured_and_written(own, tmp_path, capsys, monkeypatch):
    """As on one core, in as few rounds as there can be."""
    monkeypatch.setattr(advise, "_LEAST_ROUNDS", 2)
    monkeypatch.setattr(tune, "usable_cores", lambda: 1)
    shutil.rmtree(own / "tiny_openvino")
    path = tmp_path / "results.jsonl"
    command = ["advise", "--name", "tiny", "--repository", str(own), "--results", str(path)]
    assert main([*command, "--minutes", "0.01", "--seconds", "0.5", "--json"]) == 0
    out, err = capsys.readouterr()
    (record,) = results.read(path)
    assert isinstance(record, AdviceRecord) and json.loads(out)["contestants"]
    assert {each.setting.instances for each in record.contestants} == {1, 2}
    assert all(min(each.throughput) > 0 for each in record.contestants)
    assert record.best.ratio is None and "round 1: " in err
    assert record.best.model in advice_verdict(record)[0]
    config = from_text((own / record.best.model / "config.pbtxt").read_text())
    assert config.instance_group[0].count == record.best.setting.instances
    assert ("--undo" in err) == (own / record.best.model / BACKUP_FILENAME).exists()


def test_every_form_of_a_checkpoint_is_exported_and_the_best_published(
    tmp_path, capsys, monkeypatch
):
    def won(repository, models, *_):
        assert repository.is_dir() and [each.model for each in models] == [MINE]
        two = replace(SETTING, instances=2, max_batch=8)
        return outcome([], [Racer(MINE, two, [1.0], [1.0])], {MINE: 0.0}, None)

    monkeypatch.setattr(advise, "advise", won)
    monkeypatch.setattr(candidates, "_FORMATS", ("torchscript",))
    repository = tmp_path / "models"
    command = ["advise", "--repository", str(repository), "--results", str(tmp_path / "r.jsonl")]
    exported = ["--", "--weights", "seeded", "--formats", "torchscript", "--name", "mine", *SMALL]
    assert main([*command, "--dry-run", *exported]) == 0
    assert MINE in capsys.readouterr().out and not repository.exists()
    assert main([*command, *exported]) == 0
    assert f"published: {repository / MINE}" in capsys.readouterr().err
    config = from_text((repository / MINE / "config.pbtxt").read_text())
    assert config.instance_group[0].count == 2
    assert config.parameters["INTRA_OP_THREAD_COUNT"].string_value == "1"


def test_the_candidates_are_what_a_cpu_serves(tmp_path):
    def forms(*arguments: str) -> list[tuple[str, str | None]]:
        options = parse(["--weights", "seeded", *arguments])
        return [
            (each.formats[0].name, each.precision)  # type: ignore[union-attr]
            for each in candidates.candidates(options)
        ]

    floats = [("torchscript", "fp32"), ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
    assert forms() == forms("--formats", "onnx,tensorrt") == floats
    assert forms("--formats", "pt2") == [*floats, ("pt2", "fp32")]
    assert forms("--precision", "bf16") == [("openvino", "bf16")]
    assert forms("--calibration", str(tmp_path)) == [*floats, INT8]
    assert forms("--calibration", str(tmp_path), "--precision", "int8") == [INT8]
    with pytest.raises(OptionError, match="the images to quantise with"):
        forms("--precision", "int8")
    with pytest.raises(OptionError, match="unknown format"):
        forms("--formats", "onxx")


def test_a_candidate_that_its_gate_refuses_is_left_out(tmp_path, monkeypatch, capsys):
    def refuse(request, reporter):
        if [each.name for each in request.formats] != ["onnx"]:
            raise ParityError("refused")
        return [SimpleNamespace(model="tiny_onnx")]

    def made(*arguments: str) -> list[str]:
        options = parse(["--weights", "seeded", *arguments])
        return list(candidates.export_candidates(options, tmp_path, Reporter()))

    monkeypatch.setattr(candidates, "export", refuse)
    assert made() == ["tiny_onnx"]
    assert capsys.readouterr().err == "left out: refused\n" * 3
    with pytest.raises(ParityError, match="refused"):
        made("--precision", "bf16")
    with pytest.raises(PerfError, match="no format serves fp16 on a CPU"):
        made("--precision", "fp16")


def test_weights_that_are_not_there_are_told_once(tmp_path, capsys):
    missing = tmp_path / "missing.pth"
    command = ["advise", "--repository", str(tmp_path / "models")]
    assert main([*command, "--", "--weights", str(missing)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {missing} does not exist. --weights takes")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("option", ["--p99-ms", "--minutes", "--seconds"])
@pytest.mark.parametrize("value", ["nan", "0", "-1", "inf", "much"])
def test_numbers_that_mean_nothing_are_wrong_usage(option, value, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["advise", option, value])
    said = "0.01 to 1000000 seconds" if option == "--seconds" else "must be a number above 0"
    assert ended.value.code == 2 and said in capsys.readouterr().err
