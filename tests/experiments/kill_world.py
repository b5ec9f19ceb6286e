"""A search in a process of its own that a test may stop at any moment: a closed-form pair, slow enough to be hit."""

import os
import time
from pathlib import Path

import torch
from torch import Tensor

from dflare.seeds import Seeds, pixel_hash
from dflare.triggers import Side
from experiments.config import Config
from experiments.searching import search_side
from experiments.subject import Subject

SEEDS = 120


class Brightness:
    """Says class 1 when the grey levels sum up to more than the threshold, after a little while."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        time.sleep(0.0005)
        margin = ((images * 255).round().sum((1, 2, 3)) - self.threshold) / 400
        return torch.stack([-margin, margin], dim=-1)


def search(folder: Path, strategy: str) -> None:
    """Search the judge side of the toy world into the folder, continuing what is there."""
    torch.set_num_threads(1)
    os.environ["NO_COLOR"] = "1"
    images = torch.randint(0, 250, (SEEDS, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sides = {Side.judge: Seeds(images, pixel_hash(images))}
    subject = Subject("toy", lambda: Brightness(8160), lambda: Brightness(8000), {}, sides, ("dark", "bright"))
    settings = Config()
    settings.search.strategy, settings.search.judge_seeds, settings.search.batch_size = strategy, SEEDS, 6
    settings.search.max_queries = 40
    search_side(subject, settings, None, folder, Side.judge, 5, "search")
