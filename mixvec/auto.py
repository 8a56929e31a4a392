"""mixvec's models in transformers' Auto classes, without ``trust_remote_code``, in every program that imports mixvec.

transformers takes seconds to import and need not be installed, so mixvec does not import it: the models are registered
as soon as the program has imported both, in either order.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from .model.pretrained import AUTO_MAP

AUTO = "transformers.models.auto."
PARTS = ("configuration_auto", "modeling_auto", "tokenization_auto")
"""The modules of transformers that register models."""


def register() -> None:
    """Register the models now, where transformers' Auto classes are imported, or when they are."""
    for part in PARTS:
        if AUTO + part in sys.modules:
            _register(sys.modules[AUTO + part])
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _register(auto: Any) -> None:
    """Register what belongs into this module of transformers."""
    part = auto.__name__.removeprefix(AUTO)
    try:
        from .model.configuration_mixvec import MixvecConfig

        if part == "configuration_auto":
            auto.AutoConfig.register(MixvecConfig.model_type, MixvecConfig, exist_ok=True)
        elif part == "tokenization_auto":
            from .model.tokenization_mixvec import MixvecTokenizer

            auto.AutoTokenizer.register(MixvecConfig, slow_tokenizer_class=MixvecTokenizer, exist_ok=True)
        else:
            from .model import modeling_mixvec

            for name, path in AUTO_MAP.items():
                if name != "AutoConfig":
                    model = getattr(modeling_mixvec, path.split(".")[1])
                    getattr(auto, name).register(MixvecConfig, model, exist_ok=True)
    except ImportError as error:
        warnings.warn(f"mixvec's models are not registered with this version of transformers: {error}", stacklevel=2)


class _Watch(MetaPathFinder):
    """Finds these modules as Python does, and registers mixvec's models in them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        watched = fullname.startswith(AUTO) and fullname.removeprefix(AUTO) in PARTS
        spec = PathFinder.find_spec(fullname, path, target) if watched else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
