"""Settings of the process as a whole."""

import os

from experiments.config import Config


def prepare(settings: Config) -> None:
    """Set torch's threads and make its kernels deterministic."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    torch.use_deterministic_algorithms(True)
