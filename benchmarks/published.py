"""The models under $DFLARE_BENCH in pairs, with what was published of them on all 10,000 test images."""

import json
from dataclasses import dataclass

from dflare.errors import InputError
from dflare.models.interface import Interface
from pairs import CENTRED, bench_folder

IMAGENET = Interface(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""How akamaster's networks were trained (`trainer.py` of github.com/akamaster/pytorch_resnet_cifar10)."""


@dataclass(frozen=True)
class Model:
    """A file below $DFLARE_BENCH/models, or a module:function with its weights in such a file."""

    file: str
    interface: Interface = Interface()  # noqa: RUF009 (frozen)
    kernels: str = "default"
    code: str | None = None
    traced: bool = False  # whether the function's network is made into a TorchScript file, which is then asked


@dataclass(frozen=True)
class Published:
    """Two models and their published figures, None for those that there are not; accuracies in [0, 1]."""

    name: str
    data: str
    original: Model
    compressed: Model
    differing: int | None = None  # test images on which the labels, the first top classes, differ
    deviating: int | None = None  # those of them on which no top class is shared
    accuracies: tuple[float | None, float | None] = (None, None)
    quick: bool = True  # whether asked within seconds


def find_published(names: str | None, quick: bool = False) -> list[Published]:
    """The pairs named, separated by commas; all for None, or those that are quick.

    Raises `InputError` for unknown names, and where the figures that come with the files are missing.
    """
    pairs = {pair.name: pair for pair in _all_pairs()}
    if names is None:
        return [pair for pair in pairs.values() if pair.quick or not quick]
    unknown = [name for name in names.split(",") if name not in pairs]
    if unknown:
        raise InputError(f"--pairs must be some of {', '.join(pairs)}, got {unknown[0]!r}")
    return [pairs[name] for name in names.split(",")]


def _all_pairs() -> list[Published]:
    return [
        *_third_party("mnist_lenet-5", "mnist"),
        *_third_party("mnist_simplecnn", "mnist"),
        _diffchaser("lenet1", "mnist", 9),
        _diffchaser("lenet5", "mnist", 5),
        *_mlperf_tiny(),
        *_third_party("cifar-10_resnet20", "cifar10"),
        _diffchaser("resnet", "cifar10", 60),
        _akamaster(),
    ]


def _third_party(folder: str, data: str) -> list[Published]:
    """Each compressed form in both formats, and int8 beside the original in the other format."""
    path = bench_folder() / "models" / folder / "measured.json"
    if not path.is_file():
        raise InputError(f"expected published figures at {path}, found none; set DFLARE_BENCH")
    measured = json.loads(path.read_text(encoding="utf-8"))
    formats = [(form, ending, ending) for form in ("distilled", "pruned", "int8") for ending in ("onnx", "pt2")]
    pairs = []
    for form, first, second in (*formats, ("int8", "onnx", "pt2"), ("int8", "pt2", "onnx")):
        figures = measured[form if form in measured else f"{form}.{second}"]
        endings = first if first == second else f"{first}-{second}"
        pairs.append(
            Published(
                name=f"{folder}-{form}-{endings}",
                data=data,
                original=Model(f"{folder}/original.{first}"),
                compressed=Model(f"{folder}/{form}.{second}"),
                differing=figures["deviates_on_test"],
                accuracies=(measured["original"]["accuracy"], figures["accuracy"]),
                quick=data == "mnist",
            )
        )
    return pairs


def _diffchaser(name: str, data: str, differing: int) -> Published:
    interface = CENTRED if data == "cifar10" else Interface()
    models = [Model(f"diffchaser/{name}{end}.tflite", interface) for end in ("", "_quant")]
    return Published(f"diffchaser-{name}", data, *models, differing, quick=data == "mnist")


def _mlperf_tiny() -> list[Published]:
    """The float file beside the int8 one under each kernels, and the int8 one beside itself under others."""
    original = Model("mlperf_tiny/pretrainedResnet.tflite", Interface(range=(0, 255)))
    default, builtin, reference = (
        Model("mlperf_tiny/pretrainedResnet_quant.tflite", kernels=kernels)
        for kernels in ("default", "builtin", "reference")
    )
    return [
        Published("mlperf_tiny-default", "cifar10", original, default, 246, 206),
        Published("mlperf_tiny-builtin", "cifar10", original, builtin, quick=False),
        Published("mlperf_tiny-reference", "cifar10", original, reference, quick=False),
        Published("mlperf_tiny-int8-default-builtin", "cifar10", default, builtin, quick=False),
        Published("mlperf_tiny-int8-default-reference", "cifar10", default, reference, quick=False),
        Published("mlperf_tiny-int8-builtin-reference", "cifar10", builtin, reference, quick=False),
    ]


def _akamaster() -> Published:
    """A module:function with published weights beside the TorchScript file that is made of it."""
    models = [
        Model("akamaster/resnet20-12fca82f.th", IMAGENET, code="akamaster:resnet20", traced=traced)
        for traced in (False, True)
    ]
    return Published("akamaster-resnet20", "cifar10", *models, 0, 0, (0.9173, 0.9173), quick=False)
