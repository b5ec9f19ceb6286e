"""One's own models as the settings say where they are and how they are shown images."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflare.errors import InputError
from dflare.fingerprints.fingerprint import code_fingerprint, external_files
from dflare.hashing import file_hash
from dflare.models.formats import sniff
from dflare.models.interface import Interface
from dflare.models.origins import is_reference
from experiments.config import Models, ModelSettings, Pair

if TYPE_CHECKING:
    from dflare.classifiers import Classifier
    from dflare.models.opening import Opening
    from dflare.models.shown import Shown
    from repair.trainable import Scales, Trainable

ALLOW_CODE = "--allow-code"
"""The command line's leave to run programs that models are."""

AS_IT_SAYS = Interface()
"""Nothing is said of a model: its file decides how it is shown images."""

WHICH = ("original", "compressed")

HEAD_FILE = "head.npz"
"""What an output repair leaves in a folder: the head that stands behind the model handed in."""


@dataclass(frozen=True)
class Source:
    """Where one model of a pair comes from and how it is shown images."""

    where: str  # a file, or module:function
    interface: Interface = AS_IT_SAYS
    weights: Path | None = None  # of a module:function
    allow_code: bool = False
    head: Path | None = None  # of an output repair, behind the model
    program: Path | None = None  # the file that the user named, where this is a repaired copy of a program

    @property
    def file(self) -> Path | None:
        """The model's file; None for a function."""
        return None if is_reference(self.where) else Path(self.where)

    def at(self, path: Path) -> "Source":
        """Another file that is shown images like this one; for a head this very model with it behind."""
        if path.name == HEAD_FILE:
            return replace(self, head=path)
        program = self.program or (self.file if self.allow_code else None)
        return replace(self, where=str(path), weights=None, program=program)

    @property
    def opening(self) -> "Opening":
        """Leave to open it where it is a program."""
        from dflare.models.opening import Opening

        return Opening(allow_code=self.allow_code, program=self.program)

    def open(self, runtime: str = "default") -> "Classifier":
        """The model with its head, freshly opened, under the kernels of a runtime where its format has them.

        Raises `InputError` for what cannot be opened.
        """
        if self.head is None:
            return self.open_shown(runtime)
        from repair.outputs.repaired import corrected

        return corrected(self.open_shown(runtime), self.head)

    def open_shown(self, runtime: str = "default") -> "Shown":
        """The model without its head."""
        from dflare.models.opening import open_classifier
        from dflare.models.shown import Shown
        from dflare.models.usercode import call_reference

        path = self.file
        if path is None:
            model = call_reference(self.where, self.weights, self.allow_code)
            return Shown(model, self.interface, model.takes, f"the model of {self.where}")
        if self.weights is not None:
            raise InputError(f"models.*.weights are for a module:function, {path} is a file with weights of its own")
        kernels, leave = kernels_of(path, runtime), self.opening
        return open_classifier(
            path, self.interface, kernels=kernels, allow_code=leave.allow_code, program=leave.program
        )

    def open_trainable(self, scales: "Scales | None" = None) -> "Trainable":
        """The model's file opened for repair, with the scales that are to be trained (none).

        Raises `InputError` for what has no file or stays closed.
        """
        from repair.opening import open_trainable
        from repair.trainable import Scales

        if self.file is None:
            raise InputError(f"expected a model in a file, got {self.where}, which is opened in memory")
        return open_trainable(self.file, self.interface, scales or Scales.fixed, self.opening)

    def facts(self) -> list[Any]:
        """What its answers hang on, as plain JSON: hashes of its files, and how it is shown images."""
        path = self.file
        if path is None:
            code = code_fingerprint(self.where, self.weights)
            return [self.where, code["sha256"], code["external"], asdict(self.interface), *self._head_facts()]
        return [file_hash(path), external_files(path, sniff(path)), asdict(self.interface), *self._head_facts()]

    def _head_facts(self) -> list[str]:
        return [] if self.head is None else [file_hash(self.head)]

    def to_json(self) -> dict[str, Any]:
        """The source as plain JSON, which `from_json` takes back."""
        paths = {"weights": self.weights, "head": self.head, "program": self.program}
        return asdict(self) | {name: None if path is None else str(path) for name, path in paths.items()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Source":
        """The source that `to_json` wrote."""
        paths = {name: None if value[name] is None else Path(value[name]) for name in ("weights", "head", "program")}
        return Source(**value | {"interface": Interface(**value["interface"]), **paths})


def is_code(where: str) -> bool:
    """Whether opening a model means to run a program: a module:function, or a TorchScript file."""
    if is_reference(where):
        return True
    try:
        return sniff(Path(where)) == "torchscript"
    except InputError:
        return False  # which will be said where it is opened


def check_allowed(pair: Pair, allow_code: bool) -> None:
    """Raise `InputError` for a model that is a program without the command line's leave to run it."""
    for where in (pair.original, pair.compressed):
        if where is not None and not allow_code and is_code(where):
            raise InputError(f"{where} is code, which runs only with {ALLOW_CODE}")


def source_of(where: str, which: str, models: Models, allow_code: bool) -> Source:
    """The source of the model `which` (of `WHICH`) with its interface; raises `InputError` for a bad one."""
    own: ModelSettings = getattr(models, which)
    weights = own.weights or models.both.weights
    try:
        interface = interface_of(own).over(interface_of(models.both))
    except InputError as error:  # the two do not go together
        raise InputError(f"models.{which} with models.both: {error}") from error
    return Source(where, interface, None if weights is None else Path(weights), allow_code)


def interface_of(settings: ModelSettings, prefix: str = "models.*.") -> Interface:
    """The settings of a model as its interface; raises `InputError` that names `prefix` and the key."""
    try:
        return Interface(**{entry.name: getattr(settings, entry.name) for entry in fields(Interface)})
    except InputError as error:
        raise InputError(f"{prefix}{error}") from error


def answered_by(source: Source, runtime: str) -> str:
    """What answers for a model under a runtime: package, version and kernels, such as "onnxruntime 1.31.1"."""
    from dflare.models.opening import runtime_of

    if source.file is None:
        import torch

        return f"{source.where}, torch {torch.__version__}"
    return runtime_of(source.file, kernels_of(source.file, runtime))


def check_runtimes(runtimes: list[str], formats: list[str]) -> None:
    """Raise `InputError` for a runtime that no format of the pair's files has; no files: a pair in memory."""
    from dflare.models.opening import FORMATS

    right = list(dict.fromkeys(name for form in formats for name in FORMATS[form].kernels)) or ["default"]
    for name in runtimes:
        if name not in right:
            what = " and ".join(dict.fromkeys(FORMATS[form].ending for form in formats)) or "opened in memory"
            raise InputError(f"verify.runtimes must be of {', '.join(right)} for a pair {what}, got {name!r}")


def kernels_of(path: Path, runtime: str) -> str:
    """A file whose format lacks the runtime is asked as always: the two files of a pair may have two formats."""
    from dflare.models.opening import format_of

    return runtime if runtime in format_of(path).kernels else "default"
