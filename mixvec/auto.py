"""mixvec's models in transformers' Auto classes, without ``trust_remote_code``, in every program that imports mixvec.

transformers takes seconds to import and need not be installed, so mixvec does not import it: the models are registered
as soon as the program has imported both, in either order.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from .model.pretrained import AUTO_MAP


def register() -> None:
    """Register the models now, where transformers' Auto classes are imported, or when they are."""
    for name, entered in _REGISTRARS.items():
        if name in sys.modules:
            _offer(entered, sys.modules[name])
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _config(auto: Any) -> None:
    from .model.configuration_mixvec import MixvecConfig

    auto.AutoConfig.register(MixvecConfig.model_type, MixvecConfig, exist_ok=True)


def _models(auto: Any) -> None:
    from .model import configuration_mixvec, modeling_mixvec

    for name, path in AUTO_MAP.items():
        if name != "AutoConfig":
            model = getattr(modeling_mixvec, path.split(".")[1])
            getattr(auto, name).register(configuration_mixvec.MixvecConfig, model, exist_ok=True)


def _tokenizer(auto: Any) -> None:
    from .model import configuration_mixvec, tokenization_mixvec

    auto.AutoTokenizer.register(
        configuration_mixvec.MixvecConfig, slow_tokenizer_class=tokenization_mixvec.MixvecTokenizer, exist_ok=True
    )


_REGISTRARS: dict[str, Callable[[Any], None]] = {
    "transformers.models.auto.configuration_auto": _config,
    "transformers.models.auto.modeling_auto": _models,
    "transformers.models.auto.tokenization_auto": _tokenizer,
}
"""What each module of transformers is given once it is imported."""


def _offer(registrar: Callable[[Any], None], module: ModuleType) -> None:
    try:
        registrar(module)
    except ImportError as error:
        warnings.warn(f"mixvec's models are not registered with this version of transformers: {error}", stacklevel=2)


class _Watch(MetaPathFinder):
    """Finds the modules of ``_REGISTRARS`` as Python does, and has them register mixvec's models."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _REGISTRARS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _offer(_REGISTRARS[fullname], module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
