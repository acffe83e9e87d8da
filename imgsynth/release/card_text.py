"""What ε means and what it does not cover, in sentences that a privacy officer can hold us to."""

from __future__ import annotations

import math
from typing import Literal

from imgsynth.privacy.plan import PrivacyPlan

IMAGE_UNIT = (
    "THE UNIT IS THE IMAGE, NOT THE PATIENT: the source has no patient ids. Somebody with m images in the cohort is "
    "protected only by a guarantee that weakens with m (mε, and a δ that grows even faster)."
)


CASE_IDS = (
    "CASES, NOT PATIENTS: the source has case ids (from file names), not patient ids, so that two cases may be one "
    "person. A person with two cases has only the guarantee for two at once, which is weaker and can be no useful "
    "bound at all; with more cases, less still."
)
WEAK_EPSILON = 10.0  # beyond, the proof alone rules out next to nothing: e^10 is a factor of 22,000
WEAK_PROOF = (
    f"WEAK PROOF: ε is above {WEAK_EPSILON:g}, and at this ε the guarantee alone rules out almost nothing. What "
    "protects patients then is at best how hard a real attack is, and that nobody has proven."
)
BEGAN_PUBLIC = (
    "The images that training began with ({images}). The guarantee is for the {unit}s of this run's own cohort: "
    "whoever is in those images has none by it. That they are public, and that no {unit} of the cohort is among them, "
    "is the custodian's declaration. The program compared contents bit by bit, and ids where both sides have them; it "
    "does not know a person again under another id or in another image."
)
UNJUDGED = (
    "Nobody has declared whether the pixels show text (sample.burned_in). A generator can reproduce text that many "
    "images share (a site's name, an L marker), whatever ε is: look before handing it over. Burned In Annotation "
    "(0028,0301) is left out of the DICOM files, or YES in DX, which must have it."
)

WATERMARKED = (
    "An invisible watermark is in the voxels, below their noise: `imgsynth recognise` finds it, also in copies without "
    "headers. It says where an image came from, and nothing of patients: it is made of the image and of a public key, "
    "and costs no ε. Whoever knows the key can take it off or put it on other images: it is no protection and no seal, "
    "and an image without it need not be real."
)


CHOSEN_PUBLIC = (
    "The images that the step was chosen on ({images}). No {unit} of the cohort was asked, and whoever is in those "
    "images has no guarantee by this card. That they are public is the custodian's declaration."
)
MECHANISMS = {"noisy_max": "report noisy max (permute-and-flip)", "exponential": "the exponential mechanism"}


def chosen_by(plan: PrivacyPlan) -> str | None:
    """How it was chosen which step's averaged weights are released; None: they are those of the last."""
    chosen = plan.selection
    if chosen is None:
        return None
    if chosen.rule == "fixed":
        return f"those of step {chosen.candidates[0]}, said beforehand; nobody was asked"
    among = f"those of one of {len(chosen.candidates)} steps ({', '.join(map(str, chosen.candidates))})"
    if chosen.public is not None:
        return f"{among}, chosen on public images ({chosen.public.images}; SHA-256 {chosen.public.digest})"
    votes = f"one vote of each {counted_unit(plan)}"
    if plan.mode == "none":
        return f"{among}, chosen by {votes}, without noise"
    return f"{among}, chosen by {votes} and {MECHANISMS[chosen.rule]}"


def counted_unit(plan: PrivacyPlan) -> Literal["patient", "case", "image"]:
    """What one unit of the plan is in the source: a patient only where there are patient ids."""
    return "case" if plan.unit == "patient" and plan.ids == "case" else plan.unit


def unit_warning(plan: PrivacyPlan) -> str | None:
    """What to say loudly where the unit is less than a patient."""
    return {"patient": None, "case": CASE_IDS, "image": IMAGE_UNIT}[counted_unit(plan)]


def weak_proof(epsilon: float) -> str | None:
    """What to say loudly of a finite ε that proves next to nothing."""
    return WEAK_PROOF if WEAK_EPSILON < epsilon < math.inf else None


def burned_in_text(value: str | None, releasable: bool) -> str:
    """One line on Burned In Annotation ``value`` of a run that is ``releasable`` or not."""
    if value is None:
        return UNJUDGED
    if not releasable:
        return "Burned In Annotation (0028,0301) is YES: nothing here excludes a copy of a patient's text."
    return f"Burned In Annotation (0028,0301) is {value}, as the custodian declared (sample.burned_in)."


def group_of_two(epsilon: float, delta: float) -> tuple[float, float] | None:
    """(ε, δ) for two units at once (Dwork and Roth 2014, thm 2.2: 2ε, (1 + e^ε)δ); None where that δ is 1 or more."""
    if not math.isfinite(epsilon) or epsilon > 700:
        return None
    joint = (1 + math.exp(epsilon)) * delta
    return (2 * epsilon, joint) if joint < 1 else None


def declared_public(plan: PrivacyPlan, labels: str) -> list[str]:
    """Facts that the guarantee does not protect because the custodian declares them public by releasing."""
    unit = f"{counted_unit(plan)}s"
    facts = [
        f"n = {plan.n}, the declared size of the training cohort in {unit} (taken from the configuration, or the "
        "count of the training split, which is declared public by using it)",
        "the names and the order of the classes, the modality, and the grid (shape, spacing, orientation, intensities)",
        "the model, its hyper-parameters, the number of steps and every other setting of the run",
    ]
    if plan.public is not None:
        facts.append(
            f"the images that training began with ({plan.public.images}): weights were trained on them without privacy "
            f"before (SHA-256 {plan.public.digest})"
        )
    if plan.selection is not None and plan.selection.public is not None:
        facts.append(f"the images that the released step was chosen on ({plan.selection.public.images})")
    if labels == "uniform":
        facts.append("nothing about how frequent each class is: synthetic labels are drawn uniformly over the classes")
    return facts


def not_covered(plan: PrivacyPlan, labels: str) -> list[str]:
    """The limits of the statement, the gravest first."""
    limits = [warning for warning in (unit_warning(plan), weak_proof(plan.epsilon)) if warning]
    if plan.public is not None:
        limits.append(BEGAN_PUBLIC.format(images=plan.public.images, unit=counted_unit(plan)))
    if plan.selection is not None and plan.selection.public is not None:
        limits.append(CHOSEN_PUBLIC.format(images=plan.selection.public.images, unit=counted_unit(plan)))
    limits += [
        "Choices guided by what was computed on patients without noise. Where somebody looked at an evaluation, an "
        "audit or real images of this cohort and then chose hyper-parameters, preprocessing or which run to release, "
        "that choice is an output of the data that no ε here counts. (Choosing among runs by their public outputs "
        "alone, or by imgsynth select, is covered by the cohort's composed ε; choosing the step whose weights are "
        "released by the rule that is stated above is part of this run's.)",
        "Evaluation and audit results. They are measured on real patients without noise, stay in the run's folder and "
        "are no part of the release. Two things in this card are the exception, marked as such: the audit's verdict "
        "and its lower bound on ε, rounded down. Both are outputs of private data without noise.",
        "Mistaken identity. If one person is in the cohort under two ids, or two relatives are as alike as one person, "
        "the pair has only what this card states for two at once.",
        "What is true of patients in general. The release may teach that a disease looks so and so, and that can "
        "concern people whether or not they are in the cohort. No method of release prevents that.",
        "How patients were put into the training split. Neighbouring datasets differ in one unit of the training split "
        "as it was fixed; with stratified splits a patient who joins the cohort can move one other patient.",
        "Labels that a person wrote. Each patient's own label is part of that patient's data and is protected with it; "
        "a table that mixes one patient's facts into another's row is not something we can see.",
        "The machine. The proof is of real-number Gaussian noise; the noise here is made in double precision from the "
        "output of OpenSSL's cryptographic generator, which the operating system seeds, and rounded to a fixed grid, "
        "which deviates by amounts that no accountant counts. "
        "Timing and other traces on the computer that trained are not covered.",
        "Mistakes in the program. The proof is of the algorithm; the audit tests the program, and finds only what its "
        "attacks can find.",
    ]
    if labels == "histogram":
        limits.append(
            "Exact label frequencies are not shown: synthetic labels follow a histogram with noise, whose ε is part of "
            "the total above."
        )
    return limits
