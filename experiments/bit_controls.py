"""What a mixed precision repair is held against: the bits alone, and the same placebo without them."""

from collections.abc import Callable, Mapping
from typing import Any

from dflare.triggers import TriggerSet
from experiments.precision import training_start
from experiments.run import Run, Standing
from experiments.terminal import say
from experiments.trial import Bench, Model
from repair.proof.metrics import Figure, beats_placebo, paired_rates, share
from repair.proof.verdict import percent

Train = Callable[..., Model]
"""Start and folder -> the model that the placebo's training makes of it; `same_names`: with the same weights free."""


def bits_only(run: Run, now: Standing, label: str) -> Model | None:
    """The file with its bits, untrained, searched; None where a round's training starts from what enters it."""
    start = training_start(run, now)
    if start == now.model:
        return None
    model = Model(start, start.parent / "after")
    run.search_judge(model, f"{label}: search against the bits alone")
    return model


def bit_controls(run: Run, now: Standing, train: Train) -> dict[str, Model]:
    """`bits` and `eight_bit`, the placebo from the file as handed in, both searched; none without mixed precision."""
    name = f"round {now.number}"
    bits = bits_only(run, now, name)
    if bits is None:
        return {}
    say(f"{name}: placebo without more bits")
    eight_bit = train(now.model, run.folder.round(now.number) / "eight-bit", same_names=False)
    run.search_judge(eight_bit, f"{name}: search against the placebo without more bits")
    return {"bits": bits, "eight_bit": eight_bit}


def gains(
    bench: Bench,
    start: Model,
    end: Model,
    controls: Mapping[str, Model | None],
    held_out: Mapping[str, TriggerSet | None],
    figures: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> dict[str, Any] | None:
    """What bits, training and triggers each repair of held-out triggers, by their kind, and the sentence that says it.

    `figures` are those of the repair and of the placebo without more bits. None where a control is missing.
    """
    placebo, bits, eight_bit = (controls.get(name) for name in ("placebo", "bits", "eight_bit"))
    if placebo is None or bits is None or eight_bit is None:
        return None
    found = {}
    for kind, triggers in held_out.items():
        agrees = {model: bench.agrees(model, triggers) for model in (start, bits, placebo, eight_bit, end)}
        found[kind] = {
            "bits": share(agrees[bits]),
            "training": paired_rates(agrees[bits], agrees[placebo]).net,
            "triggers": paired_rates(agrees[placebo], agrees[end]).net,
            "eight_bit": share(agrees[eight_bit]),
            "over_eight_bit": paired_rates(agrees[eight_bit], agrees[end]).net,
        }
    beats, _ = beats_placebo(*figures, bench.paired(start, end, eight_bit, held_out))
    return {**found, "beats_eight_bit": beats, "words": _words(found["generalization"])}


def _words(found: Mapping[str, Figure]) -> str:
    if found["bits"].value is None:
        return "No held-out trigger says what the bits repair."
    return (
        f"Of the held-out triggers the bits alone repair {percent(found['bits'].value)}; training on clean images "
        f"changes that by {_points(found['training'])}, the triggers in their place by {_points(found['triggers'])} "
        f"more; the same clean training without more bits repairs {percent(found['eight_bit'].value)}, the repair "
        f"{_points(found['over_eight_bit'])} over it."
    )


def _points(gain: Figure) -> str:
    """`+6.3 points [1.2, 10.4]`."""
    if gain.value is None or gain.low is None or gain.high is None:
        return "–"
    return f"{100 * gain.value:+.1f} points [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
