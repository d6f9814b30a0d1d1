"""On the import path of a test's processes: vLLM's Ray executor then takes CPU ranks for GPUs that are numbers.

vLLM refuses Ray on a CPU for want of a resource to ask for. Everything else of the executor runs there, so an engine
over two raylets of one machine can be tested for real.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PLATFORM = "vllm.platforms.cpu"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != PLATFORM:
            return None
        sys.meta_path.remove(self)
        spec: Any = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            module.CpuPlatform.ray_device_key = "GPU"

        spec.loader.exec_module = exec_module
        return spec  # type: ignore[no-any-return]


sys.meta_path.insert(0, _Finder())
