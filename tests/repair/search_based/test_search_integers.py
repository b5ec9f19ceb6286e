"""Searches on an int8 file: what is found lies on its grids, and the written file answers as what was judged."""

from pathlib import Path

import pytest
import torch

onnx = pytest.importorskip("onnx")

from dflare.models.opening import open_classifier  # noqa: E402
from repair.data import Examples  # noqa: E402
from repair.opening import open_trainable  # noqa: E402
from repair.search_based.candidates import Candidates  # noqa: E402
from repair.search_based.fitting import METHODS, Task, fit_search  # noqa: E402
from repair.search_based.retraining import scores_of, set_weights  # noqa: E402
from repair.search_based.sample import NEGATIVES, agrees  # noqa: E402
from repair.trainable import Trainable  # noqa: E402
from tests.repair.rounded_net import net, pixels, save, stored_in  # noqa: E402


def said(trainable: Trainable, n: int, seed: int, noise: float) -> Examples:
    """Images with an original's probabilities that differ from the model's own by noise."""
    images = pixels(n, seed)
    scores = scores_of(trainable, Examples(images, torch.zeros(n, 3)))
    return Examples(
        images, (scores + noise * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))).softmax(-1)
    )


def case(folder: Path, steps: int) -> Task:
    trainable = open_trainable(save(net(), folder / "int8.onnx"))
    found = said(trainable, 150, 1, 3.0)
    wrong = ~agrees(trainable, found)
    triggers = Examples(found.images[wrong], found.targets[wrong])
    return Task(trainable, triggers, said(trainable, 80, 2, 0.0), steps, 16, 0.5, 1e-3, 0)


def test_graphs_that_round_are_run_one_after_the_other(tmp_path: Path):
    given = case(tmp_path, 1)
    candidates = Candidates(given.trainable, ["conv_w"], given.clean.images)
    assert not candidates.batched
    known = candidates.known(given.clean)
    scores = candidates.scores(known, {"conv_w": candidates.start()["conv_w"].expand(2, -1, -1, -1, -1)})
    assert torch.equal(scores[0], scores_of(given.trainable, given.clean))
    assert torch.equal(scores[1], scores[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_is_still_the_same_graph_of_integers(method: str, tmp_path: Path):
    given = case(tmp_path, 4)
    assert 0 < len(given.triggers) <= NEGATIVES
    fitted = fit_search(method, given)
    given.trainable.write(fitted.weights, tmp_path / "new.onnx")
    given.trainable.check(tmp_path / "new.onnx")
    types = [
        {name: value.dtype for name, value in stored_in(onnx.load(tmp_path / file)).items()}
        for file in ("int8.onnx", "new.onnx")
    ]
    assert types[0] == types[1]
    set_weights(given.trainable, fitted.weights)
    judged = scores_of(given.trainable, given.clean)
    assert torch.allclose(open_classifier(tmp_path / "new.onnx")(given.clean.images / 255), judged, atol=1e-4)
