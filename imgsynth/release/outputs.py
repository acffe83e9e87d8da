"""Every file of a run's folder, and what is in it of patients: the one list that says what may not leave, and why.

A run that writes a file which this list does not have fails a test; so does a file that is not ``local`` and changes
when patients' images change while what the mechanisms gave out stays the same (tests/test_what_saw_patients.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal


@dataclass(frozen=True)
class Output:
    """``saw`` is what of it follows from patients:

    - "charged": only what the mechanisms of the plan gave out, whose ε is in the ledger, and public facts.
    - "none": nothing. Settings and names of places, which are nobody's, but may have to stay all the same.
    - "local": patients without noise. No ε covers it: it stays where the data are.
    """

    pattern: str  # of the path in the run's folder; * is anything, also /
    saw: Literal["charged", "none", "local"]
    what: str


# The first that fits holds.
OUTPUTS: tuple[Output, ...] = (
    Output("local/*", "local", "losses, norms, batch sizes, times; real images; features; reference models; votes of "
           "teachers; readers' folders; paths; patients at risk"),
    Output("manifest.json", "local", "the cohort: hashed ids, labels, sites, bands, content hashes, splits"),
    Output("evaluation.json", "local", "every metric against real patients, subgroups, rivals"),
    Output("audit.json", "local", "attacks, controls, copies, leakage"),
    Output("canaries.json", "local", "the audit of the trainer, with its coins"),
    Output("report.html", "local", "all of it on one page"),
    Output("inspect.json", "local", "the preflight: findings and exact counts"),
    Output("inspect.html", "local", "the same, with thumbnails"),
    Output("excluded.csv", "local", "what was left out of the cohort, and why"),
    Output("diverged.json", "charged", "that a step ended the run, by a noised number"),
    Output("seconds.json", "local", "how long each stage took, which follows what was in it"),
    Output("metrics.jsonl", "charged", "norms of noised gradients, losses on generated images, ε"),
    Output("tensorboard/*", "charged", "a view of metrics.jsonl"),
    Output("checkpoints/*", "charged", "weights, averages, candidates, optimizers; in a seeded run its randomness"),
    Output("samples/*", "charged", "sheets of the generator alone"),
    Output("explain/*", "charged", "the generator explained, from itself alone and through a public encoder"),
    Output("label_histogram.json", "charged", "counts with discrete Laplace noise"),
    Output("label_histogram.next.json", "charged", "the same, about to be put in place"),
    Output("selection.json", "charged", "which step was chosen, by the plan's rule; counts of votes of a public cohort "
           "only"),
    Output("release/*", "charged", "images and documents. Two marked exceptions: the audit's verdict and rounded "
           "bound, and a table by sample.metadata_by=anonymised"),
    Output("report_public.html", "charged", "the card, curves, a sheet of the release and what is in explain; the same "
           "exceptions"),
    Output("plan.json", "none", "the privacy plan; n is public (privacy.n)"),
    Output("initial.pt", "none", "public weights that the run began with"),
    Output("config.json", "none", "settings; with paths"),
    Output("config.yaml", "none", "the same for people"),
    Output("run_id.txt", "none", "random"),
    Output("experiment/*", "local", "the plan that inspect proposes, for this many patients"),
    Output("metrics.LOCAL-ONLY.txt", "none", "a note that nothing of this run may leave"),
    Output(".lock", "none", "held while a process trains"),
    Output(".release.lock", "none", "held while a process writes the release"),
)  # fmt: skip


def output_of(name: str) -> Output | None:
    """The entry of the file ``name``, by its path in the run's folder; None where nobody has said what it holds."""
    return next((output for output in OUTPUTS if fnmatchcase(name, output.pattern)), None)
