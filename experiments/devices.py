"""Where the models of a run compute: which device, what is put there, and what stays behind."""

import sys
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

from dflare.classifiers import Classifier
from dflare.errors import InputError
from dflare.models.placement import place


def device_of(accelerator: str, local_rank: int = 0) -> torch.device:
    """The device for `trainer.accelerator` (auto, cpu, gpu) and the worker's number on its node.

    A GPU is one that torch calls cuda (NVIDIA's, or AMD's with a torch for ROCm). `auto` takes one where there is
    one. Workers beyond the number of GPUs share them. Raises `InputError` for `gpu` where torch can use none.
    """
    if accelerator == "cpu":
        return torch.device("cpu")
    count, why = usable_gpus()
    if count:
        return torch.device("cuda", local_rank % count)
    if accelerator == "gpu":
        raise InputError(
            f"trainer.accelerator=gpu needs a GPU that torch can use, found none: {why}; "
            "set trainer.accelerator=cpu, or auto to use one only where it is"
        )
    return torch.device("cpu")


def usable_gpus() -> tuple[int, str]:
    """How many GPUs torch can use in this process; for none also why, half a sentence."""
    if torch.version.cuda is None and torch.version.hip is None:
        return 0, f"torch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings(record=True) as said:  # torch warns of a driver that is too old
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count:
            return count, ""
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return 0, _first_sentence(str(error))
    return 0, _first_sentence(str(said[0].message)) if said else "no GPU is visible to this process"


def describe(device: torch.device) -> dict[str, Any]:
    """The device in use as plain JSON, for `environment.json`."""
    if device.type != "cuda":
        return {"device": str(device)}
    found = torch.cuda.get_device_properties(device)
    return {
        "device": str(device),
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "bytes": found.total_memory,
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }


@dataclass
class Placer:
    """Puts the models of a run on its device, and says once of each that stays on the CPU why."""

    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)
    stays: dict[str, str] = field(default_factory=dict)  # which model -> why

    def __call__(self, classifier: Classifier, which: str) -> Classifier:
        """The classifier on the device, or as it is; `which` is original or compressed."""

        def tell(why: str) -> None:
            if which not in self.stays:
                self.stays[which] = why
                print(f"dflare: the {which} model stays on the CPU: {why}", file=sys.stderr)

        return place(classifier, self.device, tell)


def _first_sentence(text: str) -> str:
    return text.strip().split("\n")[0].split(". ")[0].rstrip(".") or "torch does not say why"
