"""`.pt2` archives that would run code, take memory or show two faces: all are refused before torch sees them."""

import contextlib
import copy
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from dflare.errors import InputError
from dflare.models.exported import ExportedClassifier, load_program
from dflare.models.program_files import checked_program
from dflare.models.program_text import check_text

Members = dict[str, bytes]
MODEL, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


class Sums(nn.Module):
    """Two sums of pixels of images of any size, through a weight, a constant, a size and an operator of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.constant = torch.tensor([1.0, 2.0])

    def forward(self, images: Tensor) -> Tensor:
        flat = images.reshape(images.shape[0], 3 * images.shape[2] * images.shape[3])
        return torch.einsum("ni,j->nj", flat, self.weight * self.constant).float()


class Touch:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "model.pt2"
    sizes = {"images": {0: Dim("n", min=1, max=64), 2: Dim("h", min=2, max=64), 3: Dim("w", min=2, max=64)}}
    torch.export.save(torch.export.export(Sums(), (torch.ones(3, 3, 4, 5),), dynamic_shapes=sizes), path)
    return path


def altered(source: Path, target: Path, change: Callable[[Members], None]) -> Path:
    """A copy of an archive whose members, by name, have been changed."""
    with zipfile.ZipFile(source) as archive:
        members = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return target


def with_json(name: str, edit: Callable[[Any], None]) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        content = json.loads(members[name])
        edit(content)
        members[name] = json.dumps(content).encode()

    return change


def saved(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def attacks(spy: Path) -> dict[str, tuple[Callable[[Members], None], str]]:
    """What makes an honest archive a hostile one that creates the folder `spy`, and the reason it is refused for."""
    run = f"__import__('os').mkdir('{spy}')"
    pickled = saved(((Touch(spy),), {}))

    def pickled_weight(members: Members) -> None:
        with_json(WEIGHTS, lambda json: json["config"]["weight"].update(use_pickle=True))(members)
        members["data/weights/weight_0"] = pickled

    def object_constant(prefix: str) -> Callable[[Members], None]:
        def change(members: Members) -> None:
            entry = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            with_json(CONSTANTS, lambda json: json["config"].update(spy=entry))(members)
            members[f"data/constants/{prefix}0"] = pickle.dumps(Touch(spy))

        return change

    def node(**values: Any) -> Callable[[Members], None]:
        return with_json(MODEL, lambda json: json["graph_module"]["graph"]["nodes"][-1].update(values))

    def call(json: Any) -> None:
        text = {"name": "path", "arg": {"as_string": str(spy)}, "kind": 1}
        last = json["graph_module"]["graph"]["nodes"][-1]
        last.update(target="torch.serialization.os.mkdir", inputs=[text], is_hop_single_tensor_return=True)

    def size(json: Any) -> None:
        values = json["graph_module"]["graph"]["tensor_values"].values()
        sizes = [size for value in values for size in value["sizes"] if "as_expr" in size]
        sizes[0]["as_expr"]["expr_str"] = run

    def member(name: str, content: bytes) -> Callable[[Members], None]:
        return lambda members: members.update({name: content})

    tree = '[1, {"type": "os.mkdir", "context": "null", "children_spec": []}]'
    return {
        "example inputs": (member(INPUTS, pickled), "example inputs are a pickle"),
        "weights as a pickle": (pickled_weight, "keeps 'weight' as a pickle"),
        "weights of old archives": (member("data/weights/model.pt", pickled), "holds data/weights/model.pt"),
        "constants of old archives": (member("data/constants/model.pt", pickled), "holds data/constants/model.pt"),
        "an opaque object": (object_constant("opaque_obj_"), "holds data/constants/opaque_obj_0"),
        "a custom object": (object_constant("custom_obj_"), "holds data/constants/custom_obj_0"),
        "a compiled library": (member("data/aotinductor/model/a.so", b"\x7fELF"), "holds data/aotinductor/model/a.so"),
        "a size that is code": (with_json(MODEL, size), "is no size that is known"),
        "a condition that is code": (with_json(MODEL, lambda json: json.update(guards_code=[run])), "is no condition"),
        "a function that is no operator": (with_json(MODEL, call), "is no operator that is known"),
        "an operator that makes files": (node(target="torch.ops.aten.from_file.default"), "is no operator"),
        "an operator's inside": (node(target="torch.ops.aten.__class__.__init__"), "is no operator"),
        "a call of anything": (node(target="_operator.call"), "is no operator"),
        "a name that is code": (node(name=f"a = {run}\n    b"), "is no name that is known"),
        "a path that is code": (
            with_json(WEIGHTS, lambda json: json["config"].update({f'a"){run}("': json["config"]["weight"]})),
            "which is no tensor",
        ),
        "a nesting of classes": (
            with_json(
                MODEL, lambda json: json["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=tree)
            ),
            "is no nesting",
        ),
    }


NAMES = list(attacks(Path("spy")))


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_that_would_run_code_is_refused_and_runs_nothing(honest, tmp_path, name):
    change, words = attacks(tmp_path / "spy")[name]
    path = altered(honest, tmp_path / "hostile.pt2", change)
    with pytest.raises(InputError, match=words) as caught:
        ExportedClassifier(path)
    assert "hostile.pt2 is not opened: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "spy").exists()


@pytest.mark.filterwarnings("ignore")  # torch complains on its way into the trap
@pytest.mark.parametrize(
    "name",
    ["example inputs", "weights as a pickle", "an opaque object", "a size that is code", "a condition that is code"],
)
def test_torch_alone_would_have_run_it(honest, tmp_path, name):
    """Which is why these archives are hostile and the test above is one."""
    path = altered(honest, tmp_path / "hostile.pt2", attacks(tmp_path / "spy")[name][0])
    with contextlib.suppress(Exception):  # whatever comes after the deed
        torch.export.load(path).module()(torch.ones(3, 3, 4, 5))
    assert (tmp_path / "spy").is_dir()


def test_an_honest_archive_is_read_as_torch_reads_it(honest, tmp_path):
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    path = altered(honest, tmp_path / "copy.pt2", lambda members: None)
    assert torch.equal(load_program(path).module()(images), torch.export.load(honest).module()(images))
    assert str(load_program(honest)) == str(torch.export.load(honest))


def test_what_is_loaded_can_be_saved_and_checked_again(honest, tmp_path):
    torch.export.save(load_program(honest), tmp_path / "again.pt2")
    assert load_program(tmp_path / "again.pt2").graph_module.code == load_program(honest).graph_module.code


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.GELU("tanh"), nn.Flatten()).eval(),
        nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)
        ),
        nn.Flatten(),
    ],
    ids=["convolution", "resizing", "flat"],
)
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
def test_ordinary_networks_pass(tmp_path, module, free):
    shapes = ({0: Dim("n", min=1, max=99)},) if free else None
    program = torch.export.export(module, (torch.ones(2, 3, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "m.pt2")
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ExportedClassifier(tmp_path / "m.pt2")(images), module(images))


def test_a_compressed_member_is_refused_before_it_is_unpacked(honest, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/archive_format", b"pt2")
        archive.writestr("model/data/weights/weight_0", bytes(10**7))
    with pytest.raises(InputError, match=r"archive_format in it is compressed"):
        checked_program(tmp_path / "bomb.pt2")


def test_an_archive_that_claims_more_than_it_holds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/archive_format", b"pt2")
        archive.writestr("model/data/weights/weight_0", bytes(10**8))
    with pytest.raises(InputError, match="claims to hold 100000003 bytes"):
        checked_program(tmp_path / "bomb.pt2")


def test_empty_weights_that_claim_a_terabyte_are_refused(honest, tmp_path):
    def change(members: Members) -> None:
        def edit(content: Any) -> None:
            content["config"]["weight"]["tensor_meta"]["sizes"] = [{"as_int": 2**38}]

        with_json(WEIGHTS, edit)(members)
        members["data/weights/weight_0"] = b""

    with pytest.raises(InputError, match="'weight' in it has another size than it claims"):
        checked_program(altered(honest, tmp_path / "m.pt2", change))


@pytest.mark.parametrize("name", ["data/weights/weight_0", "data/weights/WEIGHT_0"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(honest, tmp_path, name):
    path = altered(honest, tmp_path / "m.pt2", lambda members: None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"model/{name}", b"")
    with pytest.raises(InputError, match="two members of one name"):
        checked_program(path)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, CONSTANTS, "data/weights/weight_0"])
def test_a_missing_member_is_named(honest, tmp_path, name):
    with pytest.raises(InputError, match=r"is missing in it"):
        checked_program(altered(honest, tmp_path / "m.pt2", lambda members: members.pop(name)))


def test_archives_of_old_torch_are_answered_with_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", b"{}")
    with pytest.raises(InputError, match=r"torch 2\.7 or older; save it again with torch\.export\.save"):
        checked_program(tmp_path / "m.pt2")


SYMBOL = "Symbol('s0', positive=True, integer=True)"


@pytest.mark.parametrize(
    ("key", "text", "fine"),
    [
        ("expr_str", SYMBOL, True),
        ("expr_str", f"Mul(Integer(3), FloorDiv({SYMBOL}, Integer(2)))", True),
        ("expr_str", f"Add(Pow({SYMBOL}, Integer(2)), Integer(-1))", True),
        ("expr_str", "Pow(Integer(9), Pow(Integer(9), Integer(9)))", False),
        ("expr_str", "9**9", False),
        ("expr_str", "Symbol('s0').__class__", False),
        ("expr_str", "eval('1')", False),
        ("expr_str", "'a'eval('1')", False),
        ("expr_str", "Symbol(" * 900, False),
        ("guards_code", "L['args'][0].size()[1] == 3", True),
        ("guards_code", "L['images'].size()[0] <= 8 and 2 <= L['images'].size()[0]", True),
        ("guards_code", "Mod(L['x'].size()[2], 4) == 0", True),
        ("guards_code", "L['x'].__class__", False),
        ("guards_code", "exit()", False),
        ("guards_code", "9**9**9", False),
        ("target", "torch.ops.aten.relu.default", True),
        ("target", "torch.ops.aten.__and__.Tensor", True),
        ("target", "torch.ops.quantized_decomposed.dequantize_per_channel.default", True),
        ("target", "_operator.getitem", True),
        ("target", "torch.sym_max", True),
        ("target", "_operator.methodcaller", False),
        ("target", "torch.load", False),
        ("target", "torch.ops.load_library", False),
        ("target", "torch.ops.aten.relu.__init__", False),
        ("target", "torch.ops.aten.relu.default.__call__", False),
        ("target", "torch.ops.profiler._record_function_enter.default", False),
        ("as_operator", "torch.hub.load", False),
        ("name", "relu_1", True),
        ("name", "torch.load", False),
        ("fqn", "layer1.0.conv@1", True),
        ("fqn", "a'b", False),
        ("as_string", "ni,j->nj", True),
        ("in_spec", "[1, {", False),
        ("in_spec", "[" * 3000, False),
    ],
)
def test_words_of_a_graph_are_taken_only_where_they_are_known(key, text, fine):
    program = {"graph": [{key: [text] if key == "guards_code" else text}]}
    before = copy.deepcopy(program)
    if fine:
        check_text(program)
    else:
        with pytest.raises(ValueError, match="that is known to be harmless"):
            check_text(program)
    assert program == before
