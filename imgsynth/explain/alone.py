"""The part that is made from the generator alone: post-processing of a private output, as public as its release."""

from __future__ import annotations

from collections.abc import Callable

from imgsynth import console
from imgsynth.evaluate.metric import NotDone
from imgsynth.explain.contrasts import contrasts
from imgsynth.explain.failures import failures
from imgsynth.explain.maker import Maker, standardised
from imgsynth.explain.neighbours import neighbours, repeats
from imgsynth.explain.part import Part
from imgsynth.explain.paths import interpolation
from imgsynth.explain.traversals import traversals


def explained(maker: Maker) -> tuple[list[Part], list[dict[str, str]]]:
    """Every part, and what was not done with its reason. A function of ``maker``, which holds no data."""
    drawn = maker.drawn()
    encoded = maker.encoder.encode(drawn.x_NC[:, :1])
    features = standardised(encoded, maker.encoder, encoded)
    asked: dict[str, Callable[[], Part | list[Part]]] = {
        "latent traversals": lambda: traversals(maker),
        "class contrasts": lambda: contrasts(maker),
        "ways through the latent space": lambda: interpolation(maker, encoded),
        "near images from codes far apart": lambda: neighbours(maker, drawn, features),
        "samples that repeat each other": lambda: repeats(maker, drawn),
        "failures": lambda: failures(maker, drawn, features),
    }
    return done(asked)


def done(asked: dict[str, Callable[[], Part | list[Part]]]) -> tuple[list[Part], list[dict[str, str]]]:
    """Each in turn; those that cannot be done go to the second list."""
    parts: list[Part] = []
    not_done = []
    for what in console.each(list(asked), "explaining"):
        try:
            found = asked[what]()
        except NotDone as reason:
            not_done.append({"what": what, "why": str(reason)})
            continue
        parts += found if isinstance(found, list) else [found]
    return parts, not_done
