"""`python -m export`, as a person and a script see it."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys

import pytest
import torch

from seresnext101_triton.export.cli import main

TINY = [
    "--architecture",
    "se-resnext-tiny",
    "--crop",
    "64",
    "--formats",
    "torchscript",
    "--max-batch",
    "4",
]


@pytest.fixture
def run(tmp_path, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*TINY, "--repository", str(tmp_path / "models"), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_what_a_person_sees(run, tmp_path):
    code, out, err = run("--weights", "seeded")
    assert (code, out) == (0, "")
    for words in (
        "exporting torchscript",
        "checking torchscript against the network",
        "12 inputs, each at batch 1, 2, 4",
    ):
        assert words in err
    assert "top-5 agreement" in err and "100%" in err
    assert f"published: {tmp_path}/models/seresnext101_torchscript/1 (1.0 MB)" in err
    assert "UNTRAINED WEIGHTS" in err
    assert "peak memory" in err
    assert "there already" in run("--weights", "seeded")[2]


def test_what_a_script_sees(run):
    code, out, err = run("--weights", "seeded", "--json", "--quiet", "--timings")
    (outcome,) = json.loads(out)
    assert code == 0
    parts = outcome["timings"]["parts"]
    assert {"importing", "exporting torchscript", "publishing"} <= set(parts)
    assert all(f"  {name}\n" in err for name in parts)
    assert (outcome["model"], outcome["version"], outcome["made"]) == (
        "seresnext101_torchscript",
        1,
        True,
    )
    assert outcome["manifest"]["parity"]["top1"] == 1


def test_weights_are_never_chosen_on_ones_behalf(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        run()
    assert exit_.value.code == 2
    assert "--weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "/nowhere.pth"], 1, "/nowhere.pth does not exist"),
        (["--weights", "http://127.0.0.1:1/x.pth"], 69, "cannot fetch"),
        (["--weights", "seeded", "--formats", "tflite"], 2, "unknown format tflite"),
        (
            ["--weights", "seeded", "--architecture", "vgg"],
            2,
            "unknown architecture 'vgg': choose from se-resnext101-32x4d, se-resnext-tiny",
        ),
        (
            ["--weights", "seeded", "--crop", "64", "--resize", "32"],
            2,
            "crop 64 must be between 1 and resize 32",
        ),
        (
            ["--weights", "seeded", "--formats", "tensorrt"],
            1,
            "this one lacks an NVIDIA GPU and TensorRT (pip install '.[gpu]')",
        ),
        (
            ["--weights", "seeded", "--formats", "tensorrt", "--partial"],
            1,
            "left out: tensorrt, because this machine lacks",
        ),
        (
            ["--weights", "seeded", "--target", "27.01"],
            2,
            "27.01 is not a known release of tritonserver",
        ),
        (
            ["--weights", "seeded", "--formats", "tensorrt", "--builder-level", "9"],
            2,
            "--builder-level is 0 to 5, not 9",
        ),
        *(
            (
                ["--weights", "seeded", *option],
                2,
                f"{option[0]} is for tensorrt: name this format in --formats",
            )
            for option in (["--plan", "x"], ["--in-image"], ["--opt-batch", "2"])
        ),
        *(
            (
                ["--weights", "seeded", *option],
                2,
                f"{option[0]} is for INT8: name it with --precision int8 and --calibration DIR",
            )
            for option in (["--min-agreement", "0.5"], ["--calibration-method", "minmax"])
        ),
        (["--weights", "seeded", "--max-batch", "0"], 2, "--max-batch must be at least 1"),
        (["--weights", "seeded", "--std", "1e-45,1,1"], 2, "std 1e-45 make inputs of 5.15e+44"),
        (
            ["--weights", "seeded", "--truth", "classes.csv"],
            2,
            "--truth is for INT8",
        ),
        (["--weights", "x.pth", "--classes", "3"], 2, "--classes is for seeded weights"),
        (
            ["--weights", "seeded", "--repository", "/proc/models"],
            73,
            "/proc/models cannot be written",
        ),
    ],
)
def test_errors_are_one_line_and_a_code(run, arguments, code, message):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_a_checkpoint_of_another_network(run, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"head.weight": torch.zeros(3)}, path)
    code, _, err = run("--weights", str(path), "--quiet")
    assert code == 1
    assert "142 missing" not in err  # counters of batches are no loss
    assert "unexpected  head.weight" in err
    assert "Traceback" not in err


def test_what_a_machine_without_a_gpu_can_make_of_it(run, tmp_path):
    """All but the plan, and a code that scripts can tell from failure."""
    code, _, err = run(
        "--weights",
        "seeded",
        "--precision",
        "fp16",
        "--device",
        "gpu",
        "--formats",
        "torchscript,tensorrt",
        "--partial",
    )
    assert code == 3
    assert (
        err.splitlines()[-1]
        == "left out: tensorrt, because this machine lacks an NVIDIA GPU and TensorRT "
        "(pip install '.[gpu]')"
    )
    assert "FP16 holds" in err
    assert [path.name for path in (tmp_path / "models").iterdir()] == [
        "seresnext101_torchscript_fp16"
    ]


def test_partial_is_no_different_where_nothing_is_left_out(run):
    assert run("--weights", "seeded", "--partial")[0] == 0


def test_means_of_ones_own(run, tmp_path):
    assert (
        run("--weights", "seeded", "--mean", "0.5,0.5,0.5", "--std", "1,1,1", "--classes", "10")[0]
        == 0
    )
    config = (tmp_path / "models" / "seresnext101_torchscript" / "config.pbtxt").read_text()
    assert '"0.5, 0.5, 0.5"' in config
    with pytest.raises(SystemExit):
        run("--weights", "seeded", "--mean", "0.5")


def test_an_export_that_no_memory_holds_is_one_line(tmp_path):
    command = [sys.executable, "-m", "export", "--architecture", "se-resnext-tiny", "--quiet"]
    command += ["--weights", "seeded", "--classes", "99999999", "--formats", "onnx"]
    limit = 4 << 30
    result = subprocess.run(
        [*command, "--repository", tmp_path / "models"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch("error: .* not enough memory .*\n", result.stderr)
    assert not (tmp_path / "models").exists()


def test_a_command_that_does_not_exist_is_told_with_those_that_do(capsys):
    with pytest.raises(SystemExit) as end:
        main(["describe", "tiny_onnx"])
    assert end.value.code == 2
    assert "no command 'describe': choose from versions, " in capsys.readouterr().err
