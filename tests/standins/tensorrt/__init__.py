"""A stand-in for `tensorrt`, whose plans hold the ONNX file and run on the CPU.

The real package cannot make a builder without a GPU's driver. TensorRT for RTX can, so parsing,
refused graphs and shapes, progress that fails and Ctrl-C are tested with that, in `test_rtx.py`.
These parts are left here, each because it needs a GPU or TensorRT proper:

- `Builder`: a driver that is too old; a kernel that does not exist; the options of the build, which
  the plan repeats, because TensorRT for RTX has other ones;
- `ITimingCache`: kernels are timed on the GPU;
- `Runtime`, `ICudaEngine`, `IExecutionContext`: a plan is loaded and run on the GPU only;
- `EngineInspector`: it needs a loaded plan.

`OnnxParser`, `INetworkDefinition` and `IOptimizationProfile` are here for their data only. They
refuse nothing.

The stand-in's public names are a part of what TensorRT 10.16 and 11.1 have in common;
`test_bindings.py` checks every name and every parameter against NVIDIA's own bindings of both.
Setting an attribute that the real classes lack is an error, as it is there.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ.get("STANDIN_TENSORRT_VERSION", "11.1.0.106")
_ELEVEN = int(__version__.split(".")[0]) >= 11
_GPU = os.environ.get("STANDIN_TENSORRT_GPU", "sm90")

_failures: set[str] = set()  # what is to go wrong; tests fill it
_half = "Half"  # what the layers are said to run in


class _Strict:
    def __setattr__(self, name, value):
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        object.__setattr__(self, name, value)


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        self._made = True

    def log(self, severity, msg):
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self):
        self._made = True

    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 0 if _ELEVEN else 1


class BuilderFlag(enum.IntEnum):
    TF32, VERSION_COMPATIBLE = 7, 13


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class HardwareCompatibilityLevel(enum.IntEnum):
    NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = range(3)


class LayerInformationFormat(enum.IntEnum):
    ONELINE, JSON = range(2)


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.IntEnum):
    FLOAT, HALF = range(2)
    UINT8 = 5


class IHostMemory(bytes):
    """The real one has the buffer protocol; so have bytes."""


class ITensor(_Strict):
    name = shape = None

    def __init__(self, value):
        self.name = value.name
        self.shape = tuple(
            -1 if axis.dim_param else axis.dim_value for axis in value.type.tensor_type.shape.dim
        )


class INetworkDefinition(_Strict):
    num_inputs = 0

    def __init__(self):
        self._model = onnx.ModelProto()

    def get_input(self, index):
        return ITensor(self._model.graph.input[index])


class OnnxParser(_Strict):
    def __init__(self, network, logger):
        assert logger._made
        self._network = network

    def parse_from_file(self, model):
        self._network._model = onnx.load(model)
        self._network.num_inputs = len(self._network._model.graph.input)
        return True


class IOptimizationProfile(_Strict):
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class ITimingCache(_Strict):
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return IHostMemory(self._content)


class IBuilderConfig(_Strict):
    builder_optimization_level = 3
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    progress_monitor = None
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE

    def __init__(self):
        self._flags, self._pools, self._profiles, self._cache = {BuilderFlag.TF32}, {}, [], None

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(bytes(serialized_timing_cache) or f"{__version__} {_GPU}".encode())

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._content != f"{__version__} {_GPU}".encode() and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder(_Strict):
    max_threads = 1

    def __init__(self, logger):
        assert logger._made
        if "builder" in _failures:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags=0):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        assert config.progress_monitor._made
        assert BuilderFlag.TF32 not in config._flags
        self._report(config.progress_monitor)
        if "build" in _failures:
            self._logger.log(
                ILogger.Severity.ERROR,
                "Error Code 10: Internal Error\n "
                "(Could not find any implementation for node conv1.)",
            )
            return None
        shapes = dict(config._profiles[0]._shapes)
        if "shapes" in _failures:
            shapes = {name: [low, low, low] for name, (low, _, _) in shapes.items()}
        header = {
            "version": __version__,
            "gpu": _GPU,
            "shapes": shapes,
            "compatible": BuilderFlag.VERSION_COMPATIBLE in config._flags,
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            "level": config.builder_optimization_level,
            "hardware": int(config.hardware_compatibility_level),
            "pools": {pool.name: size for pool, size in config._pools.items()},
        }
        return IHostMemory(json.dumps(header).encode() + b"\n" + network._model.SerializeToString())

    @staticmethod
    def _report(monitor):
        monitor.phase_start("Building engine", None, 1)
        monitor.phase_start("Timing kernels", "Building engine", 3)
        for step in range(3):
            assert monitor.step_complete("Timing kernels", step)
        monitor.phase_finish("Timing kernels")
        monitor.phase_finish("Building engine")


class EngineInspector(_Strict):
    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, format):
        assert format == LayerInformationFormat.JSON
        if not self._engine._header["detailed"]:
            return json.dumps({"Layers": ["conv1"]})
        graph = self._engine._model.graph
        layers = [
            {"Name": node.name, "Inputs": [self._tensor("Float")], "Outputs": [self._tensor(_half)]}
            for node in graph.node
        ]
        return json.dumps(
            {"Layers": layers} | ({"I/O Tensors": []} if _ELEVEN else {"Bindings": []})
        )

    @staticmethod
    def _tensor(type):
        if _ELEVEN:
            return {"Name": "x", "Format": "kLINEAR", "Datatype": type}
        return {
            "Name": "x",
            "Format/Datatype": {
                "Half": "Row major linear FP16 format",
                "Float": "Row major linear FP32",
            }[type],
        }


class IExecutionContext(_Strict):
    def __init__(self, engine):
        self._engine, self._addresses = engine, {}
        self._shape: tuple[int, ...] = ()
        self._session = onnxruntime.InferenceSession(
            engine._model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def set_input_shape(self, name, shape):
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        self._shape = tuple(shape)
        return all(
            small <= axis <= large for small, axis, large in zip(low, shape, high, strict=True)
        )

    def get_tensor_shape(self, name):
        return (self._shape[0], *self._engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        if "run" in _failures:
            return False
        source, result = (
            tensor.name
            for tensor in (self._engine._model.graph.input[0], self._engine._model.graph.output[0])
        )
        (scores,) = self._session.run([result], {source: self._array(source, self._shape)})
        self._array(result, scores.shape)[:] = scores
        return True

    def _array(self, name, shape):
        pointer = ctypes.cast(self._addresses[name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape)


class ICudaEngine(_Strict):
    num_io_tensors = 2

    def __init__(self, header, model):
        self._header, self._model = header, model
        self._tensors = {
            tensor.name: tensor for tensor in (*model.graph.input, *model.graph.output)
        }

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == self.get_tensor_name(0) else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def get_tensor_shape(self, name):
        return ITensor(self._tensors[name]).shape

    def get_tensor_profile_shape(self, name, profile_index):
        return [tuple(shape) for shape in self._header["shapes"][name]]

    def create_execution_context(self, strategy=None):
        return None if "context" in _failures else IExecutionContext(self)

    def create_engine_inspector(self):
        return EngineInspector(self)


class Runtime(_Strict):
    engine_host_code_allowed = False

    def __init__(self, logger):
        assert logger._made
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            head, _, body = bytes(serialized_engine).partition(b"\n")
            header, model = json.loads(head), onnx.load_from_string(body)
        except Exception:
            return self._refuse("The engine plan file is corrupt")
        if header["version"] != __version__ and not (
            header["compatible"] and self.engine_host_code_allowed
        ):
            return self._refuse(
                "The engine plan file is not compatible with this version of TensorRT, "
                f"expecting {__version__}"
            )
        if header["gpu"] != _GPU:
            return self._refuse("The engine plan file is generated on an incompatible device")
        return ICudaEngine(header, model)

    def _refuse(self, reason):
        self._logger.log(ILogger.Severity.ERROR, reason)
