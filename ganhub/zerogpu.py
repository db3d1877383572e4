"""The only import of the PyPI package `spaces`; import this module before torch and Gradio.

The repository has a folder of the same name. Where the package is not installed, `import spaces` finds that folder:
an empty namespace package, which Gradio would then ask for functions that it does not have. So the folder is put
out of sight, for this process, before Gradio looks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

try:
    import spaces
except ImportError:
    spaces = None  # type: ignore[assignment]

REAL = hasattr(spaces, "GPU")
"""True where `spaces` is the package, and not a folder that happens to have its name."""

if not REAL and spaces is not None and getattr(spaces, "__file__", None) is None:
    sys.modules["spaces"] = None  # type: ignore[assignment]  # from here on `import spaces` raises ImportError
    for _name in ("gradio.blocks", "gradio.block_function"):  # loaded before us, they hold the folder already
        if _module := sys.modules.get(_name):
            _module.spaces = None  # type: ignore[attr-defined]

ACTIVE = REAL and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
"""True on a ZeroGPU Space, where a GPU is lent for the time of one decorated call."""


def gpu(function: Callable[..., Any], duration: Any = 60) -> Callable[..., Any]:
    """A function that runs with a lent GPU on ZeroGPU; the same function everywhere else.

    Decorate one function of the whole app: every decorated function keeps processes and weights of its own.
    Arguments and results are pickled, so they are plain data.

    Args:
        function: what needs the device.
        duration: seconds to ask for, or a function of the same arguments that tells them.
    """
    return spaces.GPU(duration=duration)(function) if ACTIVE else function  # type: ignore[attr-defined]
