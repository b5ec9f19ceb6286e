"""Every way to ask LeNet-5 and ResNet-20, as float and as int8: what the runtime benchmark measures."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from dflare.classifiers import Classifier
from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.opening import open_classifier
from dflare.models.shown import Shown
from experiments.compress import seeded
from experiments.networks import ARCHITECTURES
from pairs import CENTRED, bench_folder

FOLDERS = {"LeNet-5": "mnist_lenet-5", "ResNet-20": "cifar-10_resnet20"}
LITERT = {"LeNet-5": "diffchaser/lenet5", "ResNet-20": "diffchaser/resnet"}
ZOO = {"LeNet-5": "lenet5", "ResNet-20": "resnet20"}
"""The same architectures, to the parameter, as the files in `FOLDERS`; speed does not hang on the weights."""

TINY = {"float": "mlperf_tiny/pretrainedResnet.tflite", "int8": "mlperf_tiny/pretrainedResnet_quant.tflite"}


@dataclass(frozen=True)
class Backend:
    """A network in one form and what answers for it; plain data, so that other processes can open it too."""

    network: str
    form: str  # float or int8
    runtime: str
    file: str | None = None  # below $DFLARE_BENCH/models; None for what is made of the zoo's network
    kernels: str = "default"
    interface: Interface = Interface()  # noqa: RUF009 (frozen)

    @property
    def name(self) -> str:
        """Network, form and runtime."""
        return f"{self.network} {self.form} {self.runtime}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return shape_of(self.network)

    def open(self, threads: int, folder: Path) -> Classifier:
        """A classifier; what has to be made first is written to the folder, unless it lies there."""
        if self.file is not None:
            path = bench_folder() / "models" / self.file
            return open_classifier(path, self.interface, threads=threads, kernels=self.kernels)
        if self.runtime == "nn.Module":
            return Shown(network(self.network), name=self.name)
        path = folder / f"{ZOO[self.network]}-{self.form}.pt"
        if not path.is_file():
            write_torchscript(self.network, self.form, path)
        return open_classifier(path, threads=threads, allow_code=True)


def shape_of(network: str) -> tuple[int, int, int]:
    """Channels, height and width of a network's images."""
    return (1, 28, 28) if network == "LeNet-5" else (3, 32, 32)


def backends(names: str | None = None) -> list[Backend]:
    """All of them, float before int8, the `.onnx` first; or those of the networks named, separated by commas.

    Raises `InputError` for unknown networks.
    """
    known = [*FOLDERS, "ResNet-8"]
    wanted = known if names is None else names.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"--networks must be some of {', '.join(known)}, got {unknown[0]!r}")
    return [one for name in wanted for form in ("float", "int8") for one in _of(name, form)]


def _of(name: str, form: str) -> list[Backend]:
    kernels = ("default", "builtin", "reference")
    if name == "ResNet-8":  # the only file whose inputs and outputs are integers too
        interface = Interface(range=(0, 255)) if form == "float" else Interface()
        return [Backend(name, form, f".tflite {kind}", TINY[form], kind, interface) for kind in kernels]
    stem = "original" if form == "float" else "int8"
    lite = f"{LITERT[name]}{'' if form == 'float' else '_quant'}.tflite"
    centred = CENTRED if name == "ResNet-20" else Interface()
    found = [
        Backend(name, form, ".onnx", f"{FOLDERS[name]}/{stem}.onnx"),
        Backend(name, form, ".onnx unoptimized", f"{FOLDERS[name]}/{stem}.onnx", "unoptimized"),
        *(Backend(name, form, f".tflite {kind}", lite, kind, centred) for kind in kernels),
        Backend(name, form, ".pt2", f"{FOLDERS[name]}/{stem}.pt2"),
        Backend(name, form, "TorchScript"),
    ]
    return [*found, Backend(name, form, "nn.Module")] if form == "float" else found


@cache
def network(name: str) -> nn.Module:
    """The zoo's network of that name in evaluation mode, with its first weights."""
    return seeded(ARCHITECTURES[ZOO[name]].original, 0).eval().requires_grad_(False)


def write_torchscript(name: str, form: str, path: Path) -> None:
    """Trace the zoo's network, as float or quantised by torch's own graph mode, into a TorchScript file."""
    model, shape = network(name), ARCHITECTURES[ZOO[name]].shape
    with torch.no_grad():
        trace(model if form == "float" else _quantised(model, shape), torch.rand(1, *shape), path)


def _quantised(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The model with int8 weights and activations of torch's x86 kernels, whose ranges are those of noise."""
    with _deprecated():
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        noise = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0))
        prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (noise,))
        prepared(noise)
        return convert_fx(prepared)


def trace(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write a model as a TorchScript file that takes any batch of inputs like the example (1, ...)."""
    with _deprecated():
        torch.jit.save(torch.jit.trace(model, example), path)


def fix_batch(source: Path, batch: int, target: Path) -> None:
    """Write an `.onnx` file that answers exactly `batch` images at once, with the nodes and weights of another."""
    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]  # shapes in between, which the runtime infers again
    onnx.save(model, target)


@contextmanager
def _deprecated() -> Iterator[None]:
    """Without the warnings of parts of torch that are deprecated and still the only ones to write such files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        warnings.filterwarnings("ignore", r"torch\.ao\.quantization is deprecated")
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor, ")
        warnings.filterwarnings("ignore", "Please use quant_min and quant_max")
        warnings.filterwarnings("ignore", "Converting a tensor to a Python", torch.jit.TracerWarning)
        yield
