"""config.pbtxt: what git holds is what the code writes, and what the code writes is what Triton and its users need."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from client.decoding import OutputKind
from client.preprocessing import Preprocessing
from export.config import Serving, from_text, model_config, to_text
from export.errors import OptionError
from export.formats import FORMATS
from export.labels import labels_for

PROJECT = Path(__file__).parents[2]


def build(format: str = "onnx", **changes: object) -> pb.ModelConfig:
    options: dict[str, object] = {
        "classes": 1000,
        "preprocessing": Preprocessing(),
        "output": OutputKind.PROBABILITIES,
        "serving": Serving(),
        "labelled": True,
        "trained": True,
    }
    return model_config(f"seresnext101_{format}", FORMATS[format], **options | changes)  # type: ignore[arg-type]


def in_git(path: str) -> str:
    """A file's committed or staged content: an export of one's own may have changed the one in the folder."""
    if not (PROJECT / ".git").exists():
        return (PROJECT / path).read_text()
    return subprocess.run(["git", "show", f":{path}"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("format", FORMATS)
def test_git_holds_what_the_code_writes(format):
    folder = f"model_repository/seresnext101_{format}"
    assert in_git(f"{folder}/config.pbtxt") == to_text(build(format))
    assert in_git(f"{folder}/labels.txt") == labels_for(1000, None)


@pytest.mark.parametrize("format", FORMATS)
def test_it_says_all_that_triton_needs(format):
    config = build(format, serving=Serving(max_batch=32, instances=2, threads=3, queue_size=7, queue_timeout_ms=250, queue_delay_us=100))
    assert config.platform == FORMATS[format].platform
    assert config.max_batch_size == 32
    (input_,), (output,) = config.input, config.output
    assert (input_.name, input_.data_type, input_.format, list(input_.dims)) == (
        "INPUT__0",
        pb.TYPE_FP32,
        pb.ModelInput.FORMAT_NCHW,
        [3, 224, 224],
    )
    assert (output.name, output.data_type, list(output.dims), output.label_filename) == ("OUTPUT__0", pb.TYPE_FP32, [1000], "labels.txt")
    assert config.version_policy.latest.num_versions == 1
    assert [(group.kind, group.count) for group in config.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 2)]
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.timeout_action, policy.default_timeout_microseconds, policy.max_queue_size) == (pb.ModelQueuePolicy.REJECT, 250_000, 7)
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 32]
    assert config.parameters[FORMATS[format].thread_parameter].string_value == "3"


def test_it_says_all_that_a_client_needs():
    contract = Preprocessing(resize=320, crop=288, mean=(0.5, 0.5, 0.5))
    config = build(preprocessing=contract, output=OutputKind.LOGITS)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert Preprocessing.from_parameters(parameters) == contract
    assert parameters["output.kind"] == "logits"
    assert list(config.input[0].dims) == [3, 288, 288]


def test_untrained_weights_are_called_so():
    assert "weights" not in build().parameters
    assert build(trained=False).parameters["weights"].string_value == "seeded"


def test_a_maximum_batch_of_one_is_warmed_up_once():
    assert [warmup.batch_size for warmup in build(serving=Serving(max_batch=1)).model_warmup] == [1]


def test_a_gpu():
    assert build(serving=Serving(device="gpu")).instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU


def test_the_text_can_be_read_back():
    config = build()
    assert from_text(to_text(config)) == config
    assert to_text(config).startswith("# Written by")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"instances": 0}, "instances must be at least 1"),
        ({"queue_size": 0}, "queue_size must be at least 1"),
        ({"threads": -1}, "threads must not be negative"),
        ({"device": "tpu"}, "device must be one of cpu, gpu"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(OptionError, match=message):
        Serving(**options)


def test_imagenets_labels_are_in_nvidias_order():
    labels = labels_for(1000, None)
    assert labels is not None
    names = labels.splitlines()
    assert (len(names), names[0], names[281], names[999]) == (1000, "tench", "tabby", "toilet tissue")


def test_labels_of_ones_own(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("chien\nchat\n", encoding="utf-8")
    assert labels_for(2, str(path)) == "chien\nchat\n"
    assert labels_for(2, None) is None
    assert labels_for(1000, "none") is None
    with pytest.raises(OptionError, match="names 2 classes, but the network has 3"):
        labels_for(3, str(path))
    path.write_text("chien\n\n \n")
    with pytest.raises(OptionError, match="line 2 is blank"):
        labels_for(3, str(path))
    with pytest.raises(OptionError, match="No such file"):
        labels_for(3, str(tmp_path / "nowhere"))
