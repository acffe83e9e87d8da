"""Sentences that several documents of a release share. Each is true for every run: of phantoms or patients, with a
proof or without one, by patient, case or image, with labels or none."""

from __future__ import annotations

from imgsynth.release.card_audit import VERDICTS
from imgsynth.release.edit_masks import in_words
from imgsynth.release.facts import Facts

INTENDED = (
    "Developing and testing software on images of this kind; teaching; trying out a method before asking for access to "
    "real images."
)
NOT_INTENDED = (
    "Diagnosis, or any decision about a person; the sole evidence that a device or method works on patients; "
    "estimating how frequent a finding is; trying to find out who was in the cohort."
)
BIASES = (
    "The generator imitates its training cohort: who was in it, how they were chosen and scanned, and what was "
    "mislabelled can show in the images. What only few {unit}s share can come out weaker, or not at all. How single "
    "groups fare is not measured in this folder."
)
LIMITATIONS = (
    "Images can show anatomy that cannot be, lack detail that real ones have, and be less varied than the cohort. "
    "Intensities beyond the stated range are clamped, and size, spacing and orientation are the same for all images."
)
NOT_THE_COHORT = (
    "Numbers in this folder are of synthetic patients. What was measured on real ones (fidelity, utility, fairness) "
    "stays with the cohort, because those results are not covered by ε; ask for them."
)


def no_person(facts: Facts) -> str:
    """Nobody was imaged for this; without a guarantee, that does not say that nobody is to be seen."""
    copied = "" if facts.plan.releasable else " Without a privacy guarantee, an image may be a copy of a patient's."
    return f"No image in this data set was taken of a person, and none may be used for the care of one.{copied}"


def cohort(facts: Facts) -> str:
    """What the generator learned from."""
    unit, n = facts.card["counted_unit"], facts.plan.n
    modality = facts.grid.modality
    if facts.phantoms:
        return (
            f"digital phantoms that imgsynth makes itself ({modality}): no person is behind any of them. For the "
            f"guarantee each phantom patient counts as one {unit}; n = {n} is the declared size of the training cohort"
        )
    return (
        f"{modality} images of a cohort that is not part of this release and stays where it is; n = {n} {unit}s is the "
        "declared size of the training cohort"
    )


def making(facts: Facts) -> str:
    """How an image came about."""
    return (
        f"Every image was sampled from a generative model ({facts.provenance.method}; imgsynth "
        f"{facts.made['imgsynth']}) that was trained on {cohort(facts)}."
    )


def protection(facts: Facts) -> str:
    """What is proven, with what has to be said loudly."""
    card = facts.card
    loud = [
        (card["released_metadata"] or {}).get("note"),
        (card.get("supplied_masks") or {}).get("note"),
        card["unit_warning"],
        card["weak_proof"],
        *(f"Not releasable: {why}." for why in _against(facts)),
    ]
    return " ".join([card["statement"], *(text for text in loud if text)])


def audit(facts: Facts) -> str:
    """What the card says of an audit."""
    said = facts.card["audit"]
    if said["verdict"] is None:
        return f"The privacy card says of an audit: {said['status']}."
    bound = said["epsilon_lower_bound"]
    found = "no lower bound on ε" if bound is None else f"ε at least {bound:g} with confidence {1 - said['alpha']:.3g}"
    return f"An audit attacked the result: {said['verdict']} ({VERDICTS[said['verdict']]}); {found}. {said['note']}"


def labels(facts: Facts) -> str:
    """Where labels come from."""
    if not facts.classes:
        return "There are no labels."
    drawn = {
        "uniform": "uniformly over the classes, so that their frequencies say nothing of the cohort",
        "histogram": "in the proportions of the training cohort's label counts, to which noise was added",
    }[facts.card["synthetic_labels"]]
    return (
        f"Each synthetic patient has one of the classes {', '.join(facts.classes)}: the one that the generator was "
        f"asked for, drawn {drawn}. Nobody read the image, and that it shows the class is not assured."
    )


def masks(facts: Facts) -> str:
    """How the masks beside the images came about."""
    if (supplied := facts.card.get("supplied_masks")) is not None:
        return f"supplied by whoever made this release and declared {supplied['origin']}; images were painted onto them"
    if edits := facts.edits:
        return (
            "made by the generator. LABELS WERE EDITED: each synthetic patient with an entry under edited_from is the "
            f"one named there, after this was done to its mask ({in_words(edits)}) and its image painted anew with the "
            "same random numbers. Those two are no independent samples"
        )
    return "made with it"


def biases(facts: Facts) -> str:
    return BIASES.format(unit=facts.card["counted_unit"])


def open_question(key: str) -> str:
    """In place of an answer that only the custodian can give."""
    return f"Not answered by whoever made this release ({key})."


def _against(facts: Facts) -> list[str]:
    reasons: list[str] = facts.card["not_releasable_because"]
    return reasons
