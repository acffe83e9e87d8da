"""The command line: one verb a stage, Hydra overrides after it."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from imgsynth import __version__, console
from imgsynth.types import Fault, ImgsynthError, InputError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""From a folder of scans to a verified synthetic release, with patient-level differential privacy.

Every verb takes Hydra overrides, `key=value` or `group=choice`, and `output=DIR`, the run's folder (default: below
`runs/`). A verb can be run again: it goes on where it stopped.

    imgsynth run experiment=demo                                   phantoms, the whole path, minutes on a laptop
    imgsynth inspect data=nifti data.root=DIR                      what is in there, what is wrong, what ε costs
    imgsynth plan plan.patients=400 privacy.epsilon=8              which method, and whether any is worth its ε
    imgsynth run data=nifti data.root=DIR privacy.epsilon=8 output=DIR2
    imgsynth verify DIR2/release
    imgsynth sweep experiment=curve                                utility and audit over ε, models and cohorts
    imgsynth recognise FILES                                       are they synthetic? also after conversion
    imgsynth show DIR2                                             the volumes, real and synthetic, in a page
    imgsynth ledger                                                what was ever spent on which patients

Exit codes: 0 done, 1 a check failed, 2 the input or the configuration is wrong.""",
)


def _groups() -> dict[str, list[str]]:
    from imgsynth.config import config_folder

    return {g.name: sorted(f.stem for f in g.glob("*.yaml")) for g in sorted(config_folder().iterdir()) if g.is_dir()}


def _keys() -> list[str]:
    from imgsynth.schema import Config

    keys, config = [], Config()
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        inner = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        keys += [f"{section.name}.{field.name}=" for field in inner] or [f"{section.name}="]
    return keys


def complete(incomplete: str) -> list[str]:
    """Shell completion of ``group=choice`` and ``section.key=``."""
    choices = [f"{group}={choice}" for group, names in _groups().items() for choice in names]
    return [word for word in ["canaries", *choices, *_keys()] if word.startswith(incomplete)]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides: key=value or group=choice.", autocompletion=complete, metavar="OVERRIDE…"),
]


def _verb(name: str, overrides: list[str] | None, following: str | None) -> None:
    from imgsynth import config, pipeline

    started = time.monotonic()
    checked = config.from_overrides(name, overrides or [])
    result = getattr(pipeline, name)(checked)
    console.say(f"{name.replace('_', ' ')}: done in {time.monotonic() - started:.0f} s")
    if name == "run":
        console.say(f"Release: {pipeline.folder(checked) / 'release'}")
    console.done(result, following.format(output=checked.output) if following else None)


@app.command()
def inspect(overrides: Overrides = None) -> None:
    """Look at a cohort: who and what is in it, what is wrong with it, and which noise which ε would need.

    Writes a plan too, an experiment file with grid, method, batch and steps for this many patients, and says what it
    will take on this machine: read it, change it, then `imgsynth run experiment=FILE`.

    Example: `imgsynth inspect data=dicom data.root=/data/export`
    """
    _verb("inspect", overrides, "imgsynth run experiment={output}/experiment/proposed.yaml")


@app.command()
def plan(overrides: Overrides = None) -> None:
    """Choose a method: rank them for so many patients, this ε, grid and machine, and say when none is worth its ε.

    How many patients is declared (`plan.patients=400`, those to train on) or counted by the headers of `data=…`; no
    image is opened, nothing is trained or spent. Methods are ranked by what they came to on phantoms at the nearest
    number of patients, ε and grid that were measured, beside noised class means at the same ε. `init.run=RUN` says
    that there are public weights to begin with, `plan.hours=2` how long training may take here. docs/generators.md.

    Example: `imgsynth plan plan.patients=335 data.modality=DX privacy.epsilon=8`,
    `imgsynth plan data=dicom data.root=/data/export privacy.epsilon=3`
    """
    from imgsynth import pipeline

    pipeline.plan(overrides or [])


@app.command()
def train(overrides: Overrides = None) -> None:
    """Train a generator, or go on with the run in `output=`.

    Example: `imgsynth train data=nifti data.root=DIR model=vae privacy.epsilon=8 privacy.delta=1e-5 output=RUN`
    """
    _verb("train", overrides, "imgsynth sample output={output}")


@app.command()
def select(
    runs: Annotated[list[str], typer.Argument(help="Folders of runs, then selection.key=value and output=DIR.")],
) -> None:
    """Choose one of several finished runs on one cohort by a vote of its patients, for an ε of its own.

    Each patient votes for the run whose images look most like his; `selection.rule` is noisy_max or exponential. The
    choice is on record in the ledger before an image is opened, and is made once. Which *step* a run ends with is a
    setting of training (`selection.*`, docs/privacy.md).

    Example: `imgsynth select RUN1 RUN2 selection.rule=noisy_max selection.epsilon=0.5 output=CHOICE`
    """
    from imgsynth import pipeline
    from imgsynth.files import read_json

    folders, overrides = [one for one in runs if "=" not in one], [one for one in runs if "=" in one]
    if not folders:
        raise InputError(Fault("imgsynth select", "no run", "folders of two runs or more", "imgsynth select RUN RUN …"))
    record = pipeline.select([Path(one) for one in folders], overrides)
    console.done(record, f"imgsynth sample output={read_json(record)['selected']}")


@app.command()
def sample(overrides: Overrides = None) -> None:
    """Write the release: synthetic volumes, privacy card, checksums.

    It goes on where it was interrupted. With `sample.seed=N` it gives the same bytes every time (docs/release.md).

    Example: `imgsynth sample output=RUN sample.n=200 sample.formats=[dicom]`
    """
    _verb("sample", overrides, "imgsynth evaluate output={output}")


@app.command()
def evaluate(overrides: Overrides = None) -> None:
    """Measure fidelity, diversity and utility against the real test patients.

    Example: `imgsynth evaluate output=RUN encoder=random_conv`
    """
    _verb("evaluate", overrides, "imgsynth audit output={output}")


@app.command()
def explain(overrides: Overrides = None) -> None:
    """Show what a generator does: latent traversals, class contrasts, repeats, failures; and what gives it away.

    What is made from the generator alone is in RUN/explain, and may be shown where the privacy card says releasable.
    What looks at real patients (maps of a real/synthetic classifier, by captum: extra `explain`) is in
    RUN/local/explain, and must stay. The report shows both, its public part the former (docs/explain.md).

    Example: `imgsynth explain output=RUN`, `imgsynth explain output=RUN encoder=random_conv explain.attributed=0`
    """
    _verb("explain", overrides, "imgsynth report output={output}")


@app.command()
def audit(overrides: Overrides = None) -> None:
    """Attack the release, the model and the trainer, with controls; search every file for strings of the source.

    Which attacks: `audit=quick` (the primary one), `audit=default`, or `audit=full`, which also trains reference models
    by the run's recipe (`audit.references`) and two that remember (`audit.overfit_steps`). `audit.primary` is the
    attack that decides, fixed before; null lets all decide, each at its share of `audit.alpha`. `audit.n` is about how
    many real images of members, of non-members and of reference patients are compared. `audit.policy=FILE` ends with
    exit code 1 where a condition of the custodian is not met. All of it stays in the run's folder: audit.json, local/.

    `imgsynth audit canaries` audits the trainer instead: twins of the run with pseudo-patients, and a lower bound on ε
    from how well secret coins can be guessed (`audit.canaries.*`). What is asked and how: docs/audit/README.md.

    Example: `imgsynth audit output=RUN`, `imgsynth audit audit=full output=RUN`,
    `imgsynth audit canaries output=RUN audit.canaries.m=1000`
    """
    if overrides and "=" not in overrides[0] and overrides[0] != "canaries":
        raise InputError(
            Fault("imgsynth audit", repr(overrides[0]), "nothing, or canaries, before the settings (key=value)",
                  "imgsynth audit canaries output=RUN")
        )  # fmt: skip
    if overrides and overrides[0] == "canaries":
        _verb("audit_canaries", overrides[1:], "imgsynth report output={output}")
    else:
        _verb("audit", overrides, "imgsynth report output={output}")


@app.command()
def report(overrides: Overrides = None) -> None:
    """Write the HTML report of a run, whole (local) and public.

    Example: `imgsynth report output=RUN`
    """
    _verb("report", overrides, "imgsynth verify {output}/release")


@app.command()
def run(overrides: Overrides = None) -> None:
    """All of it: train, sample, evaluate, audit, report.

    Example: `imgsynth run data=nifti data.root=DIR model=vae privacy.epsilon=8 privacy.delta=1e-5 trainer.steps=200
    sample.n=64 output=RUN`
    """
    _verb("run", overrides, "imgsynth verify {output}/release")


@app.command()
def sweep(overrides: Overrides = None) -> None:
    """Privacy against utility: runs over ε, models and cohorts, and one table and figure of what came of them.

    `curve.epsilons=[1,3,8,inf]` (inf: without privacy), `curve.models=[vae,mepf]`, `curve.repetitions=3`, and
    `curve.cohorts` for several cohorts (configs/experiment/leaderboard.yaml). Every cell is an ordinary run below
    `output=DIR/cells`. What all of them spend is printed, and refused as a whole where it would pass a budget, before
    the first begins. Interrupted, the same command (or `output=DIR` alone) goes on and spends nothing twice; finished,
    it makes the tables anew. All that it writes is local: curve.html, .md, .csv, .json and figures. docs/sweeps.md.

    Example: `imgsynth sweep experiment=curve output=SWEEP`,
    `imgsynth sweep data=nifti data.root=DIR curve.epsilons=[1,8] privacy.budget_epsilon=12 output=SWEEP`
    """
    from imgsynth import pipeline

    console.done(pipeline.sweep(overrides or []))


@app.command()
def verify(
    release: Annotated[Path, typer.Argument(help="A release folder.")],
    policy: Annotated[
        Path | None, typer.Option(help="The custodian's conditions (YAML), judged by the card and the audit.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="The run's audit.json; default: beside the release folder. For --policy.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The publisher's public key (PEM): the release must be signed with it.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="MANIFEST", help="The run's manifest.json: look for its patients' strings and images."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was checked and found, as .json or .html.")
    ] = None,
) -> None:
    """Check a release from its own files: checksums, signature, card against settings and accountant, every document,
    DICOM, NIfTI and Zarr, and that no name, date, address, path or foreign UID is in it.

    It needs the release alone: no run, no ledger, no network. With `--policy` the release must also keep the
    conditions in that file (docs/audit/policy.md). With `--against MANIFEST`, in the house, the source's strings are
    looked for in every byte, and copies of patients among the images; the report is then local. What each check finds:
    docs/release.md.

    Example: `imgsynth verify release`, `imgsynth verify RUN/release --policy policy.yaml --report checked.html`,
    `imgsynth verify RUN/release --against RUN/manifest.json`
    """
    from imgsynth import pipeline

    done = pipeline.verify(release, policy, audit, key=key, against=against, report=report)
    console.done(done, "hand over the folder, whole")


@app.command()
def recognise(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of images.", metavar="PATH…")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say whether images are synthetic: by headers, sidecars, and the watermark in their voxels, if they have one.

    It reads DICOM, NIfTI, PNG, JPEG, TIFF, npz, npy and Zarr, and needs neither the release nor the original. The
    watermark (`release.watermark`) is looked for after resampling, cropping, flips and conversion to 8 bits too, in
    each image and in all of one size together. Exit code 0 where something is recognised in every PATH, else 1. Nothing
    found does not say that images are real. How sure it is: docs/recognition.md.

    Example: `imgsynth recognise RUN/release`, `imgsynth recognise converted/ slice.png --json`
    """
    from imgsynth import pipeline

    pipeline.recognise(paths, as_json)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A release, or the folder of a run.")],
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page, or only print where.")] = True,
) -> None:
    """Look at volumes in three planes, in a page on this machine: a release alone, or a run's beside its real patients.

    The page is served on 127.0.0.1 to whoever has the printed address, and loads nothing from elsewhere. Of a run it
    shows real patients, and says so.

    Example: `imgsynth show RUN/release`, `imgsynth show RUN --no-browser`
    """
    from imgsynth import pipeline

    try:
        pipeline.show(folder, port, browser)
    except KeyboardInterrupt:
        console.say("Ended.")


@app.command()
def ledger(
    cohort: Annotated[str | None, typer.Argument(help="A cohort's name or fingerprint, or how it begins.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Prove that no record was changed or lost.")] = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="COHORT=ε", help="Grant a cohort this ε in all: the custodian's act, on record."),
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="COHORT=NAME", help="Say who gave out the patient ids of a cohort, on record.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="The ledger; default: $IMGSYNTH_LEDGER, ~/.imgsynth/ledger.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else; null is ∞.")] = False,
) -> None:
    """Show what was ever spent on whom: all cohorts, or one run by run; verify it; decide on budgets.

    A cohort's ε is that of all runs on its patients together, also of runs on other cohorts that have the same patients
    (known by keyed hashes of their ids). Runs that would pass the smallest budget declared for such a cohort are
    refused; only `--budget` raises it.

    Two data sets that both number their patients 1, 2, 3 look like the same patients. If they are not, say who gave
    out the ids: `data.issuer=NAME` for the next run, `--issuer` for those of before. Ids of two issuers are never one
    patient, so say it only where it is true.

    Example: `imgsynth ledger`, `imgsynth ledger lungs-2024`, `imgsynth ledger --verify`,
    `imgsynth ledger --budget lungs-2024=12`
    """
    from imgsynth import pipeline

    pipeline.ledger(folder, cohort, verify=verify, budget=budget, issuer=issuer, as_json=as_json)


@app.command()
def deidentify(
    source: Annotated[Path, typer.Argument(help="A folder of DICOM files.")],
    target: Annotated[Path, typer.Argument(help="A new folder, for the copies.")],
    ledger: Annotated[
        Path | None, typer.Option(help="Whose key replaces ids; default: $IMGSYNTH_LEDGER, ~/.imgsynth/ledger.")
    ] = None,
) -> None:
    """Copy a folder of DICOM files without names, ids, dates and private elements, by dicognito (extra `deid`).

    Equal ids become equal ids, also in a later call with the same ledger's key. It says what nobody looked at: pixels,
    and text that people typed. No claim is made that it is complete; training does not need it.

    Example: `imgsynth deidentify EXPORT COPY`
    """
    from imgsynth import pipeline

    console.done(pipeline.deidentify(source, target, ledger), "imgsynth inspect data=dicom data.root=" + str(target))


@app.command()
def whois(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    hashes: Annotated[list[str] | None, typer.Argument(help="Hashes, or how they begin.", metavar="HASH…")] = None,
) -> None:
    """Say which patients the hashes in a run's local files are, by reading its source again. For the custodian.

    Without a hash: those whom the audit found to be most at risk (local/patients_at_risk.json). It takes the source
    and the ledger's key; nothing is stored.

    Example: `imgsynth whois RUN`, `imgsynth whois RUN 3fa2c1`
    """
    from imgsynth import pipeline

    pipeline.whois(run, hashes or ())


@app.command()
def groups() -> None:
    """List the configuration groups and their choices."""
    console.table("Groups (group=choice)", ("group", "choices"), [(g, ", ".join(c)) for g, c in _groups().items()])


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        console.say(__version__)
        raise typer.Exit


def tell(error: ImgsynthError) -> int:
    """Print every fault of ``error``; its exit code. Of the processes of a torchrun, one prints."""
    from imgsynth.training.distributed import has_the_word

    if not has_the_word():
        return error.exit_code
    console.err.quiet = False
    console.err.print(f"{len(error.faults)} fault{'s' * (len(error.faults) != 1)}:", style="bold red")
    for fault in error.faults:
        console.err.print(f"- {fault.where}", style="bold", markup=False)
        console.err.print(
            f"    got      {fault.got}\n    expected {fault.expected}\n    try      {fault.remedy}", markup=False
        )
    return error.exit_code


@contextmanager
def telling() -> Iterator[None]:
    """A job of a Hydra main: what is wrong is said where the job runs, and ends the process. In a sweep it is passed on
    instead, as other jobs go on."""
    from imgsynth.config import in_sweep

    try:
        yield
    except ImgsynthError as error:
        code = tell(error)
        if not in_sweep():
            sys.exit(code)
        _told.append(error)
        raise


_told: list[ImgsynthError] = []  # in this process; a job of a sweep may have run in another


def script(main: Callable[[], None]) -> None:
    """Run a Hydra main, one job or a sweep of them, and exit with the code of the first job that failed."""
    from imgsynth.config import HYDRA_ERRORS

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's way of letting errors through to us
    try:
        main()
    except ImgsynthError as error:
        sys.exit(error.exit_code if any(error is told for told in _told) else tell(error))
    except HYDRA_ERRORS as error:
        err = Fault("command line", " ".join(str(error).split()), "names of files in configs/ and key=value",
                    "python scripts/<verb>.py --help")  # fmt: skip
        sys.exit(tell(InputError(err)))


def as_fault(error: OSError) -> InputError:
    """A full disk or a read-only folder, said as what it is."""
    remedy = (
        "free some space and run the same command again"
        if error.errno == errno.ENOSPC
        else "output=<a folder that you may write>"
    )
    return InputError(
        Fault(
            str(error.filename or "a file"), error.strerror or str(error), "a file that can be read or written", remedy
        )
    )


def main() -> None:
    try:
        app(standalone_mode=False, prog_name="imgsynth")
    except ImgsynthError as error:
        sys.exit(tell(error))
    except OSError as error:
        sys.exit(tell(as_fault(error)))
    except (typer.Abort, KeyboardInterrupt):
        console.err.print("Stopped. The same command goes on where it stopped.")
        sys.exit(130)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # a click usage error: unknown verb or option
        if usage is None:
            raise
        console.err.print(f"{usage()}\nTry: imgsynth --help", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
