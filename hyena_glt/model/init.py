"""Initial weights, and marks on parameters: which take no weight decay, which shape a filter."""

from __future__ import annotations

import math

from torch import nn

from .backbone import Vocabulary
from .block import Norm
from .filters import ExplicitConv, ImplicitConv, ModalConv, ShortConv
from .positions import LearnedPositions

STD = 0.02
FILTERS = (ExplicitConv, ModalConv, ImplicitConv)
WITHOUT_DECAY = (Norm, Vocabulary, LearnedPositions, ShortConv, *FILTERS)


def init_weights(model: nn.Module, *, num_layers: int) -> None:
    """Linear layers and tables ~ N(0, 0.02), zero biases; what writes to the residual stream is divided by sqrt(2 * num_layers)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            writes_to_stream = name.endswith(("mixer.out_proj", "mlp.fc2"))
            nn.init.normal_(module.weight, std=STD / math.sqrt(2 * num_layers) if writes_to_stream else STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (Vocabulary, LearnedPositions)):
            nn.init.normal_(module.weight, std=STD)


def mark_parameters(model: nn.Module) -> None:
    """Set `_no_weight_decay` on norms, biases, tables, convolutions and everything that shapes a filter, `_shapes_filter` on the last."""
    for module in model.modules():
        whole = isinstance(module, WITHOUT_DECAY)
        for name, parameter in module.named_parameters(recurse=whole):
            if whole or name == "bias":
                parameter._no_weight_decay = True
            if isinstance(module, FILTERS):
                parameter._shapes_filter = True
