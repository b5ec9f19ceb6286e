"""Settings of the process as a whole."""

import os

from experiments.config import Config


def prepare(settings: Config, workers: int = 1) -> None:
    """Set torch's threads, the cores shared with so many workers, and make its kernels deterministic.

    Waiting threads sleep instead of spinning: two busy processes on two cores would otherwise take turns waiting for
    each other, and the small models here gain nothing from spinning. OpenMP reads that when torch is first imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // workers))
    torch.use_deterministic_algorithms(True)
