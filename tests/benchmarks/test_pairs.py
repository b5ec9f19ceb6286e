"""The pairs of $DFLARE_BENCH: asked directly they say what they say through dflare."""

import numpy as np
import pytest

import pairs
from dflare.errors import InputError
from sequential import one_at_a_time

needs_bench = pytest.mark.skipif(
    not (pairs.bench_folder() / "models").is_dir(), reason="no models under $DFLARE_BENCH (default ../shared)"
)


@needs_bench
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mnist_lenet-5-int8", "cifar-10_resnet20-pruned", "diffchaser-lenet1", "diffchaser-resnet"]
)
def test_a_pair_asked_directly_answers_as_through_its_classifiers(name: str) -> None:
    kind = pairs.PAIRS[name]
    directly, through = pairs.open_alone(kind), one_at_a_time(pairs.open_pair(kind))
    for image in pairs._images(kind.data)[1][:20].permute(0, 2, 3, 1).contiguous().numpy():
        first, second = directly(image), through(image)
        assert np.allclose(first.joint, second.joint, atol=1e-5)
        assert first.original.argmax() == second.original.argmax()
        assert first.compressed.argmax() == second.compressed.argmax()


@needs_bench
@pytest.mark.slow
def test_seeds_are_the_first_test_images_on_which_the_pair_agrees() -> None:
    kind = pairs.PAIRS["mnist_lenet-5-distilled"]
    subject = pairs.open_subject(kind, 500)
    images = pairs._images("mnist")[1]
    original, compressed = subject.pair(images[:1000]).labels
    agreed = (original == compressed).nonzero().squeeze(1)[:500]
    assert len(agreed) < int(agreed[-1]) + 1, "some image must have been passed over"
    assert (subject.seeds.images == images[agreed]).all()


def test_every_pair_is_known_by_its_name_and_an_unknown_one_is_refused() -> None:
    assert len(pairs.find_kinds(None)) == len(pairs.PAIRS) == 12
    assert [kind.name for kind in pairs.find_kinds("diffchaser-lenet1,mnist_simplecnn-int8")] == [
        "diffchaser-lenet1",
        "mnist_simplecnn-int8",
    ]
    with pytest.raises(InputError, match=r"--pairs must be some of .*diffchaser-lenet1.*, got 'lenet9'"):
        pairs.find_kinds("lenet9")
