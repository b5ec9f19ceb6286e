"""ONNX files that claim what they do not hold, point elsewhere or need somebody's library: all are refused unread."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: E402

from dflare.models import onnx_files  # noqa: E402
from dflare.models.onnx_files import image_input, read_onnx  # noqa: E402
from dflare.models.onnx_limits import BITS  # noqa: E402


def with_tensor(tensor: TensorProto, place: str = "graph") -> ModelProto:
    """A model that holds a tensor: in its graph, in a node, in a subgraph, or in a function of its own."""
    nodes, stored, functions = [helper.make_node("Flatten", ["images"], ["scores"])], [], []
    constant = helper.make_node("Constant", [], ["constant"], value=tensor)
    if place == "graph":
        stored = [tensor]
    elif place == "node":
        nodes.append(constant)
    elif place == "subgraph":
        inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("inside", 1, None)], [tensor])
        deeper = helper.make_graph([helper.make_node("If", ["yes"], ["z"], then_branch=inner)], "deeper", [], [])
        nodes.append(helper.make_node("If", ["yes"], ["out"], then_branch=deeper))
    else:
        imports = [helper.make_opsetid("", 18)]
        functions = [helper.make_function("own", "F", [], ["constant"], [constant], imports)]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 2, 2])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 12])
    graph = helper.make_graph(nodes, "g", [images], [scores], stored)
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], functions=functions)
    return model


def four(name: str = "weight") -> TensorProto:
    tensor: TensorProto = numpy_helper.from_array(np.zeros(4, np.float32), name)
    return tensor


def external(location: str, **said: object) -> TensorProto:
    tensor = four()
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **said}.items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.ClearField("raw_data")
    return tensor


def written(path: Path, tensor: TensorProto, place: str = "graph") -> Path:
    path.write_bytes(with_tensor(tensor, place).SerializeToString())
    return path


PLACES = ["graph", "node", "subgraph", "function"]


@pytest.mark.parametrize("place", PLACES)
def test_tensors_that_are_what_they_claim_pass(tmp_path, place):
    assert read_onnx(written(tmp_path / "m.onnx", four(), place)).graph.name == "g"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sizes", [[5], [2, 3], [2**31, 2**31, 2**31], [-4], [2**40], [0]])
def test_a_tensor_of_other_sizes_than_its_numbers_is_refused_wherever_it_lies(tmp_path, place, sizes):
    tensor = four()
    tensor.dims[:] = sizes
    with pytest.raises(InputError, match=r"holds 'weight' of (impossible )?sizes \["):
        read_onnx(written(tmp_path / "m.onnx", tensor, place))


@pytest.mark.parametrize("element", sorted(set(BITS) - {8}))
def test_every_element_type_is_counted_as_onnx_writes_it(tmp_path, element):
    tensor = helper.make_tensor("weight", element, [3], [0, 1, 0])
    read_onnx(written(tmp_path / "listed.onnx", tensor))
    size = (3 * BITS[element] + 7) // 8
    read_onnx(written(tmp_path / "raw.onnx", helper.make_tensor("weight", element, [3], bytes(size), raw=True)))
    tensor.dims[:] = [30]
    with pytest.raises(InputError, match="but not as many numbers"):
        read_onnx(written(tmp_path / "listed.onnx", tensor))
    tensor = helper.make_tensor("weight", element, [3], bytes(size), raw=True)
    tensor.raw_data += b"\0"
    with pytest.raises(InputError, match="but not as many numbers"):
        read_onnx(written(tmp_path / "raw.onnx", tensor))


def test_text_scalars_and_empty_tensors_pass(tmp_path):
    for tensor in (
        helper.make_tensor("weight", TensorProto.STRING, [2], [b"a", b"b"]),
        numpy_helper.from_array(np.float32(1), "weight"),
        numpy_helper.from_array(np.zeros((0, 3), np.float32), "weight"),
    ):
        read_onnx(written(tmp_path / "m.onnx", tensor))


def test_an_unknown_element_type_is_refused(tmp_path):
    tensor = four()
    tensor.data_type = 99
    with pytest.raises(InputError, match="unknown element type 99"):
        read_onnx(written(tmp_path / "m.onnx", tensor))


def test_a_sparse_tensor_that_would_fill_the_memory_is_refused(tmp_path):
    model = with_tensor(four())
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.int64([0]), "indices"))
    for sizes, fine in (([100, 100], True), ([10**6, 10**6], False), ([-1], False)):
        sparse.dims[:] = sizes
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        if fine:
            read_onnx(tmp_path / "m.onnx")
        else:
            with pytest.raises(InputError, match="a sparse tensor must have at most"):
                read_onnx(tmp_path / "m.onnx")


# weights beside the file


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", ""])
def test_weights_outside_the_folder_are_refused(tmp_path, location, place):
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "models" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InputError, match="must lie in its own folder"):
        read_onnx(written(tmp_path / "models" / "model.onnx", external(location), place))


@pytest.mark.parametrize("location", ["model.data", "*/_ORT_MEM_ADDR_/*"])
def test_weights_that_are_missing_beside_the_file_are_named(tmp_path, location):
    with pytest.raises(InputError, match=r"keeps weights in .*, expected beside it, found none"):
        read_onnx(written(tmp_path / "model.onnx", external(location)))


@pytest.mark.parametrize("said", [{}, {"offset": 8}, {"offset": 0, "length": 16}, {"offset": 8, "length": 16}])
def test_weights_beside_the_file_pass_where_they_are_all_there(tmp_path, said):
    (tmp_path / "w.bin").write_bytes(bytes(24))
    read_onnx(written(tmp_path / "m.onnx", external("w.bin", **said)))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"offset": 16, "length": 16}, "in bytes 16 to 32 of w.bin, which has 24; it is cut off"),
        ({"offset": 16}, "but not as many numbers"),
        ({"length": 12}, "but not as many numbers"),
        ({"length": 2**60}, "which has 24"),
        ({"offset": -8, "length": 16}, "in bytes -8 to 8"),
        ({"offset": 30}, "which has 24"),
        ({"offset": "many"}, "which is no place"),
    ],
)
def test_weights_beside_the_file_that_are_not_all_there_are_refused(tmp_path, said, words):
    (tmp_path / "w.bin").write_bytes(bytes(24))
    with pytest.raises(InputError, match=words):
        read_onnx(written(tmp_path / "m.onnx", external("w.bin", **said)))


# operators, depth, size


@pytest.mark.parametrize("deep", [False, True])
def test_an_operator_of_somebodys_library_is_refused_by_name(tmp_path, deep):
    model = with_tensor(four())
    node = helper.make_node("Magic", ["images"], ["y"], domain="com.evil")
    if deep:
        inner = helper.make_graph([node], "inner", [], [])
        node = helper.make_node("If", ["yes"], ["out"], then_branch=inner)
    model.graph.node.append(node)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"needs the operator Magic of com\.evil, which comes with a library"):
        read_onnx(tmp_path / "m.onnx")


def test_operators_of_the_runtime_and_functions_of_the_model_itself_pass(tmp_path):
    model = with_tensor(four(), "function")
    model.graph.node.append(helper.make_node("F", [], ["y"], domain="own"))
    model.graph.node.append(helper.make_node("FusedConv", ["images"], ["z"], domain="com.microsoft"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert len(read_onnx(tmp_path / "m.onnx").graph.node) == 3


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer: its tag, its length in groups of 7 bits, its bytes."""
    length, digits = len(content), []
    while length >= 128:
        digits.append(length % 128 + 128)
        length //= 128
    return bytes([number << 3 | 2, *digits, length]) + content


@pytest.mark.parametrize(("depth", "fine"), [(10, True), (60, False), (3000, False)])
def test_subgraphs_are_nested_to_a_limit(tmp_path, depth, fine):
    graph = b""
    for _ in range(depth):
        node = helper.make_node("If", ["yes"], ["out"]).SerializeToString()
        graph = field(1, node + field(5, field(1, b"then_branch") + field(6, graph)))
    # a second graph is merged into the first
    (tmp_path / "m.onnx").write_bytes(with_tensor(four()).SerializeToString() + field(7, graph))
    if fine:
        assert len(read_onnx(tmp_path / "m.onnx").graph.node) == 2
    else:
        with pytest.raises(InputError, match="but the file is none or is cut off"):
            read_onnx(tmp_path / "m.onnx")


def test_a_file_larger_than_protocol_buffers_allow_is_refused_unread(tmp_path, monkeypatch):
    path = written(tmp_path / "m.onnx", four())
    monkeypatch.setattr(onnx_files, "MOST_BYTES", path.stat().st_size)
    read_onnx(path)
    monkeypatch.setattr(onnx_files, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"must have at most .* save the model with its weights beside it"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda model: model.graph.ClearField("node"), "holds no graph"),
        (lambda model: model.graph.ClearField("output"), "holds no graph"),
        (lambda model: model.ClearField("opset_import"), "holds no graph"),
    ],
)
def test_a_model_without_a_graph_is_refused(tmp_path, edit: Callable[[ModelProto], None], words):
    model = with_tensor(four())
    edit(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=words):
        read_onnx(tmp_path / "m.onnx")


def test_an_input_that_is_stored_as_well_is_no_input(tmp_path):
    model = with_tensor(four())
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4]))
    assert image_input(model, tmp_path / "m.onnx").name == "images"
