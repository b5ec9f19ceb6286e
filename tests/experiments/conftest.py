"""A toy pair on toy images: three classes told by colour, and a compressed model that looks at some of the pixels.

Small enough that the whole loop takes seconds. The models sum row by row, so that their answers are the same to the
last bit whatever the batch: what is left to differ between two runs is the code under test.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from experiments.compress import save_exported
from experiments.main import main

SIZE = 8  # pixels a side
SHAPE = (3, SIZE, SIZE)


class Linear(nn.Module):
    """Scores (n, classes) = weight (classes, values) . images + bias."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1)[:, None] * self.weight).sum(-1) + self.bias


def colour_weights() -> Tensor:
    """Score k is 20 times the mean of colour k, (classes, values)."""
    return torch.eye(3).repeat_interleave(SIZE * SIZE, 1) * 20 / (SIZE * SIZE)


def pruned() -> nn.Module:
    """The original without a third of its weights and with a bias worth 6 grey levels, which can be learnt away."""
    kept = torch.rand(3, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(0)) < 0.67
    weight = colour_weights() * kept
    return Linear(weight * 20 / weight.sum(-1, keepdim=True), torch.tensor([0.45, 0.0, -0.15]))


@dataclass(frozen=True)
class Toys:
    """Where the toy models and images lie."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def model(self, name: str) -> Path:
        """One of the models that `toys` made."""
        return self.folder / f"{name}.pt2"

    def save(self, name: str, model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> None:
        """Make another model."""
        save_exported(model, shape, self.model(name))

    def settings(self, run_dir: Path, **changes: Any) -> list[str]:
        """`key=value` arguments of a run of seconds; `changes` has `__` for the dot."""
        settings = {
            "pair.original": self.model("original"),
            "pair.compressed": self.model("pruned"),
            "data.name": "imagefolder",
            "data.root": self.images,
            "search.seeds": 12,
            "search.validate_seeds": 6,
            "search.judge_seeds": 8,
            "search.max_queries": 40,
            "search.batch_size": 8,
            "search.other_strategy": None,
            "verify.runtimes": "[]",  # a process of its own, seconds each time
            "repair.steps": 20,
            "repair.batch_size": 16,
            "repair.validate_every": 10,
            "repair.learning_rate": 0.03,
            "probe.images": 50,
            "gate.max_drawdown": 0.5,
            "threads": 1,
            "run_dir": run_dir,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        return [f"{key}={'null' if value is None else value}" for key, value in settings.items()]


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    """The original, its pruned form and 120 images of three classes in folders."""
    made = Toys(tmp_path_factory.mktemp("toys"))
    made.save("original", Linear(colour_weights(), torch.zeros(3)))
    made.save("pruned", pruned())
    save_images(made.images, 120)
    return made


@pytest.fixture(scope="session")
def finished(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two rounds. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with as_before(), redirect_stdout(StringIO()):
        assert main(["loop", *toys.settings(folder, loop__rounds=2, verify__runtimes="[default]")]) == 0
    return folder


def save_images(folder: Path, count: int) -> None:
    """PNG files folder/<class>/<number>.png: noise whose colour of the class is 2 to 25 grey levels brighter."""
    generator = np.random.default_rng(0)
    for number in range(count):
        name = ("0-red", "1-green", "2-blue")[number % 3]
        pixels = generator.uniform(60, 180, (SIZE, SIZE, 3))
        pixels = pixels - pixels.mean((0, 1)) + 120 + np.eye(3)[number % 3] * generator.uniform(2, 25)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


@dataclass(frozen=True)
class Answer:
    """What a call of the command line came to."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def dflare(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """The command line in this process: `dflare("loop", *settings)`."""

    def call(*arguments: str) -> Answer:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        return Answer(code, *capsys.readouterr())

    with as_before():
        yield call


@contextmanager
def as_before() -> Iterator[None]:
    """Leave torch as it was: a run sets its threads and its determinism for the whole process."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def own_settings() -> Iterator[None]:
    """For a test that changes torch's settings of the whole process."""
    with as_before():
        yield


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def start() -> Start:
    """Start the installed console script in a process of its own: `start("loop", *settings)`."""
    script = shutil.which("dflare", path=os.fspath(Path(sys.executable).parent))
    assert script is not None, "the project must be installed: pip install --editable ."

    def popen(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [script, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    return popen


@pytest.fixture
def console(start: Start) -> Call:
    """The installed console script from start to end: `console("--help")`."""

    def call(*arguments: str, **environment: str) -> Answer:
        process = start(*arguments, **environment)
        out, err = process.communicate(timeout=300)
        return Answer(process.returncode, out, err)

    return call
