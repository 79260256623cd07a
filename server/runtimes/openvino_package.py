"""The package `openvino`, imported without its telemetry, and the one `Core` of this process.

`import openvino` reports itself to its makers unless the user has opted out: it forks this process,
sends a request to Google Analytics, and writes an identifier into the user's home folder. It does
none of this where the package `openvino_telemetry` is missing.
"""

from __future__ import annotations

import sys
from functools import cache

_TELEMETRY = "openvino_telemetry"
_before = sys.modules.get(_TELEMETRY)
sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
try:
    import openvino
    import openvino.passes
finally:
    del sys.modules[_TELEMETRY]
    if _before is not None:
        sys.modules[_TELEMETRY] = _before

__all__ = ["UNPINNED", "core", "openvino"]

# The property of every model that is compiled here. Each instance is a process. A model that pins
# its threads takes the first cores, so that all instances would share them. The thread that ran
# such a model also stays on these cores while it runs any other model (OpenVINO 2026.4).
UNPINNED = {"ENABLE_CPU_PINNING": False}


@cache
def core(extension: str = "") -> openvino.Core:
    """The `Core` of this process, which lives as long as the process.

    OpenVINO's CPU plugin gives the calling thread a stack for signal handlers, and unmaps it when
    the plugin's `Core` is destroyed. If one `Core` is created before another is destroyed, the
    thread keeps the address of the unmapped stack. Python handles signals on that stack, so that
    the next Ctrl-C ended the process by SIGSEGV (OpenVINO 2026.4).

    Args:
        extension: The library of an extension that the `Core` loads. Each has a `Core` of its own.

    Raises:
        RuntimeError: OpenVINO cannot load the extension.
    """
    made = openvino.Core()
    if extension:
        made.add_extension(extension)
    return made
