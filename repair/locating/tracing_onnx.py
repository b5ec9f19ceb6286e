"""An ONNX graph run step by step."""

from torch import Tensor

from repair.locating.tracing import PASSES, RIGHT, TURNS, Asked, Step
from repair.onnx_models.graph import OnnxModule
from repair.onnx_models.node import Node
from repair.onnx_models.operators import OPERATORS, Operator
from repair.onnx_models.quantization import RANGES, along_axis
from repair.onnx_models.weights import WEIGHT_INPUTS


class OnnxTrace:
    """The nodes of an `OnnxModule`."""

    batches = (1, 2**31)

    def __init__(self, module: OnnxModule) -> None:
        self.module, self.names = module, module.initializers
        self._constants = {*module._attributes, *module._small, ""}
        parameters = {name for name, _ in module.named_parameters()}
        self._passed = {value: (name, False) for value, name in module._attributes.items() if name in parameters}
        self.steps = [self._step(node) for node in module.nodes]

    def run(self, values: Tensor, asked: Asked) -> Tensor:
        module = self.module
        known: dict[str, Tensor | None] = {"": None, module.input.name: values, **module._small}
        if module.input.name in asked.keep:
            asked.kept[module.input.name] = values
        for name, attribute in module._attributes.items():
            known[name] = asked.weights[attribute] if attribute in asked.weights else getattr(module, attribute)
        for node, drop in zip(module.nodes, module._drop, strict=True):
            output, inputs = node.outputs[0], [known[name] for name in node.inputs]
            operator: Operator = _unrounded if output in asked.unrounded else OPERATORS[node.op]
            value = operator(node, *inputs)
            if output in asked.change:
                value = asked.change[output](value)
            if output in asked.keep:
                asked.kept[output] = value
            known[output] = value
            for name in drop:
                del known[name]
        scores = known[module.output]
        assert scores is not None
        return scores

    def _step(self, node: Node) -> Step:
        read = [self._passed[name] for name in node.inputs if name in self._passed]
        if node.op in PASSES and read:
            self._passed[node.outputs[0]] = (read[0][0], read[0][1] ^ (node.op in TURNS))
        parameters = tuple(name for name, _ in read) if node.op in WEIGHT_INPUTS or node.op == "Add" else ()
        reads = tuple(name for name in node.inputs if name not in self._passed and name not in self._constants)
        right = node.op in RIGHT or (node.op == "Gemm" and not node.get("transB"))
        last = right ^ any(turned for _, turned in read)
        rounds = node.op == "QuantizeLinear" and not read
        return Step(node.op, node.name or node.outputs[0], reads, node.outputs[0], parameters, last, rounds)


def _unrounded(node: Node, *inputs: Tensor | None) -> Tensor:
    """What `QuantizeLinear` would round to whole numbers, clamped to the same range."""
    x, scale, zero = (*inputs, None)[:3]
    assert x is not None
    assert scale is not None
    low, high = RANGES[node.get("element")]
    offset = scale.new_zeros(()) if zero is None else along_axis(node, zero, x)
    return (x / along_axis(node, scale, x) + offset).clamp(low, high)
