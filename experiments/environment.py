"""What a run ran on: versions, processor, commit, and the models' files."""

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def environment(models: dict[str, Path]) -> dict[str, Any]:
    """Versions, processor with its flags, commit of the code, and each model file with its size and hash."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "commit": _commit(),
        "models": {name: fingerprint(path) for name, path in models.items()},
    }


def fingerprint(path: Path) -> dict[str, Any]:
    """Name, size in bytes and SHA-256 of a model file, and the runtime that answers for it."""
    from dflare.opening import runtime_of  # brings torch along

    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path), "runtime": runtime_of(path)}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
            elif key.strip() == "flags":
                wanted = ("avx", "amx", "fma", "sse4", "vnni", "f16c")
                found["flags"] = sorted(flag for flag in value.split() if any(part in flag for part in wanted))
                break
    return found


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return answer.stdout.strip() or None
