"""From a checkpoint to a verified artifact in a Triton model repository, in one call.

    from pathlib import Path

    from seresnext101_triton.export import Request, export

    outcomes = export(Request(weights="finetuned.pth", repository=Path("model_repository")))
    print(outcomes[0].artifact)

A `Request` has a default for everything but `weights` and `repository`, and refuses options that do
not go together when it is made. Every error of this package is an `ExportError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seresnext101_triton.export.errors import ExportError
    from seresnext101_triton.export.pipeline import Outcome
    from seresnext101_triton.export.quantization import Quantization
    from seresnext101_triton.export.reporting import Reporter
    from seresnext101_triton.export.request import Request
    from seresnext101_triton.export.serving import Serving

__all__ = ["ExportError", "Outcome", "Quantization", "Reporter", "Request", "Serving", "export"]

_MODULES = {
    "ExportError": "errors",
    "Outcome": "pipeline",
    "Quantization": "quantization",
    "Reporter": "reporting",
    "Request": "request",
    "Serving": "serving",
}


def export(request: Request, reporter: Reporter | None = None) -> list[Outcome]:
    """Publish the formats of a request that are not in its model repository yet.

    Each artifact is run by the runtime that will serve it and compared with the network first.

    Args:
        request: What to export, and how.
        reporter: What shows the progress; None shows nothing.

    Returns:
        One outcome for each model, in the order of the request's formats.

    Raises:
        ExportError: Nothing was published and the repository is as it was, unless the message says
            otherwise. The subclasses tell what went wrong.
    """
    from seresnext101_triton.export import pipeline, reporting

    return pipeline.export(request, reporter or reporting.Reporter(quiet=True))


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import export` loads no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
