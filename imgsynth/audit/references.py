"""Reference ("shadow") models: trained by the recipe of the run, on random halves of patients, members known.

They touch real data and stay at home. Each one's own training is as private as the run's (same q, σ, C and T), but it
is seeded and is an instrument of the audit, not a product: like the audit's scores it has no place in the ledger and no
ε of its own. So that none of them can ever be taken for something to release, they have no run folder (no plan, no
configuration), their plan is marked as seeded, and their only copy is under ``local/`` in the run's folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.manifest import Manifest
from imgsynth.console import track
from imgsynth.files import write_text
from imgsynth.measure.images import Images
from imgsynth.models.base import GenerativeModel
from imgsynth.privacy.noise import seed_for
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import AuditConfig, PreprocessConfig, TrainerConfig
from imgsynth.training.checkpoint import load_checkpoint, save_checkpoint
from imgsynth.training.device import choose_device
from imgsynth.training.folder import RunFolder
from imgsynth.training.initial import Initial, begun, stored_initial
from imgsynth.training.queries import ask
from imgsynth.training.run import Run, model_factory
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update, vote_update, warm_up
from imgsynth.training.teachers import Teachers
from imgsynth.types import Fault, InputError

README = """LOCAL ONLY. Reference models of an audit: trained on real patients, with a seed, and not in the ledger.
They exist to judge another model. Never release one, nor anything made from one. They can be deleted at any time;
the next audit trains them again.
"""
FOLDER = Path("local") / "references"  # in a run's folder
MIN_PATIENTS = 4  # for two halves of two
# Of the trainer's settings, those that say where and how often it writes, and not what is computed.
_FREE = ("checkpoint_every", "sheet_every", "device", "memory_format", "threads", "rank_timeout")


@dataclass(frozen=True)
class Recipe:
    """All that a run's training depends on but its patients."""

    model: dict[str, Any]  # {_target_: …, hyperparameters}
    plan: PrivacyPlan
    trainer: TrainerConfig
    preprocess: PreprocessConfig
    shape: tuple[int, ...]
    classes: int
    extra_transforms: tuple[Any, ...] = ()  # those of preprocess.extra, instantiated
    initial: Initial | None = None  # the public weights that it begins with

    @staticmethod
    def of(run: Run, extra_transforms: Sequence[Any] = ()) -> Recipe:
        cfg = run.config
        initial = stored_initial(RunFolder(run.root), run.plan, cfg.init)
        shape, classes = run.grid.shape, run.model.classes
        return Recipe(
            cfg.model, run.plan, cfg.trainer, cfg.preprocess, shape, classes, tuple(extra_transforms), initial
        )

    def networks(self) -> GenerativeModel:
        """As training begins with them: public weights where there are any, random numbers for the rest."""
        return begun(model_factory(self.model)(self.shape, self.classes), self.initial)

    def for_patients(self, n: int) -> PrivacyPlan:
        """The run's mechanism on ``n`` patients: the same rate, noise, clipping and steps, and so the same ε and the
        same number of visits to each patient. Without label histogram and choice of weights: a
        reference ends with those of its last step."""
        return replace(self.plan, n=n, seeded=True, histogram_epsilon=0.0, selection=None)

    def overfitted(self, n: int, steps: int, clipped: bool = False) -> Recipe:
        """The same networks and optimizers, ``steps`` steps on batches of half of ``n`` patients: for a positive
        control. Without privacy, or ``clipped``: by the run's own mechanism with its noise multiplier at 0. Where
        teachers vote, it is one, who knows all of them and whose word is taken."""
        queries = tuple(replace(query, noise_multiplier=0.0) for query in self.plan.queries)
        summary = self.trainer.optimizer == "summary"  # is taken as ever, of all; its generator is trained for long
        whole = summary or self.plan.teachers is not None
        plan = replace(
            self.plan, mode="dp" if clipped else "none", n=n, sampling_rate=1.0 if whole else 0.5,
            steps=self.plan.steps if summary else steps, noise_multiplier=0.0, histogram_epsilon=0.0,
            clipping_quantile=self.plan.clipping_quantile if clipped else None, count_noise_multiplier=0.0, seeded=True,
            queries=queries, selection=None, teachers=None if self.plan.teachers is None else 1,
        )  # fmt: skip
        trainer = replace(self.trainer, steps=plan.steps, steps_after=steps if summary else 0)
        return replace(self, plan=plan, trainer=trainer)

    def images(self, manifest: Manifest, names: Sequence[str]) -> PatientDataset:
        """The patients ``names`` of a cohort, whatever their split, as this recipe's training reads them."""
        return PatientDataset(
            _as_train(manifest, names), "train", self.preprocess, self.plan.images_per_patient, "memory",
            extra=self.extra_transforms, copies=self.plan.augmentation_multiplicity,
        )  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """``model`` as a run would open it (averaged generator, other parts as last trained), and who trained it."""

    model: GenerativeModel
    members: frozenset[str]

    def saw(self, names_P: np.ndarray) -> np.ndarray:
        """[P] whether each of the patients was trained on."""
        return np.array([str(name) in self.members for name in names_P], dtype=bool)


def references(
    recipe: Recipe, manifest: Manifest, names: Sequence[str], count: int, seed: int, folder: Path
) -> list[Reference]:
    """``count`` references (even) on complementary halves of the patients ``names``; those in ``folder`` are reused.

    Each is found by the content of its recipe, images and seed, and appears whole or not at all, so that the same call
    goes on wherever the last one was killed. Raises InputError for an odd count or too few patients.
    """
    faults = []
    if count < 2 or count % 2:
        faults.append(Fault("audit.references", str(count), "an even number, 2 or more", "audit.references=4"))
    if len(names) < MIN_PATIENTS:
        faults.append(Fault("audit.references", f"{len(names)} patients", f"{MIN_PATIENTS} or more", "a larger cohort"))
    if faults:
        raise InputError(*faults)

    @cache
    def dataset() -> PatientDataset:  # images are opened when the first reference has to be trained
        return recipe.images(manifest, names)

    found = []
    for index, members in enumerate(complementary_halves(names, count, seed)):
        own = seed_for(f"reference {index}", seed) % 2**63
        path = folder / f"{content_key(recipe, manifest, members, own)}.pt"
        if not path.is_file():
            what = f"reference model {index + 1} of {count}"
            store(path, train_reference(recipe, dataset(), members, own, what))
        found.append(Reference(load(path, recipe), frozenset(members)))
    return found


def for_audit(
    run: Run, members: Images, nonmembers: Images, settings: AuditConfig, extra_transforms: Sequence[Any] = ()
) -> tuple[Reference, ...]:
    """``settings.references`` references on halves of the audited patients together, kept in ``local/references`` of
    the run; none where the setting is 0."""
    if not settings.references:
        return ()
    names = [str(name) for images in (members, nonmembers) for name in images.names_P]
    folder = run.root / FOLDER
    recipe = Recipe.of(run, extra_transforms)
    return tuple(references(recipe, run.manifest, names, settings.references, settings.seed, folder))


def described(made: Sequence[Reference]) -> dict[str, Any]:
    """What ``audit.json`` records of them."""
    note = f"trained on real patients with a seed, kept in {FOLDER}, not in the ledger; never to be released"
    return {"count": len(made), "patients_each": [len(one.members) for one in made], "note": note if made else ""}


def complementary_halves(names: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """``count`` (even) subsets: random halves, each followed by the other half.

    Every patient is in exactly half of them, and is in one with probability ½ whoever it is.
    """
    random = np.random.default_rng(seed)
    halves = []
    for _ in range(count // 2):
        order = random.permutation(np.array(sorted(names), dtype=object))
        halves += [sorted(order[: len(order) // 2]), sorted(order[len(order) // 2 :])]
    return halves


def train_reference(
    recipe: Recipe, dataset: PatientDataset, members: Sequence[str], seed: int, what: str = "reference model"
) -> GenerativeModel:
    """Train as the run was trained, on ``members`` of ``dataset`` alone; repeats bit for bit on one machine.

    Torch's own random state is left as it was; ``what`` is for the progress bar. Raises CheckFailed when training
    diverges.
    """
    places = {dataset.patient(index): index for index in range(len(dataset))}
    rows = [places[name] for name in members]
    plan, device = recipe.for_patients(len(rows)), choose_device(recipe.trainer)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = recipe.networks()
        state = TrainingState(model, plan, recipe.trainer, patients=len(rows), seed=seed, device=device)
        dataset.generator = state.picks
        ask(state, plan, dataset, rows, "before")
        warm_up(state, plan, recipe.trainer.steps_before)
        teachers = None if plan.teachers is None else Teachers.of(state, plan, dataset, rows, seed)
        for _ in track(range(plan.steps + recipe.trainer.steps_after), what):
            state.step += 1
            if state.step <= plan.steps and teachers is not None:
                vote_update(state, plan, teachers)
            elif state.step <= plan.steps:
                batch = dataset.batch([rows[i] for i in state.sampler.draw()]).to(device)
                private_update(state, plan, batch)
            post_processing_updates(state, plan.companion_size)
            state.ema.update(state.model)
        ask(state, plan, dataset, rows, "after")
    state.model.generator.load_state_dict(state.ema.model.generator.state_dict())
    return state.model.to("cpu").eval().requires_grad_(False)


def store(path: Path, model: GenerativeModel) -> None:
    """Keep a reference, in a folder that says what it is."""
    write_text(path.parent / "README.txt", README)
    save_checkpoint(path, {"reference": model.state_dict()})


def load(path: Path, recipe: Recipe) -> GenerativeModel:
    model = recipe.networks()
    model.load_state_dict(load_checkpoint(path)["reference"])
    return model.eval().requires_grad_(False)


def content_key(recipe: Recipe, manifest: Manifest, members: Sequence[str], seed: int) -> str:
    """SHA-256 of all that a reference depends on. LOCAL ONLY: it hashes patients' ids and images."""
    items = sorted((item.patient, item.digest, item.label or "") for item in _as_train(manifest, members).items)
    trainer = {key: value for key, value in dataclasses.asdict(recipe.trainer).items() if key not in _FREE}
    plan = recipe.for_patients(len(members)).to_json()
    content = [recipe.model, recipe.shape, recipe.classes, plan, trainer, dataclasses.asdict(recipe.preprocess), items]
    if recipe.initial is not None:
        content.append([recipe.initial.digest, recipe.initial.train, recipe.initial.rank])
    return hashlib.sha256(json.dumps([*content, seed], sort_keys=True).encode()).hexdigest()[:32]


def _as_train(manifest: Manifest, names: Sequence[str]) -> Manifest:
    wanted = set(names)
    items = tuple(replace(item, split="train") for item in manifest.items if item.patient in wanted)
    return replace(manifest, items=items, fingerprint="")
