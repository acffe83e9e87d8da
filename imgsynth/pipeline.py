"""The verbs: one function each, from a checked configuration to the path of what it made."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imgsynth import config as door
from imgsynth import console
from imgsynth.audit.against import compare
from imgsynth.audit.canaries.run import audit_canaries as canaries_run
from imgsynth.audit.closing import closing
from imgsynth.audit.conclude import conclude_again
from imgsynth.audit.leakage import search_again, source_strings
from imgsynth.audit.leakage.sought import Sought
from imgsynth.audit.policy import evidence_of, policy_faults, read_policy, release_faults
from imgsynth.audit.run import audit_run
from imgsynth.cohort.build import manifest_of, survey_source
from imgsynth.cohort.deidentify import REPORT
from imgsynth.cohort.deidentify import deidentify as deidentified_copy
from imgsynth.cohort.inspect import inspect_cohort, is_flat, print_inspection
from imgsynth.cohort.manifest import Manifest
from imgsynth.cohort.preflight import preflight, print_preflight
from imgsynth.evaluate.run import evaluate_run
from imgsynth.explain.run import explain_run
from imgsynth.files import read_json, write_json
from imgsynth.planning.cohort import GROUPS
from imgsynth.planning.run import plan as make_plan
from imgsynth.privacy.chain import Broken
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.overview import print_overview, print_runs
from imgsynth.release.card import fresh_card
from imgsynth.release.recognise import print_recognised
from imgsynth.release.recognise import recognise as recognised
from imgsynth.release.recognise import to_json as recognised_json
from imgsynth.release.sample import sample_release
from imgsynth.release.update import update_card
from imgsynth.release.verify import Check, checked, examine
from imgsynth.release.verify_report import write_verify_report
from imgsynth.report.inspection import PAGE, TABLE, write_inspection
from imgsynth.report.write import write_report
from imgsynth.schema import Config
from imgsynth.show.server import ShowServer
from imgsynth.show.shelf import shelf_of
from imgsynth.sweep.cells import SweepFolder, read_index, write_index
from imgsynth.sweep.design import design, own_config
from imgsynth.sweep.spend import facts_of, foresee, print_plan
from imgsynth.sweep.work import why, work_through
from imgsynth.sweep.write import write_curve
from imgsynth.training.choosing import along_axis
from imgsynth.training.distributed import joined, refuse_several
from imgsynth.training.estimate import estimate
from imgsynth.training.loop import train as train_loop
from imgsynth.training.propose import print_proposal
from imgsynth.training.proposed import PLACE, remarks_of, said, write_proposal
from imgsynth.training.run import load_run, model_factory
from imgsynth.training.select_runs import select_runs
from imgsynth.training.suit import suited
from imgsynth.training.whois import whois as patients_of
from imgsynth.types import CheckFailed, Fault, InputError


def folder(config: Config) -> Path:
    assert config.output is not None  # the door names one
    return Path(config.output)


def inspect(config: Config) -> Path:
    """Look at the cohort and say what is wrong with it, and what ε it can attain. Trains nothing.

    The report is written whatever is found. Then, raises InputError where the cohort cannot be used as configured, and
    CheckFailed where there are findings of severity error all the same.
    """
    refuse_several("inspect")
    survey = survey_source(config.data)
    found = preflight(survey, folder(config) / "local" / "looks.jsonl", config.data.defaced)
    data = survey.data
    inspection: dict[str, Any] = {"local_only": True, "kind": data.kind, "root": data.root, "modality": data.modality}
    inspection["usable"] = not survey.faults
    try:
        if not survey.faults:
            manifest = manifest_of(survey)
            inspection |= inspect_cohort(manifest, found.looks, config.preprocess)
            print_inspection(inspection)
        print_preflight(found)
        if not survey.faults:
            _propose(config, manifest, inspection)
    finally:
        written = write_inspection(folder(config), inspection, found, survey.found.scans)
        console.say(f"Report (local): {folder(config) / PAGE}, {folder(config) / TABLE}")
    if survey.faults:
        raise InputError(*survey.faults)
    if errors := [one.as_fault() for one in found.findings if one.severity == "error"]:
        raise CheckFailed(*errors)
    return written


def _propose(config: Config, manifest: Manifest, inspection: dict[str, Any]) -> None:
    """The table of noise, and a plan as an experiment file, checked as a run would and timed on random images."""
    n = config.privacy.n or len(manifest.patients("train"))
    dims = 2 if is_flat(manifest) else 3
    images = round(statistics.median(len(items) for items in manifest.by_patient.values()))
    unit = "case" if manifest.unit == "patient" and manifest.ids == "case" else manifest.unit
    shape = next(json.loads(line.partition("=")[2]) for line in inspection["suggested"]
                 if line.startswith("preprocess.shape="))  # fmt: skip
    fit = suited(n, dims, along_axis(shape), images, config.privacy, unit,
                 pairs=bool(config.data.masks))  # fmt: skip
    if config.privacy.n is not None:  # what is printed is of that number: so is the plan
        fit = dataclasses.replace(fit, settings={"privacy.n": n, **fit.settings})
    epsilon = None if config.privacy.mode == "none" else config.privacy.epsilon or 8.0
    root = folder(config)
    local = str(root / PLACE)
    described = (config.data, GROUPS.get(manifest.modality, "mr"), inspection["suggested"], fit, epsilon)

    write_proposal(root, *described, ())
    planned = door.from_overrides("run", [f"experiment={local}", f"output={root}"])
    cost = estimate(planned, n, len(manifest.classes), manifest.unit)
    proposal = print_proposal(n, planned.privacy, planned.trainer, unit, cost.queries)
    console.say(f"Method: model={fit.model}. {fit.why}")
    console.say(said(cost))
    write_proposal(root, *described, remarks_of(n, unit, fit, proposal["word"], cost, local))
    console.say(f"Plan: {local}, to be read and changed before it is run")
    inspection["proposal"] = proposal | {
        "experiment": local, "model": fit.model, "why": fit.why, "estimate": dataclasses.asdict(cost)
    }  # fmt: skip


def plan(overrides: Sequence[str]) -> str | None:
    """Rank the methods for a cohort, or for a declared number of patients, and print it; the command of the best, None
    where none is worth its ε. Trains nothing, opens no image, spends nothing."""
    refuse_several("plan")
    best = make_plan(overrides).best
    return None if best is None else best.command


def train(config: Config) -> Path:
    """Train, or go on with the run in ``output``; the run's folder. Under torchrun, with all its processes."""
    run_dir = folder(config)
    with joined(config.trainer) as team:
        train_loop(config, run_dir, model_factory(config.model), door.extra_transforms(config), team)
        team.tell(lambda: door.save(config, run_dir / "config.yaml"))
    return run_dir


def select(runs: Sequence[Path], overrides: Sequence[str]) -> Path:
    """Choose among finished runs of one cohort by a charged vote of its patients; the record, selection.json."""
    selection, output = door.selection_of(list(overrides))
    return select_runs(runs, selection, output, door.extra_transforms)


def sample(config: Config) -> Path:
    """Write the release of a trained run; where the run is audited already, its files are searched again."""
    refuse_several("sample")
    release = sample_release(folder(config), config)
    if (folder(config) / "audit.json").is_file():
        _search_again(config)
    return release


def _search_again(config: Config) -> Sought:
    """The strings of the source, which were looked for in all that the run made; audit.json and the card follow."""
    sought, unread = source_strings(load_run(folder(config)).manifest, config)
    if search_again(folder(config), sought, unread):
        update_card(folder(config), config.sample.sign)
    return sought


def evaluate(config: Config) -> Path:
    """Measure fidelity, diversity and utility against the real test patients (local)."""
    refuse_several("evaluate")
    evaluate_run(folder(config), config, door.extra_transforms(config))
    return folder(config) / "evaluation.json"


def explain(config: Config) -> Path:
    """Show what the generator does with its latent space, and what a classifier tells its images from patients by.

    The former is made from the generator alone (``explain/``), the latter is local (``local/explain/``).
    """
    refuse_several("explain")
    made = explain_run(folder(config), config, door.extra_transforms(config))
    console.say(
        f"From the generator alone: {made}; beside real patients (local): {folder(config) / 'local' / 'explain'}"
    )
    return made / "explain.json"


def audit(config: Config) -> Path:
    """Attack the release as an adversary would, and set the lower bound beside the proven ε in the privacy card.

    Raises CheckFailed, when all is written, if the conditions in ``audit.policy`` do not hold.
    """
    path = _audit(config)
    _keep_policy(config)
    return path


def _audit(config: Config) -> Path:
    refuse_several("audit")
    found = audit_run(folder(config), config, door.extra_transforms(config))
    update_card(folder(config), config.sample.sign)
    for line in closing(found):
        console.say(line)
    return folder(config) / "audit.json"


def audit_canaries(config: Config) -> Path:
    """Train twins of the run with pseudo-patients, and set the lower bound they give beside the proven ε (local)."""
    refuse_several("audit canaries")
    try:
        canaries_run(folder(config), config, door.extra_transforms(config))
    finally:  # a violation is raised when the record is written: the verdict and the card must have it
        conclude_again(folder(config))
        update_card(folder(config), config.sample.sign)
    return folder(config) / "canaries.json"


def _keep_policy(config: Config) -> None:
    if config.audit.policy is None:
        return
    audit_json = read_json(folder(config) / "audit.json")
    root = folder(config)
    evidence = evidence_of(fresh_card(load_run(root)), audit_json, root, root / "release")
    faults = policy_faults(read_policy(Path(config.audit.policy)), evidence)
    if faults:
        raise CheckFailed(*faults)
    console.say(f"Policy: {config.audit.policy} holds")


def report(config: Config) -> Path:
    """One self-contained HTML file, and a second one with the public part alone, which is searched like the release.

    Raises CheckFailed, without the public one, if a string of the source is in it.
    """
    refuse_several("report")
    return write_report(folder(config), _search_again(config))


def verify(
    release: Path, policy: Path | None = None, audit: Path | None = None, *, key: Path | None = None,
    against: Path | None = None, report: Path | None = None,
) -> Path:  # fmt: skip
    """Check a release offline, from its own files alone; raises ``CheckFailed`` with all that is wrong.

    With ``policy``, a file of conditions, also by the run's ``audit`` (default: beside the release folder); with
    ``key`` the signature must be by that public key. With ``against``, the manifest of the run, strings and copies of
    its patients are looked for: what comes of it is local. ``report`` (.json or .html) says what was checked and found.
    """
    conditions = None if policy is None else read_policy(policy)
    found = examine(release, key)
    if conditions is not None:
        said = f"{policy} holds ({', '.join(conditions)})"
        found.checks.append(Check("policy", said, tuple(release_faults(conditions, release, audit))))
    if against is not None:
        found.checks += compare(release, against)
    if report is not None:
        write_verify_report(report, found, local=against is not None)
    if found.faults:
        raise CheckFailed(*found.faults)
    for line in checked(found):
        console.say(line)
    if conditions is None:
        console.say("Not asked: a custodian's conditions (--policy FILE)")
    return release


def recognise(paths: Sequence[Path], as_json: bool = False) -> None:
    """Say of every image at ``paths`` by which marks it can be recognised as synthetic, its watermark included.

    Raises InputError for a path without images, and CheckFailed, when all is said, for those where nothing is found.
    """
    faults: list[Fault] = []
    found = []
    for path in paths:
        try:
            found.append(recognised(path))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)
    if as_json:
        print(json.dumps(recognised_json(found), indent=2, allow_nan=False))
    else:
        for one in found:
            print_recognised(one)
    if nowhere := [one for one in found if not one.recognised]:
        got = "no mark, and no watermark (p = {:.2g})"
        expected, remedy = "a mark of a release of imgsynth", "nothing: this does not say that the images are real"
        raise CheckFailed(*[Fault(one.path, got.format(one.p), expected, remedy) for one in nowhere])


def show(folder: Path, port: int = 0, browser: bool = True) -> None:
    """Serve a page with the images of a release, or of a run with its real patients, on 127.0.0.1 until Ctrl-C.

    Raises InputError where ``folder`` is neither or the port is taken.
    """
    shelf = shelf_of(folder, door.extra_transforms)
    try:
        server = ShowServer(shelf, port)
    except OSError as error:
        remedy = "another --port, or none: a free one is then taken"
        raise InputError(Fault(f"port {port}", error.strerror or str(error), "a free port", remedy)) from error
    if shelf.local:
        console.warn("real patients are on this page: it is for this machine only, and no picture of it may leave")
    console.say(f"{len(shelf.entries)} images of {shelf.title}: {server.url}")
    console.say("Ctrl-C ends it.")
    if browser:
        webbrowser.open(server.url)
    with server:
        server.serve_forever()


def ledger(
    folder: Path | None, cohort: str | None = None, *, verify: bool = False, budget: str | None = None,
    issuer: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Put the custodian's decisions on record, and show the ledger, or one cohort; with ``verify`` prove it whole.

    ``budget`` is "COHORT=ε", ``issuer`` "COHORT=NAME". Raises CheckFailed for a ledger that is not whole.
    """
    book = Ledger(folder)
    try:
        records = book.verify() if verify else None
    except Broken as error:
        raise CheckFailed(*error.faults) from error
    if budget is not None:
        name, granted = _pair("--budget", budget, "COHORT=ε")
        book.set_budget(name, _number(granted))
    if issuer is not None:
        book.set_issuer(*_pair("--issuer", issuer, "COHORT=NAME"))
    rows = book.overview()
    chosen = _the_cohort(cohort, [row["cohort"] for row in rows]) if cohort is not None else None
    table = book.table(chosen) if chosen is not None else None
    if as_json:
        shown = [{**row, "entries": table} for row in rows if row["cohort"] == chosen] if chosen is not None else rows
        print(json.dumps({"folder": str(book.folder), "records": records, "cohorts": shown}, indent=2, allow_nan=False))
        return
    print_overview([row for row in rows if chosen in (None, row["cohort"])])
    if chosen is not None and table is not None:
        print_runs(chosen, table)
    if records is not None:
        console.say(f"Whole: {records} records, each as it was written.")
    console.say(f"Ledger: {book.folder}")


def deidentify(source: Path, target: Path, ledger: Path | None = None) -> Path:
    """A de-identified copy of a folder of DICOM files; the folder. Says what was done, and what nobody looked at."""
    said = deidentified_copy(source, target, Ledger(ledger).key())
    counted = ("patients", "files", "no_image_left_out", "unreadable_left_out", "private_elements_removed")
    unseen = said["no_person_looked_at"]
    flagged = ", ".join(f"{why}: {count}" for why, count in unseen["pixels_may_show_text"].items())
    rows = [(name.replace("_", " "), said[name]) for name in counted]
    rows += [("typed text, left as it is", ", ".join(unseen["free_text"]) or "no element"),
             ("pixels that may show text", flagged or "none, by the headers")]  # fmt: skip
    console.table("De-identified, as far as a program can", ("what", "how many"), rows)
    console.say(said["claim"])
    return target / REPORT


def whois(run_dir: Path, hashes: Sequence[str] = ()) -> dict[str, str]:
    """Print the patients whom ``hashes``, or how they begin, stand for in a run: by default those whom its audit found
    to be most at risk, or all where it was not audited. LOCAL ONLY. Raises InputError for hashes that nobody has."""
    everybody, at_risk = patients_of(run_dir), run_dir / "local" / "patients_at_risk.json"
    asked = list(hashes) or (read_json(at_risk) if at_risk.is_file() else list(everybody))
    faults = [
        Fault("hash", one, f"one of the run's {len(everybody)}, or how it begins", f"imgsynth whois {run_dir}")
        for one in asked
        if not any(own.startswith(one) for own in everybody)
    ]
    if faults:
        raise InputError(*faults)
    found = {own: name for one in asked for own, name in everybody.items() if own.startswith(one)}
    console.table("Patients (this must stay where the data are)", ("hash", "id"), list(found.items()))
    return found


def _pair(option: str, given: str, expected: str) -> tuple[str, str]:
    name, equals, value = given.rpartition("=")
    if not (equals and name):
        raise InputError(Fault(option, given, expected, "a cohort as imgsynth ledger shows it, whole"))
    return name, value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(Fault("--budget", text, "a finite ε above 0", "--budget COHORT=12")) from error


def _the_cohort(begins: str, cohorts: list[str]) -> str:
    found = [begins] if begins in cohorts else [name for name in cohorts if name.startswith(begins)]
    if len(found) != 1:
        expected = "one of " + ", ".join(cohorts) if cohorts else "a cohort, but the ledger has none"
        raise InputError(Fault("cohort", begins, expected, "imgsynth ledger lists them all"))
    return found[0]


Stage = tuple[str, Callable[[Config], Path]]


def run(config: Config) -> Path:
    """Every stage; the report."""
    refuse_several("run")
    result = _staged(config, (("train", train), ("sample", sample), ("evaluate", evaluate), ("audit", _audit),
                              ("report", report)))  # fmt: skip
    _keep_policy(config)
    return result


def cell(config: Config) -> Path:
    """A run of a sweep: every stage that is not done yet, but for the report."""
    stages: list[Stage] = [("train", train), ("sample", sample)]
    measured: tuple[Stage, ...] = (("evaluate", evaluate), ("audit", _audit))
    stages += [one for one, file in zip(measured, ("evaluation.json", "audit.json"), strict=True)
               if not (folder(config) / file).is_file()]  # fmt: skip
    return _staged(config, stages)


def _staged(config: Config, stages: Sequence[Stage]) -> Path:
    """One stage after another, and how long each took; the last one's result."""
    seconds = folder(config) / "seconds.json"
    took = read_json(seconds) if seconds.is_file() else {}
    for number, (name, stage) in enumerate(stages, 1):
        console.say(f"[{number}/{len(stages)}] {name}")
        began = time.monotonic()
        result = stage(config)
        took.setdefault(name, round(time.monotonic() - began, 1))  # a finished stage called again does nothing
        write_json(seconds, took)
    return result


def sweep(overrides: Sequence[str]) -> Path:
    """Runs over cohorts, models and ε (``curve.*``), each an ordinary one in the sweep's folder; the page of results.

    All that it will spend is foreseen, printed, and refused as a whole, before any work. A sweep that was interrupted
    goes on with what is not finished, also from ``output=`` alone. Raises InputError with every fault of every cell,
    and CheckFailed, when all is written, where cells failed.
    """
    refuse_several("sweep")
    given = list(overrides)
    if [key for key, _ in door.keys_of(given)] == ["output"]:
        given = [*read_index(SweepFolder(Path(given[0].partition("=")[2]))).overrides, *given]
    config = own_config(given)
    place = SweepFolder(folder(config))
    planned = design(config, given, place)
    spends = foresee(planned, place)
    print_plan(spends, planned, place)
    kept = [line for key, line in door.keys_of(given) if key != "output"]
    write_index(place, kept, planned.cells, facts_of(spends))
    waiting = [(one, cfg) for one, cfg in planned.cells.items() if not place.finished(one)]
    failed = work_through(waiting, place, cell, lambda: write_curve(place))
    page = write_curve(place)
    if failed:
        remedy = f"the same command tries again what may be tried again; {place.root}/logs has what they printed"
        raise CheckFailed(*(Fault(one.name, why(place, one), "a run that ends well", remedy) for one in failed))
    return page
