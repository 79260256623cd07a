"""config.pbtxt: git holds the files that the code writes, and they hold what Triton needs."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.contract import OutputKind, Preprocessing
from seresnext101_triton.export import image_input
from seresnext101_triton.export.config import (
    contract,
    from_text,
    largest_batch,
    model_config,
    to_text,
    with_batcher,
)
from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.export.formats import DEFAULT_FORMATS, FORMATS
from seresnext101_triton.export.labels import labels_for
from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.precision import PRECISIONS
from seresnext101_triton.export.serving import ImageInput, Serving
from seresnext101_triton.export.weights import Provenance
from seresnext101_triton.server import ENGINE_CACHE
from seresnext101_triton.server.embedded import EMBEDDED_CONFIG_FILENAME, embedded_text

PROJECT = Path(__file__).parents[2]


def build(format: str = "onnx", **changes: Any) -> pb.ModelConfig:
    """The config of a model with 1000 labelled classes, trained unless `trained=False` is given."""
    serving = changes.pop("serving", Serving())
    return model_config(manifest(format, **changes), serving, labelled=True)


def manifest(format: str, **changes: Any) -> Manifest:
    weights = Provenance("file", "somewhere", "0", trained=changes.pop("trained", True))
    facts: dict[str, Any] = {
        "model": f"seresnext101_{format}",
        "version": 1,
        "format": format,
        "precision": "fp32",
        "key": "",
        "created": "",
        "artifacts": [],
        "weights": weights,
        "architecture": {},
        "tensors": {"output": {"dims": [1000]}},
        "output": OutputKind.PROBABILITIES.value,
        "preprocessing": Preprocessing(),
        "parity": {},
        "ranges": None,
        "tools": {},
        "triton": "",
    }
    return Manifest(**facts | changes)


def in_git(path: str) -> str:
    """The committed or staged content of a file; an export may have changed the working copy."""
    if not (PROJECT / ".git").exists():
        return (PROJECT / path).read_text()
    return subprocess.run(
        ["git", "show", f":{path}"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_git_holds_what_the_code_writes(format, device):
    """For a CPU in FP32, for a GPU in FP16: what `make export` and `make export-gpu` write."""
    if device not in FORMATS[format].devices:
        return
    model = f"seresnext101_{format}" if device == "cpu" else f"seresnext101_{format}_fp16"
    serving = Serving() if device == "cpu" else Serving(device="gpu", max_batch=32)
    folder = f"model_repository/{model}"
    text = to_text(build(format, serving=serving, model=model))
    assert in_git(f"{folder}/config.pbtxt") == text
    if embedded := embedded_text(text):
        assert in_git(f"{folder}/{EMBEDDED_CONFIG_FILENAME}") == embedded
    assert in_git(f"{folder}/labels.txt") == labels_for(1000, None)


@pytest.mark.parametrize("format", DEFAULT_FORMATS)
def test_git_holds_the_models_that_take_files(format):
    """What `make demo` writes."""
    labels = labels_for(1000, None)
    for folder in image_input.folders(manifest(format), build(format), ImageInput(), labels):
        for filename, text in folder.texts.items():
            if "/" not in filename:  # git holds no versions
                assert in_git(f"model_repository/{folder.name}/{filename}") == text


@pytest.mark.parametrize("format", DEFAULT_FORMATS)
def test_it_says_all_that_triton_needs(format):
    config = build(
        format,
        serving=Serving(
            max_batch=32,
            instances=2,
            threads=3,
            queue_size=7,
            queue_timeout_ms=250,
            queue_delay_us=100,
        ),
    )
    assert config.platform == FORMATS[format].platform
    assert config.max_batch_size == 32
    (input_,), (output,) = config.input, config.output
    assert (input_.name, input_.data_type, input_.format, list(input_.dims)) == (
        "INPUT__0",
        pb.TYPE_FP32,
        pb.ModelInput.FORMAT_NCHW,
        [3, 224, 224],
    )
    assert (output.name, output.data_type, list(output.dims), output.label_filename) == (
        "OUTPUT__0",
        pb.TYPE_FP32,
        [1000],
        "labels.txt",
    )
    assert config.version_policy.latest.num_versions == 1
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (pb.ModelInstanceGroup.KIND_CPU, 2)
    ]
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.timeout_action, policy.default_timeout_microseconds, policy.max_queue_size) == (
        pb.ModelQueuePolicy.REJECT,
        250_000,
        7,
    )
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 32]
    assert config.parameters[FORMATS[format].thread_parameter].string_value == "3"


def test_the_queue_has_no_policy_unless_asked_for():
    """With one, requests lie in the queue for half a second: tests/server/test_backends.py."""
    assert build().HasField("dynamic_batching")
    assert not build().dynamic_batching.HasField("default_queue_policy")
    assert (
        build(
            serving=Serving(queue_timeout_ms=5)
        ).dynamic_batching.default_queue_policy.max_queue_size
        == 0
    )


def test_it_says_all_that_a_client_needs():
    contract = Preprocessing(resize=320, crop=288, mean=(0.5, 0.5, 0.5))
    config = build(preprocessing=contract, output=OutputKind.LOGITS.value)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert Preprocessing.from_parameters(parameters) == contract
    assert parameters["output.kind"] == "logits"
    assert list(config.input[0].dims) == [3, 288, 288]


def test_untrained_weights_are_called_so():
    assert "weights" not in build().parameters
    assert build(trained=False).parameters["weights"].string_value == "seeded"


def test_a_maximum_batch_of_one_is_warmed_up_once():
    assert [warmup.batch_size for warmup in build(serving=Serving(max_batch=1)).model_warmup] == [1]


def test_a_model_without_a_batcher_is_warmed_up_with_one_request_of_all_images():
    """Triton skips a sample of batch size 0; tests/server/test_backends.py shows that this runs."""
    config = build("openvino", serving=Serving(max_batch=5))
    assert [
        (warmup.batch_size, list(warmup.inputs["INPUT__0"].dims)) for warmup in config.model_warmup
    ] == [
        (1, [1, 3, 224, 224]),
        (1, [5, 3, 224, 224]),
    ]


def test_the_batcher_can_be_asked_for():
    """NVIDIA's backend needs the padding; a queue has options only where there is one."""
    config = build("openvino", serving=Serving(max_batch=5, batcher=True, queue_delay_us=7))
    (input_,), (output,), (group,) = config.input, config.output, config.instance_group
    assert (config.max_batch_size, group.count) == (5, 1)
    assert config.dynamic_batching.max_queue_delay_microseconds == 7
    assert (list(input_.dims), input_.format) == ([3, 224, 224], pb.ModelInput.FORMAT_NCHW)
    assert list(output.dims) == [1000]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 5]
    assert parameters_of(config)["ENABLE_BATCH_PADDING"] == "YES"
    assert "ENABLE_BATCH_PADDING" not in parameters_of(build("openvino"))
    assert build("onnx", serving=Serving(batcher=True)) == build("onnx")


def test_a_batcher_for_a_config_that_has_none():
    """It becomes the config that an export with a batcher writes, but for the instances."""
    serving = Serving(max_batch=5, instances=3)
    without = build("openvino", serving=serving)
    before = to_text(without)
    found = with_batcher(without, FORMATS["openvino"])
    assert found == build("openvino", serving=replace(serving, batcher=True))
    assert to_text(without) == before
    assert largest_batch(without) == largest_batch(found) == 5


@pytest.mark.parametrize(
    "format", [name for name, format in FORMATS.items() if "gpu" in format.devices]
)
def test_a_gpu_has_two_instances_and_every_batch_size_is_warmed_up(format):
    config = build(format, serving=Serving(device="gpu", max_batch=5))
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (pb.ModelInstanceGroup.KIND_GPU, 2)
    ]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 2, 3, 4, 5]
    assert build(format, serving=Serving(device="gpu", instances=1)).instance_group[0].count == 1


def parameters_of(config) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_cuda_graphs_for_every_batch_size():
    cuda = build("tensorrt", serving=Serving(max_batch=3)).optimization.cuda
    assert cuda.graphs
    assert [spec.batch_size for spec in cuda.graph_spec] == [1, 2, 3]
    assert not any(spec.input for spec in cuda.graph_spec)  # the profile's shapes


def test_onnx_runtime_on_cuda():
    """HEURISTIC and kSameAsRequested are set at the top level, where the backend reads them.

    The other options are set with the provider.
    """
    config = build("onnx", serving=Serving(device="gpu"))
    assert {"cudnn_conv_algo_search": "1", "arena_extend_strategy": "1"}.items() <= parameters_of(
        config
    ).items()
    (provider,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (provider.name, dict(provider.parameters)) == (
        "cuda",
        {"cudnn_conv_use_max_workspace": "1"},
    )


def test_onnx_runtime_through_tensorrt():
    cuda, tensorrt = build("onnx_trt").optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, tensorrt.name) == ("cuda", "tensorrt")
    assert dict(tensorrt.parameters) == {
        "trt_profile_min_shapes": "INPUT__0:1x3x224x224",
        "trt_profile_opt_shapes": "INPUT__0:8x3x224x224",
        "trt_profile_max_shapes": "INPUT__0:8x3x224x224",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": ENGINE_CACHE,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": ENGINE_CACHE,
    }


def test_libtorch_on_a_gpu_holds_its_weights_once():
    config = build("torchscript", serving=Serving(device="gpu"))
    assert {"INFERENCE_MODE": "true", "ENABLE_WEIGHT_SHARING": "true"}.items() <= parameters_of(
        config
    ).items()


def test_a_cpu_is_told_nothing_of_gpus():
    for format in DEFAULT_FORMATS:
        config = build(format)
        assert not config.HasField("optimization")
        assert not {"cudnn_conv_algo_search", "ENABLE_WEIGHT_SHARING"} & set(config.parameters)


def test_plans_for_several_gpus():
    config = build("tensorrt", artifacts=[{"file": "model_sm89.plan"}, {"file": "model_sm90.plan"}])
    assert dict(config.cc_model_filenames) == {"8.9": "model_sm89.plan", "9.0": "model_sm90.plan"}


def test_the_text_can_be_read_back():
    config = build()
    assert from_text(to_text(config)) == config
    assert to_text(config).startswith("# Written by")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "`max_batch` must be at least 1"),
        ({"instances": -1}, "`instances` must not be negative"),
        ({"queue_size": -1}, "`queue_size` must not be negative"),
        ({"threads": -1}, "`threads` must not be negative"),
        ({"device": "tpu"}, "`device` must be one of cpu, gpu"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(OptionError, match=message):
        Serving(**options)


def test_imagenets_labels_are_in_nvidias_order():
    labels = labels_for(1000, None)
    assert labels is not None
    names = labels.splitlines()
    assert (len(names), names[0], names[281], names[999]) == (
        1000,
        "tench",
        "tabby",
        "toilet tissue",
    )


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


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 1 << 31},
        {"instances": 1 << 31},
        {"threads": 1025},
        {"queue_size": 1 << 32},
        {"queue_timeout_ms": 1 << 64},
        {"queue_delay_us": 1 << 64},
    ],
)
def test_a_number_that_nothing_can_hold_is_refused_before_the_export(options):
    with pytest.raises(OptionError, match="must be at most"):
        Serving(**options)


def test_a_request_may_bring_a_timeout_of_its_own():
    config = build(serving=Serving(queue_timeout_ms=30))
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override


def test_the_response_cache_is_there_if_it_was_asked_for():
    assert build(serving=Serving(response_cache=True)).response_cache.enable
    assert not build().HasField("response_cache")


def test_a_config_is_read_back_as_clients_read_it():
    prepared = Preprocessing(resize=300, crop=288, interpolation="bicubic", std=(0.5, 0.25, 1.0))
    assert contract(to_text(build(preprocessing=prepared))) == prepared


def bounds(table: str) -> dict[str, float]:
    """The first number in the row of each precision."""
    rows = re.findall(r"^\| (FP32|FP16|bfloat16|INT8) \| (\S+) \|", table, flags=re.MULTILINE)
    names = {"bfloat16": "bf16"}
    return {names.get(name, name.lower()): float(bound) for name, bound in rows}


def test_the_bounds_of_the_gate_are_those_of_the_page():
    page = (PROJECT / "docs/formats.md").read_text()
    gate, reference = page.split("### The reference answer")
    assert bounds(gate) == {name: precision.bound for name, precision in PRECISIONS.items()}
    assert bounds(reference) == {
        name: precision.repeats_within for name, precision in PRECISIONS.items()
    }
    suffixes = {name: precision.suffix for name, precision in PRECISIONS.items()}
    assert suffixes == {name: "" if name == "fp32" else f"_{name}" for name in PRECISIONS}
    assert {each.name for each in PRECISIONS.values() if each.is_cast} == {"fp16"}


@pytest.mark.parametrize(
    ("name", "largest"), [("instances", 2**31 - 1), ("queue_timeout_ms", (2**64 - 1) // 1000)]
)
def test_the_largest_values_are_those_that_the_fields_of_the_config_hold(name, largest):
    """An instance count is an int32, and a timeout a uint64 of microseconds."""
    build(serving=Serving(**{name: largest}))
    with pytest.raises(OptionError, match=f"`{name}` must be at most {largest}, not"):
        Serving(**{name: largest + 1})


def test_what_decides_an_artifact_is_in_the_identity_of_its_precision():
    identities = [precision.identity() for precision in PRECISIONS.values()]
    assert all(identities.count(identity) == 1 for identity in identities)
    assert not any("summary" in identity for identity in identities)  # a text for people
