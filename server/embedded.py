"""What the embedded server must be told otherwise than NVIDIA's image, as it is an old release."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

# The embedded server prefers this file in a model's folder to config.pbtxt (--model-config-name).
EMBEDDED_CONFIG_NAME = "embedded"
EMBEDDED_CONFIG_FILENAME = f"configs/{EMBEDDED_CONFIG_NAME}.pbtxt"

# Release 24.10 refuses this platform. Its backend is told by the name of the artifact.
# Sources: core, src/model_config_utils.cc, AutoCompleteBackendFields and ValidateModelConfig.
_UNKNOWN_PLATFORMS = {"torch_aoti": ("pytorch", "model.pt2")}


def embedded_config(config: pb.ModelConfig) -> pb.ModelConfig | None:
    """The config with which the embedded server serves a model. None if it can read the model's."""
    if config.platform not in _UNKNOWN_PLATFORMS:
        return None
    embedded = pb.ModelConfig()
    embedded.CopyFrom(config)
    backend, filename = _UNKNOWN_PLATFORMS[config.platform]
    embedded.platform, embedded.backend = "", backend
    embedded.default_model_filename = config.default_model_filename or filename
    return embedded


def embedded_text(text: str) -> str | None:
    """The text of `EMBEDDED_CONFIG_FILENAME` beside a config.pbtxt; None if none is needed."""
    try:
        embedded = embedded_config(text_format.Parse(text, pb.ModelConfig()))
    except text_format.ParseError:  # a config that somebody has written by hand, of no server
        return None
    return embedded and "# Made from config.pbtxt.\n" + text_format.MessageToString(embedded)
