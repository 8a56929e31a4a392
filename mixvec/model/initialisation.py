"""Modules without weights of their own yet: initialised as their constructors do, or filled from another module."""

from __future__ import annotations

from torch import nn

from .frontend import ConvLayer
from .mixing import BlockLinear
from .task_model import LayerChoice


def initialise(module: nn.Module) -> None:
    """Draw the weights of a module, not of those in it, whose memory was allocated without its constructor's draws."""
    if isinstance(module, ConvLayer):
        nn.init.kaiming_normal_(module.conv.weight)
    elif isinstance(module, BlockLinear):
        bound = module.weight.shape[1] ** -0.5
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, LayerChoice) and module.weights is not None:
        nn.init.zeros_(module.weights)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif callable(reset := getattr(module, "reset_parameters", None)):
        reset()


def adopt(model: nn.Module, core: nn.Module) -> None:
    """Give ``model`` the children, parameters and plain attributes of ``core`` that it does not have."""
    for name, value in vars(core).items():
        if isinstance(value, dict) and isinstance(own := vars(model).get(name), dict):  # torch's own: _modules, ...
            own.update({key: entry for key, entry in value.items() if key not in own})
        else:
            vars(model).setdefault(name, value)
