"""What a run ran on: versions, processor, commit, and the models with what answers for them."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflare.hashing import file_hash as file_hash  # for those who hash other files of a run

if TYPE_CHECKING:
    from experiments.opening import Source

PACKAGES = (
    "dflare",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "numpy",
    "omegaconf",
    "tensorboard",
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
)


def environment(models: "Mapping[str, Path | Source]") -> dict[str, Any]:
    """Versions, processor with its flags, threads, determinism, commit of the code, and each model's fingerprint."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "threads": _threads(),
        "deterministic": _deterministic(),
        "commit": _commit(),
        "models": {name: fingerprint(model) for name, model in models.items()},
    }


def fingerprint(model: "Path | Source") -> dict[str, Any]:
    """What a model is (its fingerprint) and what answers for it: a file, or where the settings say it comes from.

    Opens the model to count what is in it; a program only where the source allows it.
    """
    import torch  # what is imported here brings it along

    from dflare.fingerprints.fingerprint import code_fingerprint, fingerprint
    from dflare.models.formats import sniff
    from experiments.opening import Source, answered_by

    source = Source(str(model)) if isinstance(model, Path) else model
    runtime, threads = answered_by(source, "default"), torch.get_num_threads()
    if source.file is None:
        return code_fingerprint(source.where, source.weights, runtime=runtime, threads=threads)
    form, allowed = sniff(source.file), source.allow_code
    return fingerprint(source.file, form, runtime=runtime, threads=threads, allow_code=allowed)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    found: dict[str, Any] = {"name": platform.processor() or platform.machine(), "flags": []}
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                found["name"] = value.strip()
            elif key.strip() in ("flags", "Features"):  # the latter on ARM
                wanted = ("avx", "amx", "fma", "sse4", "vnni", "f16c", "asimd", "sve", "sme", "i8mm", "bf16")
                found["flags"] = sorted(flag for flag in value.split() if any(part in flag for part in wanted))
                break
    return found


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _threads() -> dict[str, Any]:
    """How many threads torch uses, and what the environment says of it."""
    import torch

    named = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
    return {"torch": torch.get_num_threads(), **{name: os.environ.get(name) for name in named}}


def _deterministic() -> dict[str, Any]:
    """Whether torch is held to deterministic algorithms, and what bears on it on a GPU."""
    import torch

    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return answer.stdout.strip() or None
