"""Real networks round differently at another batch size: that, and only that, may change what a chain finds."""

import os
from pathlib import Path

import pytest
import torch

from dflare.classifiers import ModelPair
from dflare.models.opening import open_classifier
from dflare.references import References
from dflare.search import Search
from dflare.seeds import Seeds, pixel_hash
from dflare.strategies import find_strategy, make_kernel
from experiments.data import load_data

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[3] / "shared"))
PAIR = BENCH / "models" / "mnist_lenet-5"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAIR.is_dir(), reason=f"needs the third-party pair in {PAIR}"),
]

SIZES = (1, 7, 256)


def fates(pair: ModelPair, strategy: str, seeds: Seeds, others: torch.Tensor, batch_size: int) -> dict[int, tuple]:
    """Ending, queries and last image of each chain, by seed."""
    references = References.ask(pair, others) if find_strategy(strategy).references else None
    search = Search(make_kernel(strategy, references=references), pair, pair, 0, 40, batch_size)
    return {
        seed: (ended.ending, int(queries), image.numpy().tobytes())
        for ended in search.run([seeds])
        for seed, queries, image in zip(
            ended.chains.seed.tolist(), ended.chains.queries, ended.chains.images, strict=True
        )
    }


@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
@pytest.mark.parametrize("strategy", ["dflare-released", "boundary"])
def test_at_least_99_of_100_seeds_end_the_same_whatever_the_batch_and_rounding_explains_the_rest(strategy, ending):
    pair = ModelPair(open_classifier(PAIR / f"original{ending}"), open_classifier(PAIR / f"distilled{ending}"))
    images = load_data("mnist", str(BENCH / "data")).test_images
    assert images is not None
    seeds = Seeds(images[:300], pixel_hash(images[:300]))
    found = [fates(pair, strategy, seeds, images[300:428], size) for size in SIZES]
    different = [seed for seed in found[0] if len({result[seed] for result in found}) > 1]
    assert len(different) <= 0.01 * len(seeds)
    whole = pair(images[:256])
    rounded = any(
        not torch.equal(scores, torch.cat(some))
        for size in SIZES
        for scores, some in zip(whole, zip(*map(pair, images[:256].split(size)), strict=True), strict=True)
    )
    assert rounded or not different, "the models answer the same in every batch, so nothing may change a chain"
