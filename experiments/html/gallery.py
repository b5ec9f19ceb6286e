"""The gallery: seed image, trigger and difference of as many triggers as a page can carry, to filter, sort and zoom."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments.html.cards import WORDS, Card, facts_of, item, key_of
from experiments.html.labels import Labels
from experiments.html.markup import Safe, download, embedded, section, tag
from experiments.html.mutations import Naming, used
from experiments.html.shards import Trigger, read_images
from experiments.pictures import Pixels, png

MOST = 120
"""Triggers shown."""

MOST_BYTES = 6_000_000
"""PNG bytes of all pictures; of large photos fewer are shown. A page of 8 MB can still be mailed."""


def choose(triggers: Sequence[Trigger]) -> list[Trigger]:
    """All triggers in an order of which any beginning is varied.

    The clearest of each round and label pair, then the second clearest, and so on; frequent pairs first.
    """
    groups: dict[tuple[int, tuple[int, int]], list[Trigger]] = defaultdict(list)
    for trigger in triggers:
        groups[trigger.round, trigger.pair].append(trigger)
    ordered = sorted(groups.values(), key=lambda group: (-len(group), group[0].round, group[0].pair))
    ranked = [sorted(group, key=lambda trigger: (-trigger.clearness, trigger.name)) for group in ordered]
    places = [(rank, place) for place, group in enumerate(ranked) for rank in range(len(group))]
    return [ranked[place][rank] for rank, place in sorted(places)]


def cards(triggers: Sequence[Trigger], repaired: Mapping[str, bool]) -> list[Card]:
    """Cards of the first triggers, as many as `MOST` and `MOST_BYTES` allow."""
    made: list[Card] = []
    room = MOST_BYTES
    chosen = choose(triggers)[:MOST]
    images = read_images(chosen)
    for trigger in chosen:
        seed, image = images[trigger.name]
        difference = np.abs(image.astype(int) - seed)
        amplification = 255 / difference.max() if difference.any() else 1.0
        amplified = np.rint(difference * amplification).astype(np.uint8)
        one, two, three = (png(_colour(pixels)) for pixels in (seed, image, amplified))
        room -= len(one) + len(two) + len(three)
        if room < 0 and made:
            break
        l_2, l_inf = float(np.sqrt(((difference / 255) ** 2).sum())), float(difference.max() / 255)
        made.append(Card(trigger, (one, two, three), amplification, l_2, l_inf, repaired.get(trigger.name)))
    return made


def gallery_section(
    triggers: Sequence[Trigger], labels: Labels, name: Naming, repaired: Mapping[str, bool]
) -> Safe | None:
    """The part of the page with the triggers themselves, None where none was found."""
    shown = cards(triggers, repaired)
    if not shown:
        return None
    asked = any(card.repaired is not None for card in shown)
    words = (
        f"{len(shown):,} of {len(triggers):,} triggers: the clearest of each round and label pair first (both models "
        "are sure of different answers), so that rare pairs are seen too. The distance is that of trigger and seed "
        "image, pixels on [0, 1]. Select a picture to enlarge it."
    )
    words += "" if asked else " Whether each is repaired was not asked yet."
    items = [item(place, card, labels, name) for place, card in enumerate(shown)]
    return section(
        "gallery",
        "The triggers themselves",
        tag("p", words),
        _controls(shown, labels, name, asked),
        tag("p", id="shown", role="status", class_="small"),
        tag("ul", *items, class_="cards"),
        tag("button", "Show more", type="button", id="more", hidden=True),
        _dialog(),
        download("data-gallery", "Download the facts of these triggers (JSON)"),
        embedded("data-gallery", [facts_of(card, labels, name) for card in shown]),
    )


def _controls(shown: Sequence[Card], labels: Labels, name: Naming, asked: bool) -> Safe:
    pairs = dict.fromkeys(card.trigger.pair for card in shown)
    steps = sorted({step for card in shown for step in used(card.trigger, name)})
    choices = {
        "pair": ("Label pair", [(key_of(pair), labels.pair(pair)) for pair in sorted(pairs)]),
        "mutation": ("Mutation", [(step, step.replace("_", " ")) for step in steps]),
        "round": ("Round", [(str(x), str(x)) for x in sorted({card.trigger.round for card in shown})]),
        "repaired": ("After the repair", [(word, word) for word in WORDS.values() if asked]),
    }
    selects = [
        _select(key, said, [("", "all"), *options]) for key, (said, options) in choices.items() if len(options) > 1
    ]
    orders = [
        ("", "clearest of each pair"),
        ("queries", "fewest queries"),
        ("l2", "nearest (L2)"),
        ("linf", "nearest (L∞)"),
    ]
    selects.append(_select("sort", "Sort by", orders))
    reset = tag("button", "Show all", type="reset")
    return tag(
        "form", *selects, reset, id="filters", class_="filters", aria_label="Filter and sort the triggers", hidden=True
    )


def _select(key: str, words: str, options: Iterable[tuple[str, str]]) -> Safe:
    entries = [tag("option", said, value=value) for value, said in options]
    return tag("label", tag("span", words), tag("select", *entries, name=key))


def _dialog() -> Safe:
    """What a picture is enlarged in; report.js fills it."""
    moves = [tag("button", words, type="button", data_move=step) for words, step in (("‹ Previous", -1), ("Next ›", 1))]
    close = tag("button", "Close", type="button", data_move=0)
    return tag(
        "dialog",
        tag("p", id="zoomed-title"),
        tag("div", id="zoomed", class_="zoomed"),
        tag("p", *moves, close, class_="moves"),
        id="zoom",
        aria_labelledby="zoomed-title",
    )


def _colour(image: Pixels) -> Pixels:
    """(c, h, w) as (h, w, 3): grey for 1 or 2 channels, else the first three."""
    channels = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    return channels.transpose(1, 2, 0)
