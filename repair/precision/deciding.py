"""From what is wished of a mixed precision repair and what files do to the bits that a file gets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dflare.errors import InputError
from repair.precision.choice import Names
from repair.precision.formats import Format, format_of
from repair.precision.mixed_precision import Bench, Budget, Step, frontier
from repair.precision.orders import orders
from repair.precision.plan import Bits
from repair.precision.stopping import enough


@dataclass(frozen=True)
class Wish:
    """What is asked for; costs are ratios to the file that comes in, None for no limit."""

    activations: str | None = None  # all, chosen, None for none
    choose: str = "greedy"  # of `orders`
    weights: float = 0.0  # share of the file's bytes that 16-bit weights may add
    float_output: bool = False
    max_bytes: float | None = None
    max_latency: float | None = None

    def __bool__(self) -> bool:
        return self.activations is not None or self.weights > 0 or self.float_output


@dataclass(frozen=True)
class Decision:
    """The bits that a file gets, and why."""

    bits: Bits
    before: Step  # the file as it came in
    after: Step  # with the bits
    groups: list[Names]  # activations that share a grid, all that could be widened
    orders: dict[str, list[Step]] = field(default_factory=dict)  # frontiers by name; none where nothing was chosen
    taken: int | None = None  # number of the step in the order of the wish
    next_weight: int | None = None  # bytes that the smallest weight of 8 bits would add; None: there is none
    all_weights: int = 0  # bytes that all weights of 8 bits would add


def decide(bench: Bench, wish: Wish, seed: int) -> Decision:
    """The bits for the bench's file: its search images order the activations, its probe says how many are enough.

    Counted are labels that differ, ties included (`enough`): a rounded output agrees by ties that a finer one decides.
    `bench.float_output` must be the wish's. Weights come last, because nothing but a training tells what theirs are
    worth. Raises `InputError` for all activations where they cost more than is allowed.
    """
    form, before, budget = bench.format, bench.judge(bench.path), _budget(bench, wish)
    groups, ways, taken = bench.groups(), {}, None
    tensors: Sequence[str] = ()
    if wish.activations == "chosen":
        named = orders(form.numbers(bench.path, bench.search.images[:1], bench.interface), seed)
        ways = {name: frontier(bench, budget, choose) for name, choose in named.items()}
        taken = enough([bench.wrong(step) for step in ways[wish.choose]], bench.groups_of_probe)
        tensors = ways[wish.choose][taken].tensors
    elif wish.activations == "all":
        tensors = _every(groups)
    bits = Bits(tuple(tensors), (), wish.float_output and form.has_rounded_output(form.read(bench.path)))
    if wish.activations == "all" and not _fits(bench, bits, budget):
        raise InputError(
            f"all activations of {bench.path} at 16 bits cost more than max_bytes={wish.max_bytes} and max_latency="
            f"{wish.max_latency} of repair.precision allow; raise them, or let activations=chosen keep within them"
        )
    bits = _with_weights(bench, bits, wish, budget)
    left = [size for _, size in form.weights(form.read(bench.write_bits(bits) if bits else bench.path))]
    after = bench.judge(bench.write_bits(bits), bits.activations) if bits else before
    return Decision(bits, before, after, groups, ways, taken, min(left, default=None), sum(left))


def check_wish(path: Path, wish: Wish) -> None:
    """Raise `InputError` for a file that has nothing to widen, or that more bits would break, before any work."""
    form = format_of(path)
    wide = form.with_bits(form.read(path), Bits((), (), wish.float_output))
    if wish.activations is not None:
        names = _every(form.groups(wide))
        if not names:
            raise InputError("no activation is quantised per tensor")
        wide = form.with_bits(wide, Bits(names))
    if wish.weights:
        if not form.weights(wide):
            raise InputError("no weight is int8")
        form.with_bits(wide, Bits((), _affordable(form, wide, None)))


def _every(groups: Sequence[Names]) -> Names:
    return tuple(name for group in groups for name in group)


def _affordable(form: Format, model: Any, more_bytes: int | None) -> Names:
    """The smallest int8 weights that can have 16 bits for `more_bytes` in all (None: any), with grids of their own."""
    chosen = []
    for name, size in form.weights(model):
        more_bytes = more_bytes if more_bytes is None else more_bytes - size
        if more_bytes is not None and more_bytes < 0:
            break
        chosen.append(name)
    return tuple(name for name in chosen if form.has_own_grid(model, name))


def _budget(bench: Bench, wish: Wish) -> Budget:
    """The limits in bytes and milliseconds; the file with nothing widened always keeps within them."""
    start, size, most_ms = bench.write(()), bench.path.stat().st_size, None
    most = None if wish.max_bytes is None else max(int(wish.max_bytes * size), start.stat().st_size)
    if wish.max_latency is not None:
        most_ms = max(wish.max_latency * bench.latency(bench.path), bench.latency(start))
    return Budget(most, most_ms)


def _with_weights(bench: Bench, bits: Bits, wish: Wish, budget: Budget) -> Bits:
    """The bits with as many of the smallest weights as the wish and the budget pay for."""
    if not wish.weights:
        return bits
    wide = bench.write_bits(bits)
    size = wide.stat().st_size
    most = size + int(wish.weights * bench.path.stat().st_size)
    limits = replace(budget, max_bytes=most if budget.max_bytes is None else min(most, budget.max_bytes))
    assert limits.max_bytes is not None
    names = _affordable(bench.format, bench.format.read(wide), limits.max_bytes - size)
    while names and not _fits(bench, replace(bits, weights=names), limits):
        names = names[:-1]  # zero points grow as well
    return replace(bits, weights=names)


def _fits(bench: Bench, bits: Bits, budget: Budget) -> bool:
    path = bench.write_bits(bits)
    small = budget.max_bytes is None or path.stat().st_size <= budget.max_bytes
    return small and (budget.max_latency_ms is None or bench.latency(path) <= budget.max_latency_ms)
