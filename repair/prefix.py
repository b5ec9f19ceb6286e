"""The frozen beginning of a model, run once over all images: a training of late weights starts from what it gave.

A recipe that frees late weights only (`free: last`, often `responsible:k`) leaves all before the first of them as it
is, so this part makes the same of an image at every step. Its activations are kept in memory, and what is trained is
the rest. Weights come out as without it, up to the rounding of other batch sizes.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from repair.compression import Compressed, followed_by
from repair.data import Examples, RepairData
from repair.split import Split
from repair.trainable import Trainable

LIMIT = 2**30
"""Bytes of activations that are kept at most; where a training needs more, it runs the whole model at every step."""

CHUNK = 200
"""Images that are run at once; which image is in which chunk depends on its number alone."""


class Continued(Compressed):
    """A compressed model that is shown what its own frozen beginning made of images, (n, k); the same parameters."""

    def __init__(self, trainable: Trainable, split: Split) -> None:
        super().__init__(trainable.module, trainable.plan, trainable.shown)
        self._read = trainable.shown(trainable.module).read
        self._after = (_compressed(trainable, split.after, split.reads[1]),)  # in a tuple: no parameters of its own

    def forward(self, images: Tensor) -> Tensor:
        return self._read(self._after[0](images))


def with_prefix(
    trainable: Trainable, free: Collection[str], data: RepairData, steps: int, validate: bool
) -> tuple[Compressed, RepairData]:
    """The student to train and the data to train it on, for `steps` steps: from activations, where that can be.

    Where there is no frozen beginning, in models that are not cut (`SPLITTERS`) and where the activations would take
    more than `LIMIT` bytes, the whole model and the images themselves.
    """
    whole = Compressed(trainable.module, trainable.plan, trainable.shown)
    sides = [data.mixture.triggers, data.mixture.clean, *(data.validate if validate else ())]
    shown = next(side for side in sides if len(side)).values(slice(0, 3))
    split = _split(trainable, free, trainable.shown(trainable.module).show(shown))
    if split is None:
        return whole, data
    before = _compressed(trainable, split.before, split.reads[0])
    run = _from_images(trainable, before)
    width = run(shown[:1]).shape[1]
    if sum(map(len, sides)) * width * torch.float32.itemsize > LIMIT:
        return whole, data
    student = Continued(trainable, split)
    if not _same(whole(shown), student(run(shown))):
        return whole, data
    seen = [*data.mixture.seen(steps), *(torch.arange(len(side)) for side in sides[2:])]
    kept = [_kept(side, rows, run, width) for side, rows in zip(sides, seen, strict=True)]
    cached = copy.copy(data)
    cached.mixture = data.mixture.showing(kept[0], kept[1])
    if validate:
        cached.validate = (kept[2], kept[3])
    return student, cached


def _split(trainable: Trainable, free: Collection[str], values: Tensor) -> Split | None:
    find = SPLITTERS.get(type(trainable.module).__name__)
    if find is None or len(values) < 3:
        return None
    moving = set(free) | {name for name, each in trainable.plan.items() if set(followed_by(each)) & set(free)}
    split = find(trainable.module, moving, values)
    if split is None:
        return None
    for part, reads in zip((split.before, split.after), split.reads, strict=True):
        needed = {other for name in reads & set(trainable.plan) for other in followed_by(trainable.plan[name])}
        if needed - {name for name, _ in part.named_parameters()}:
            return None
    return split


def _exported(module: nn.Module, moving: Collection[str], values: Tensor) -> Split | None:
    from repair.pt2_models.splitting import Exported, split_exported

    assert isinstance(module, Exported)
    return split_exported(module, moving, values)


def _onnx(module: nn.Module, moving: Collection[str], values: Tensor) -> Split | None:
    from repair.onnx_models.splitting import OnnxModule, split_onnx

    assert isinstance(module, OnnxModule)
    return split_onnx(module, moving, values)


SPLITTERS: dict[str, Callable[[nn.Module, Collection[str], Tensor], Split | None]] = {
    "Exported": _exported,
    "OnnxModule": _onnx,
}
"""Class of a `Trainable`'s module -> how it is cut in two, given the names of the weights that move and 3 images."""


def _compressed(trainable: Trainable, part: nn.Module, reads: frozenset[str]) -> Compressed:
    """A part of the model that computes with its projected weights; what it does not read is not projected."""
    used = reads | {other for name in reads & set(trainable.plan) for other in followed_by(trainable.plan[name])}
    return Compressed(part, {name: each for name, each in trainable.plan.items() if name in used})


def _from_images(trainable: Trainable, before: Compressed) -> Callable[[Tensor], Tensor]:
    show = trainable.shown(trainable.module).show

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return before(show(images))

    return run


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two ways to the same scores agree to float32 rounding."""
    return bool(torch.allclose(one, other, rtol=1e-4, atol=1e-4 * max(1.0, float(one.detach().abs().max()))))


def _kept(side: Examples, rows: Tensor, run: Callable[[Tensor], Tensor], width: int) -> Examples:
    """The examples with activations (n, width) in place of images; NaN for those that no batch shows."""
    kept = torch.full((len(side), width), torch.nan)
    chunks = rows // CHUNK
    for chunk in chunks.unique().tolist():
        here = rows[chunks == chunk]
        kept[here] = run(side.values(here))
    return replace(side, images=kept)
