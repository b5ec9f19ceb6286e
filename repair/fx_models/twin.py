"""The float twin of a quantised TorchScript program."""

from typing import Any

from torch import Tensor, nn

from dflare.errors import InputError
from repair.compression import Projection
from repair.fx_models.layers import Layer
from repair.fx_models.operators import NUMBERS, OPERATORS, Weighted
from repair.fx_models.reading import Place, Reading


class FloatTwin(nn.Module):
    """A quantised TorchScript program in floats on its grids: values (n, ...) to scores (n, classes), differentiable.

    Its parameters are the weights and biases of the layers, named after their places: `features_0_weight`.
    """

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        for layer in reading.layers.values():
            stored = [layer.weight(), *([] if layer.bias is None else [layer.bias.detach().clone()])]
            for name, values in zip(layer.names, stored, strict=True):
                self.register_parameter(name, nn.Parameter(values))

    def train(self, mode: bool = True) -> "FloatTwin":
        """Nothing: a compressed model has no training mode."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        values: list[Any] = [images]
        functions = OPERATORS | NUMBERS
        for step in self.reading.steps:
            values.append(functions[step.operator](*(self._now(value, values) for value in step.arguments)))
        scores = values[self.reading.result.number]
        if not isinstance(scores, Tensor):
            raise InputError(f"the program in {self.reading.path} must return floats, it returns quantised numbers")
        return scores

    def _now(self, value: Any, values: list[Any]) -> Any:
        """An argument with results of steps and weights in it."""
        if isinstance(value, Place):
            return values[value.number]
        if isinstance(value, Layer):
            found = [getattr(self, name) for name in value.names]
            return Weighted(value, found[0], found[1] if value.biased else None)
        return [self._now(each, values) for each in value] if isinstance(value, list) else value

    def plan(self) -> dict[str, Projection]:
        """Parameter name -> the integers that the weight stands for."""
        return {layer.names[0]: layer.grid() for layer in self.reading.layers.values()}
