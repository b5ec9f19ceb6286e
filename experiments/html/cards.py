"""One trigger of the gallery: its pictures, what both models say of it, and what it is filtered and sorted by."""

from typing import Any, NamedTuple

import numpy as np

from experiments.html.labels import Labels
from experiments.html.markup import Safe, data_uri, joined, tag
from experiments.html.mutations import Naming, used
from experiments.html.shards import Trigger
from repair.proof.verdict import percent

TOP = 3
"""Answers of each model that a card lists."""

WORDS = {True: "repaired", False: "not repaired", None: "not asked"}
"""Whether the pair agrees on a trigger after the repair."""


class Card(NamedTuple):
    """A trigger with its pictures and what can be filtered and sorted."""

    trigger: Trigger
    pictures: tuple[bytes, bytes, bytes]  # PNG of seed image, trigger and difference
    amplification: float
    l_2: float  # distance of trigger and seed image on [0, 1]
    l_inf: float
    repaired: bool | None


def item(place: int, card: Card, labels: Labels, name: Naming) -> Safe:
    """The card as an element of the list; `place` is where it stands unsorted."""
    trigger = card.trigger
    steps = [step.replace("_", " ") for step in used(trigger, name)]
    facts = [
        f"round {trigger.round}, {trigger.side}",
        "1 query" if trigger.queries == 1 else f"{trigger.queries:,} queries",
        f"L2 {card.l_2:.2f}, L∞ {card.l_inf:.2f}",
        *([", ".join(steps)] if steps else []),
    ]
    state = None if card.repaired is None else tag("span", WORDS[card.repaired], class_=f"chip {_class(card.repaired)}")
    return tag(
        "li",
        _pictures(card, labels),
        tag("p", tag("strong", labels.pair(trigger.pair)), " ", state),
        tag("div", *(_answers(*said_by, labels) for said_by in _models(trigger)), class_="answers"),
        tag("p", joined(tag("span", fact) for fact in facts), class_="facts"),
        tag("p", tag("code", f"{trigger.seed:016x}"), class_="facts"),
        class_="card",
        data_place=place,
        data_pair=key_of(trigger.pair),
        data_mutation="|".join(used(trigger, name)),
        data_round=trigger.round,
        data_repaired=WORDS[card.repaired],
        data_queries=trigger.queries,
        data_l2=f"{card.l_2:.6f}",
        data_linf=f"{card.l_inf:.6f}",
    )


def _pictures(card: Card, labels: Labels) -> Safe:
    """The three pictures on the button that enlarges them."""
    pair = card.trigger.pair
    titles = ("Seed", "Trigger", f"Difference × {card.amplification:.1f}")
    said = f"the original says {labels.name(pair[0])}, the compressed model {labels.name(pair[1])}"
    pictures = [
        tag("span", tag("img", src=data_uri(png_), alt=f"{title}: {said}"), tag("small", title), class_="picture")
        for title, png_ in zip(titles, card.pictures, strict=True)
    ]
    return tag("button", *pictures, type="button", class_="zoom", aria_label=f"Enlarge: {said}")


def _models(trigger: Trigger) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("original", trigger.original), ("compressed", trigger.compressed)


def _answers(model: str, scores: Any, labels: Labels) -> Safe:
    rows = [
        tag("li", tag("span", labels.name(label)), " ", tag("span", percent(share))) for label, share in _top(scores)
    ]
    return tag("div", tag("span", model, class_="small"), tag("ol", *rows))


def _top(scores: Any) -> list[tuple[int, float]]:
    """The labels with the highest probabilities, the most probable first."""
    best = np.argsort(-scores, kind="stable")[:TOP]
    return [(int(label), float(scores[label])) for label in best]


def facts_of(card: Card, labels: Labels, name: Naming) -> dict[str, Any]:
    """What the page's data says of the trigger."""
    trigger = card.trigger
    answers = {
        model: [
            {"label": label, "name": labels.name(label), "probability": round(share, 6)}
            for label, share in _top(scores)
        ]
        for model, scores in _models(trigger)
    }
    return {
        "seed": f"{trigger.seed:016x}",
        "round": trigger.round,
        "side": trigger.side,
        "queries": trigger.queries,
        "path": [name(choice) for choice in trigger.choices],
        "l_2": round(card.l_2, 6),
        "l_inf": round(card.l_inf, 6),
        "clearness": round(trigger.clearness, 6),
        "repaired": card.repaired,
        **answers,
    }


def key_of(pair: tuple[int, int]) -> str:
    """What a label pair is called in the filter."""
    return f"{pair[0]}-{pair[1]}"


def _class(repaired: bool) -> str:
    return "good" if repaired else "bad"
