"""One graph of two classifiers on images in [0, 1]: it answers as the two files do, with their preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dflare.errors import InputError
from dflare.models.interface import Interface

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from repair.properties.affine import read_graph  # noqa: E402
from repair.properties.products import ModelFile, product, run_product  # noqa: E402
from repair.properties.verifiable import agreement_claim  # noqa: E402
from repair.properties.vnnlib import read_vnnlib  # noqa: E402
from tests.repair.properties.small_classifier import save_classifier  # noqa: E402

SHAPE = (1, 4, 4)
IMAGES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def files(tmp_path: Path) -> tuple[ModelFile, ModelFile]:
    first, second = (save_classifier(tmp_path / f"{seed}.onnx", seed) for seed in (0, 1))
    return ModelFile(first), ModelFile(second)


def test_a_product_holds_the_scores_of_both_files(files: tuple[ModelFile, ModelFile]):
    made = product(files, SHAPE)
    wanted = torch.cat([file.open()(IMAGES) for file in files], dim=1)
    torch.testing.assert_close(run_product(made, IMAGES), wanted)
    assert [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim] == [1, *SHAPE]


def test_the_torch_graph_of_a_product_answers_as_onnx_runtime_does(files: tuple[ModelFile, ModelFile]):
    made = product(files, SHAPE)
    torch.testing.assert_close(read_graph(made, Path("product")).scores(IMAGES.flatten(1)), run_product(made, IMAGES))


def test_the_same_file_can_stand_on_both_sides(files: tuple[ModelFile, ModelFile]):
    scores = run_product(product([files[0], files[0]], SHAPE), IMAGES)
    assert torch.equal(scores[:, :3], scores[:, 3:])


def test_range_mean_std_and_classes_of_an_interface_are_part_of_the_graph(files: tuple[ModelFile, ModelFile]):
    shown = ModelFile(files[0].path, Interface(range=(-1, 3), mean=[0.2], std=[0.5], classes="2,0"))
    made = run_product(product([shown], SHAPE), IMAGES)
    torch.testing.assert_close(made, shown.open()(IMAGES))
    plain = files[0].open()(IMAGES)
    assert made.shape == (5, 2)
    assert not torch.allclose(made, plain[:, [2, 0]])


def test_a_last_softmax_is_left_off_and_the_order_of_the_scores_stays(tmp_path: Path):
    sure = ModelFile(save_classifier(tmp_path / "soft.onnx", softmax=True))
    raw = ModelFile(save_classifier(tmp_path / "raw.onnx"))
    made = product([sure], SHAPE)
    assert "Softmax" not in {node.op_type for node in made.graph.node}
    torch.testing.assert_close(run_product(made, IMAGES), raw.open()(IMAGES))


def test_images_of_another_size_are_refused(files: tuple[ModelFile, ModelFile]):
    with pytest.raises(InputError, match="needs images of its own size and channels, 1 x 4 x 4, got 1 x 8 x 8"):
        product(files, (1, 8, 8))


def test_an_exported_claim_is_read_back_with_its_box_inside_the_pixels_range(
    files: tuple[ModelFile, ModelFile], tmp_path: Path
):
    image = torch.zeros(SHAPE, dtype=torch.uint8)
    image[0, 0, 0], image[0, 1, 1] = 255, 128
    claim = agreement_claim(*files, image, 0.1, "agreement-0")
    network, text = claim.export(tmp_path / "claims")
    wanted = read_vnnlib(text)
    assert (text.name, wanted.inputs, wanted.outputs, len(wanted.cases)) == ("agreement-0.vnnlib", 16, 6, 1)
    low, high = wanted.cases[0].box.low, wanted.cases[0].box.high
    np.testing.assert_allclose(low[[0, 1, 5]], [0.9, 0.0, 128 / 255 - 0.1], atol=1e-7)
    np.testing.assert_allclose(high[[0, 1, 5]], [1.0, 0.1, 128 / 255 + 0.1], atol=1e-7)
    assert len(wanted.cases[0].unsafe) == 3 * 2
    onnx.checker.check_model(onnx.load(network))
    inputs = wanted.sample(200, torch.Generator().manual_seed(0))
    scores = run_product(onnx.load(network), inputs)
    deviates = scores[:, :3].argmax(1) != scores[:, 3:].argmax(1)
    assert torch.equal(wanted.violated(inputs, scores), deviates)


def test_an_image_that_is_no_uint8_is_refused(files: tuple[ModelFile, ModelFile]):
    with pytest.raises(InputError, match="image must be uint8"):
        agreement_claim(*files, torch.zeros(SHAPE), 0.1, "wrong")
