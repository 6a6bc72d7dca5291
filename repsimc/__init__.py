"""repsimc makes several neural networks fit on one edge device. The front door."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself is imported late: a Ctrl-C of these moments has a traceback
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "compile", "explore", "load", "similarity"]

if TYPE_CHECKING:
    from repsimc.compiler.driver import compile
    from repsimc.compiler.explore.exploration import explore
    from repsimc.compiler.similarity.compare import similarity
    from repsimc.runtime.session import load

# Nothing leaves the machine. ONNX Runtime (1.29 and later) sends usage data unless this is set
# before it starts; child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
if "onnxruntime" in sys.modules:  # it started before us: whatever can still be turned off, is
    getattr(sys.modules["onnxruntime"], "disable_telemetry_events", lambda: None)()

_HOMES = {
    "compile": "repsimc.compiler.driver",
    "explore": "repsimc.compiler.explore.exploration",
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
