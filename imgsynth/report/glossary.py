"""The words that a custodian meets in a report, one honest sentence or two each."""

from __future__ import annotations

GLOSSARY = {
    "ε (epsilon)": "How much the presence of one patient can change what is released: any outcome becomes at most e^ε "
    "times as likely, or as unlikely. 0 is no influence at all; there is no value that is safe for everything.",
    "δ (delta)": "A small probability that the limit by ε is exceeded. It must be far below 1/n, because a mechanism "
    "that publishes one patient in n outright would pass with δ = 1/n.",
    "Differential privacy": "A property of the way a release is made, not of the images: with or without any one "
    "patient, the release would have come out almost equally likely.",
    "Unit": "Whose data are protected together. Patient: everything of one person. Image: one image, which is less "
    "where a person has several.",
    "DP-SGD": "Training in small steps; in each, a random batch of patients is drawn, what each can contribute is "
    "limited (clipped to C), and noise of standard deviation σ·C is added.",
    "Ledger": "The record of everything that was ever run on a cohort's patients, and of the ε of all of it together.",
    "Membership inference": "Guessing whether a patient was in the training data. ROC curves plot hits against false "
    "alarms; AUC 0.5 is guessing blindly.",
    "Lower bound": "What an audit's attack proved to leak, with its confidence. It does not say that no more leaks.",
    "Control": "An attack on something known: on copies, which must be caught, and on nothing, which must not. Where a "
    "control fails, the audit says INCONCLUSIVE.",
    "Real–real floor": "The same measurement between two groups of real patients: what a perfect generator would get.",
    "Interval": "Ranges in brackets are 95 % intervals; patients, not images, are the sample.",
    "Train on synthetic, test on real": "A classifier learns from synthetic images and is tried on real test patients, "
    "beside the same classifier trained on real ones.",
}
