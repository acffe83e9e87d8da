"""PATE-GAN does not have what is wrong with the public implementations of it.

Ganev, Annamalai and De Cristofaro 2024 (arXiv:2406.13985) audited six of them: all leak, by 19 violations. Each kind of
violation, as their issues at the projects (synthcity 275, 276, 278; mlforhealthlabpub 29, 31, 36; BorealisAI's
private-data-generation 11, 12; smartnoise-sdk 596) and their marked copies of the code (pategan-audit) show it, has a
test here by name; those of noise and accounting are in tests/privacy/test_votes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imgsynth.audit.canaries.run import twin_plan
from imgsynth.audit.references import Recipe, train_reference
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.votes import teacher_of
from imgsynth.schema import Config
from imgsynth.training import loop, publish, steps
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.run import load_run
from imgsynth.training.steps import post_processing_updates, vote_update
from imgsynth.training.teachers import Teachers, how_many
from imgsynth.types import InputError
from tests.training.voting import Ward, class_of, plan_of, small, teachers_of

Configure = Callable[..., Config]
Train = Callable[..., Path]
PATIENTS = 24


def taught(ward: Ward, rows: range | list[int], rounds: int = 3) -> tuple[torch.Tensor, Teachers]:
    """Votes [K, M] of teachers of ``rows`` after some steps, all else being equal."""
    model = small()
    random = torch.Generator().manual_seed(5)
    teachers = teachers_of(model, ward, 4, rows)
    make = torch.no_grad()(model.objectives()[0].votes.fakes.make)
    for _ in range(rounds):
        teachers.learn(*make(*model._draw(4, random)))
    return teachers.vote(*make(*model._draw(40, random))), teachers


# --- Which patients a teacher knows -----------------------------------------------------------------------------------


def test_every_patient_has_exactly_one_teacher() -> None:
    """Published: every teacher samples from the whole cohort (the original, reprosyn)."""
    rows_K = teachers_of(small(), Ward.of(PATIENTS), 4, range(PATIENTS)).rows_K
    assert sorted(np.concatenate(rows_K).tolist()) == list(range(PATIENTS))
    assert all(len(rows) > 0 for rows in rows_K)


def test_a_teacher_is_shown_its_own_patients_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published: one partition is handed to every teacher (mlforhealthlabpub 29)."""
    ward = Ward.of(PATIENTS)
    ward.x_NC[:] = torch.arange(PATIENTS).view(-1, 1, 1, 1).float()  # an image says whose it is
    teachers = teachers_of(small(), ward, 4, range(PATIENTS))
    seen: list[set[int]] = [set() for _ in range(4)]
    for _ in range(40):
        x_KBC, _, _ = teachers._own_batches(torch.device("cpu"))
        for k in range(4):
            seen[k] |= set(x_KBC[k].flatten().int().tolist())
    assert seen == [set(rows.tolist()) for rows in teachers.rows_K]
    for row in range(PATIENTS):
        assert row in seen[teacher_of(ward.patient(row), teachers._key, 4)]


def test_a_patient_who_comes_or_goes_moves_no_other() -> None:
    """Published: slices of a list (smartnoise, private-data-generation), in which one more patient shifts the rest."""
    ward = Ward.of(PATIENTS)
    whole = teachers_of(small(), ward, 4, range(PATIENTS)).rows_K
    for gone in range(PATIENTS):
        rest = teachers_of(small(), ward, 4, [r for r in range(PATIENTS) if r != gone]).rows_K
        for a, b in zip(whole, rest, strict=True):
            assert [r for r in a if r != gone] == b.tolist()


def test_a_patient_keeps_its_teacher_for_the_whole_run(configure: Configure, train_run: Train,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Published: patients are dealt out anew in every round (synthcity 275). Here not even by a kill, unseeded."""
    dealt: list[list[list[int]]] = []
    original = steps.vote_update

    def spy(state, plan, teachers):
        dealt.append([rows.tolist() for rows in teachers.rows_K])
        return original(state, plan, teachers)

    monkeypatch.setattr(loop, "vote_update", spy)
    cfg = configure("pategan", privacy={"seed": None})
    interrupted_at(cfg, train_run, monkeypatch, 7)
    train_run(cfg)
    assert len(dealt) == 7 + 3  # of 9 steps the seventh was lost and taken again
    assert all(one == dealt[0] for one in dealt)


@pytest.mark.parametrize("gone", range(0, PATIENTS, 3))
def test_without_one_patient_the_votes_of_one_teacher_change_and_of_no_other(gone: int) -> None:
    """The sensitivity that ε stands on, by brute force; to the bit, in weights too."""
    ward = Ward.of(PATIENTS)
    votes, whole = taught(ward, range(PATIENTS))
    fewer, rest = taught(ward, [r for r in range(PATIENTS) if r != gone])
    own = teacher_of(ward.patient(gone), whole._key, 4)
    others = [k for k in range(4) if k != own]
    assert torch.equal(votes[others], fewer[others])
    for name, weight in whole._weights.items():
        assert torch.equal(weight[others], rest._weights[name][others])
    assert any(not torch.equal(w[own], rest._weights[name][own]) for name, w in whole._weights.items())
    assert (votes.int().sum(0) - fewer.int().sum(0)).abs().max() <= 1


def test_a_patient_whose_image_is_no_number_silences_its_own_teacher_alone() -> None:
    ward, broken = Ward.of(PATIENTS), Ward.of(PATIENTS)
    broken.x_NC[3] = torch.nan
    votes, teachers = taught(ward, range(PATIENTS), rounds=8)
    bad, _ = taught(broken, range(PATIENTS), rounds=8)
    own = teacher_of(ward.patient(3), teachers._key, 4)
    others = [k for k in range(4) if k != own]
    assert torch.equal(votes[others], bad[others])
    assert not bad[own].any()  # and nothing is raised, which would depend on patients


def test_a_teacher_without_patients_changes_nothing_for_others_and_stays_as_it_was() -> None:
    ward = Ward.of(PATIENTS)
    whole = teachers_of(small(), ward, 4, range(PATIENTS))
    without = [r for r in range(PATIENTS) if r not in whole.rows_K[2]]
    votes, _ = taught(ward, range(PATIENTS))
    fewer, teachers = taught(ward, without)
    assert teachers.without_patients == 1
    assert torch.equal(votes[[0, 1, 3]], fewer[[0, 1, 3]])
    fresh = teachers_of(small(), ward, 4, without)
    assert all(torch.equal(w[2], fresh._weights[name][2]) for name, w in teachers._weights.items())


# --- What the student and the generator know --------------------------------------------------------------------------


def run_with(ward: Ward, bits_KM: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Student and generator after 4 steps, where teachers say ``bits_KM`` (None: what they think)."""
    model = small()
    state, teachers = class_of(model, ward, plan := plan_of(len(ward)))
    if bits_KM is not None:
        monkeypatch.setattr(teachers, "vote", lambda *_: bits_KM)
    for _ in range(4):
        state.step += 1
        vote_update(state, plan, teachers)
        post_processing_updates(state, plan.companion_size)
    return state.state_dict()["model"]


def test_student_and_generator_see_no_real_image_and_no_real_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published: the discriminator is trained on real images beside (the original, reprosyn, synthcity), labels of real
    patients are the conditions of generated ones (the original). With the votes held fast, another cohort of other
    images, labels and class frequencies makes the same weights, to the bit."""
    bits_KM = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    other = Ward(torch.rand(PATIENTS, 1, 8, 8) * 2 - 1, torch.zeros(PATIENTS, dtype=torch.int64))
    ours, theirs = (run_with(ward, bits_KM, monkeypatch) for ward in (Ward.of(PATIENTS), other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (run_with(ward, None, monkeypatch) for ward in (Ward.of(PATIENTS), other))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)  # the votes do tell


def test_no_real_tensor_reaches_the_students_or_the_generators_forward_pass() -> None:
    model, ward = small(), Ward.of(PATIENTS)
    ward.x_NC[:] = 0.8125  # no generated image is the same number everywhere
    state, teachers = class_of(model, ward, plan := plan_of(PATIENTS))
    shown: list[torch.Tensor] = []
    for part in (state.model.S.trunk[0], state.model.G.stem):
        part.register_forward_pre_hook(lambda _, inputs: shown.extend(inputs))
    for _ in range(3):
        vote_update(state, plan, teachers)
        post_processing_updates(state, plan.companion_size)
    assert shown
    assert not any((x.detach().flatten(1) == 0.8125).any() for x in shown)


def test_how_much_is_drawn_does_not_follow_the_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published: batches as large as a partition (synthcity). The position of the public generator would tell n."""
    positions = []
    for patients in (PATIENTS, 5, 1):
        state, teachers = class_of(small(), Ward.of(patients), plan := plan_of(PATIENTS))
        vote_update(state, plan, teachers)
        positions.append((state.random.get_state(), teachers._random.get_state(), state.noise.state_dict()["random"]))
    assert all(torch.equal(a, b) for one in positions[1:] for a, b in zip(positions[0], one, strict=True))


def test_nothing_is_scaled_by_the_cohort(configure: Configure, train_run: Train, tmp_path: Path) -> None:
    """Published: bounds, minima and maxima are read off the real data (synthcity 278, mlforhealthlabpub 31, and four
    more). One patient with the largest values that there are changes nobody else's image."""
    seen = []
    for brightest in (0, 255):
        with np.load(configure().data.root) as arrays:
            images, labels, ids = arrays["images"].copy(), arrays["labels"], arrays["patient_ids"]
        images[ids == "p001"] = brightest
        np.savez(path := tmp_path / f"{brightest}.npz", images=images, labels=labels, patient_ids=ids)
        cfg = configure("pategan", data={"root": str(path)})
        run = load_run(train_run(cfg, f"run{brightest}"))
        dataset = PatientDataset(run.manifest, "train", cfg.preprocess)
        seen.append({name: x_C for name, x_C, _ in dataset.all_images() if name != "p001"})
    assert len(seen[0]) > 20 and all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


# --- What is counted, and what is kept --------------------------------------------------------------------------------


def test_every_vote_counts_whatever_it_says(monkeypatch: pytest.MonkeyPatch, configure: Configure,
                                            train_run: Train) -> None:  # fmt: skip
    """Published: labels are left out of the account where most votes say real (synthcity), the number of rounds follows
    the votes (all with a data-dependent accountant)."""
    spent = []
    for bits in (True, False):
        asked: list[int] = []

        def add(self: NoiseSource, value: torch.Tensor, std: float, divisor: float = 1.0, *, asked=asked) -> object:
            asked.append(value.numel())
            return value.double() / divisor

        with monkeypatch.context() as patch:
            patch.setattr(Teachers, "vote", lambda self, x, y, bits=bits: torch.full((5, len(x)), bits))
            patch.setattr(NoiseSource, "add", add)
            cfg = configure("pategan", privacy={"seed": None})
            run_dir = train_run(cfg, f"run{bits}")
        run = load_run(run_dir)
        assert asked == [6] * run.plan.steps  # one vector of M counts for each of the T steps
        (entry,) = (e for e in Ledger(cfg.privacy.ledger).entries(run.manifest.fingerprint) if e.run == run_id(run_dir))
        spent.append((entry.event, entry.epsilon, run.step))
    assert spent[0] == spent[1]
    assert spent[0][0] == run.plan.event() and run.plan.event().count == 9


def run_id(run_dir: Path) -> str:
    return (run_dir / "run_id.txt").read_text().strip()


def test_no_vote_is_taken_beyond_the_plan() -> None:
    """Published: one more round after the budget is reached (while ε̂ < ε)."""
    state, teachers = class_of(small(), Ward.of(PATIENTS), plan := plan_of(PATIENTS, steps=2))
    for _ in range(2):
        vote_update(state, plan, teachers)
    with pytest.raises(InputError, match="beyond step 2"):
        vote_update(state, plan, teachers)


def test_the_number_of_teachers_follows_the_declared_size(configure: Configure, train_run: Train) -> None:
    """Published: k, δ and batch sizes are computed from the number of real rows (smartnoise, synthcity)."""
    votes = small(teachers=None).objectives()[0].votes
    assert [how_many(votes, n) for n in (1, 100, 478, 5000)] == [2, 5, 23, 200]
    cfg = configure("pategan", privacy={"n": 80})
    run = load_run(train_run(replace(cfg, model={**cfg.model, "teachers": None})))
    assert run.plan.teachers == 4 and len(run.manifest.patients("train")) < 40


def test_teachers_are_in_no_checkpoint_and_gone_when_the_run_is_over(
    configure: Configure, train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure("pategan")
    interrupted_at(cfg, train_run, monkeypatch, 7)
    folder = tmp_path / "run"
    assert [p.name for p in (folder / "local").glob("teachers*")] == ["teachers-000006.pt"]
    state = load_checkpoint(folder / "checkpoints" / "last.pt")["state"]
    assert {name.split(".")[0] for name in state["model"]} == {"G", "S"}
    assert set(state["optimizers"]) == {"student", "generator"}
    train_run(cfg)
    assert not list(folder.rglob("teachers*"))


# --- A run that is killed ---------------------------------------------------------------------------------------------


def interrupted_at(cfg: Config, train_run: Train, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Kill the run after its vote of ``step``."""
    original = loop.post_processing_updates

    def dying(state, images):
        if state.step == step:
            raise KeyboardInterrupt
        return original(state, images)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "post_processing_updates", dying)
        train_run(cfg)


def same(run_dir: Path, other: Path) -> bool:
    ours, theirs = (load_checkpoint(d / "checkpoints" / "last.pt")["state"]["model"] for d in (run_dir, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("where", ["in a step", "before the checkpoint", "after the checkpoint"])
def test_killed_and_gone_on_it_is_the_same_run_and_spent_once(
    where: str, configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure("pategan")
    unbroken = train_run(cfg, "unbroken")
    if where == "in a step":
        interrupted_at(cfg, train_run, monkeypatch, 7)
    else:
        original, count = publish.Publisher.publish, iter(range(9))

        def dying(self, state):
            second = next(count) == 1
            if second and where == "before the checkpoint":
                raise KeyboardInterrupt
            epsilon = original(self, state)
            if second:
                raise KeyboardInterrupt
            return epsilon

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(publish.Publisher, "publish", dying)
            train_run(cfg)
    run_dir = train_run(cfg)
    assert same(run_dir, unbroken)
    assert (run_dir / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    entries = Ledger(cfg.privacy.ledger).entries(load_run(run_dir).manifest.fingerprint)
    assert [entry.state for entry in entries] == ["closed", "closed"]


def test_teachers_that_are_lost_are_not_made_anew(configure: Configure, train_run: Train, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    cfg = configure("pategan")
    interrupted_at(cfg, train_run, monkeypatch, 7)
    (tmp_path / "run" / "local" / "teachers-000006.pt").unlink()
    with pytest.raises(InputError, match="teachers of the checkpoint of step 6"):
        train_run(cfg)


# --- What does not fit ------------------------------------------------------------------------------------------------

MISFITS = {
    "trainer.optimizer": {"trainer": {"optimizer": "adam_bc"}},
    "privacy.sampling_rate": {"privacy": {"sampling_rate": 0.5}},
    "privacy.clipping_norm": {"privacy": {"clipping_norm": 0.3}},
}


@pytest.mark.parametrize("where", MISFITS)
def test_settings_that_mean_nothing_to_votes_are_refused_before_any_work(
    where: str, configure: Configure, train_run: Train
) -> None:
    cfg = configure("pategan", **MISFITS[where])
    with pytest.raises(InputError) as caught:
        train_run(cfg)
    assert [fault.where for fault in caught.value.faults] == [where]
    assert not Ledger(cfg.privacy.ledger).cohorts()


def test_a_canary_cannot_vote_and_is_told_so(configure: Configure, train_run: Train) -> None:
    plan = load_run(train_run(configure("pategan"))).plan
    with pytest.raises(InputError, match="teachers vote"):
        twin_plan(plan, None)


def test_reference_models_are_trained_by_votes_as_the_run_was(configure: Configure, train_run: Train) -> None:
    run = load_run(train_run(configure("pategan", trainer={"steps": 3})))
    names = run.manifest.patients("train")
    recipe = Recipe.of(run)
    dataset = recipe.images(run.manifest, names)
    one, again, other = (train_reference(recipe, dataset, names[: len(names) // 2], seed, "r") for seed in (1, 1, 2))
    assert torch.equal(one.G.stem.weight, again.G.stem.weight)
    assert not torch.equal(one.G.stem.weight, other.G.stem.weight)
    overfit = recipe.overfitted(6, 4)
    assert (overfit.plan.teachers, overfit.plan.sampling_rate, overfit.plan.steps) == (1, 1.0, 4)
    train_reference(overfit, dataset, names[:6], 1, "overfit model")
