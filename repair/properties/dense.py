"""Small fully connected networks: layers of y = act(W x + b), as fast as torch runs them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Function = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "Relu": (torch.relu, {}),
    "LeakyRelu": (lambda x, alpha: F.leaky_relu(x, alpha), {"alpha": 0.01}),
    "Tanh": (torch.tanh, {}),
    "Elu": (lambda x, alpha: F.elu(x, alpha), {"alpha": 1.0}),
    "Sigmoid": (torch.sigmoid, {}),
}
"""ONNX operator -> the function, and its settings with ONNX's defaults."""

PRELUDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
}
"""ONNX operators that may scale inputs by stored numbers before the first layer."""


@dataclass(frozen=True)
class Activation:
    """What a layer ends with: the name of an ONNX operator and its settings; no name for none."""

    name: str = ""
    settings: tuple[tuple[str, float], ...] = ()

    def __call__(self, values: Tensor) -> Tensor:
        """The function of every value."""
        if not self.name:
            return values
        function, defaults = ACTIVATIONS[self.name]
        return function(values, **(defaults | dict(self.settings)))


class DenseNetwork(nn.Module):
    """Inputs (n, inputs) -> outputs (n, outputs): fixed steps that scale inputs, then linear layers with activations.

    Parameters are `layers.<i>.weight` (to, from) and `layers.<i>.bias` (to,).
    """

    def __init__(
        self, layers: Sequence[nn.Linear], activations: Sequence[Activation], prelude: Sequence[tuple[str, Tensor]] = ()
    ) -> None:
        super().__init__()
        if not layers or len(layers) != len(activations):
            raise ValueError(f"expected an activation for each of {len(layers)} layers, got {len(activations)}")
        self.layers, self.activations = nn.ModuleList(layers), tuple(activations)
        self.operators = tuple(name for name, _ in prelude)
        for index, (_, constant) in enumerate(prelude):
            self.register_buffer(f"constant_{index}", constant)

    @property
    def inputs(self) -> int:
        """How many numbers it takes."""
        return self._layer(0).in_features

    @property
    def outputs(self) -> int:
        """How many numbers it returns."""
        return self._layer(-1).out_features

    @property
    def widths(self) -> list[int]:
        """How many neurons every hidden layer has."""
        return [self._layer(index).out_features for index in range(len(self.layers) - 1)]

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.scaled(inputs)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            values = activation(layer(values))
        return values

    def scaled(self, inputs: Tensor) -> Tensor:
        """What the first layer takes."""
        for index, operator in enumerate(self.operators):
            inputs = PRELUDE[operator](inputs, getattr(self, f"constant_{index}"))
        return inputs

    def hidden(self, inputs: Tensor) -> list[Tensor]:
        """What every hidden layer returns, (n, neurons) each, in order."""
        found, values = [], self.scaled(inputs)
        for layer, activation in zip(self.layers[:-1], self.activations[:-1], strict=True):
            values = activation(layer(values))
            found.append(values)
        return found

    def finish(self, values: Tensor, layer: int) -> Tensor:
        """The outputs (..., outputs) that follow from what hidden layer `layer` returns, (..., neurons)."""
        for following, activation in zip(self.layers[layer + 1 :], self.activations[layer + 1 :], strict=True):
            values = activation(following(values))
        return values

    def with_weights(self, weights: Mapping[str, Tensor]) -> Function:
        """The network as a function, with these weights in place of its own."""
        return partial(functional_call, self, dict(weights))

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights by name, without gradients."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    def _layer(self, index: int) -> nn.Linear:
        layer = self.layers[index]
        assert isinstance(layer, nn.Linear)
        return layer


def fold_factors(network: DenseNetwork, factors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The weights with which every hidden neuron counts `factors[layer][neuron]` times as much as before.

    A neuron's output is scaled where the next layer reads it, so that any activation will do: column i of the next
    weight times the factor of neuron i. `factors` has one (neurons,) for each hidden layer.
    """
    weights = network.weights()
    for index, factor in enumerate(factors, start=1):
        weights[f"layers.{index}.weight"] = weights[f"layers.{index}.weight"] * factor
    return weights
