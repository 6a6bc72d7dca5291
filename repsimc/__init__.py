"""repsimc makes several neural networks fit on one edge device. The front door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "compile", "load", "similarity"]

if TYPE_CHECKING:
    from repsimc.compiler.driver import compile
    from repsimc.compiler.similarity.compare import similarity
    from repsimc.runtime.session import load

_HOMES = {
    "compile": "repsimc.compiler.driver",
    "load": "repsimc.runtime.session",
    "similarity": "repsimc.compiler.similarity.compare",
}


def __getattr__(name: str) -> Any:
    # Lazy: `import repsimc` must not pull onnx, onnxruntime or torch.
    if name in _HOMES:
        from importlib import import_module

        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "repsimc").startswith("repsimc"):
                raise
            raise ImportError(
                f"repsimc.{name} needs {error.name}: pip install 'repsimc[compile]'"
            ) from error
    raise AttributeError(f"module 'repsimc' has no attribute '{name}'")
