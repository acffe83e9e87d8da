"""The two kinds of update in one training step: the private network's, and those that are handed no data."""

from __future__ import annotations

import math

import torch

from imgsynth.console import track
from imgsynth.models.base import PostProcessing
from imgsynth.models.pace import Pace
from imgsynth.privacy.fakes import how_many
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.step import private_step
from imgsynth.privacy.votes import margin_std, noisy_margin
from imgsynth.training.fakes import in_units, made
from imgsynth.training.optimizers import take_step
from imgsynth.training.state import TrainingState
from imgsynth.training.teachers import Teachers
from imgsynth.types import CheckFailed, Fault, PatientBatch

Numbers = dict[str, float]


def private_update(state: TrainingState, plan: PrivacyPlan, batch: PatientBatch) -> tuple[Numbers, Numbers]:
    """One step of the private network on ``batch``, which may be empty. Returns (public, local) numbers.

    What is drawn as often as there are patients in the batch comes from a generator that nothing else draws from.
    Raises CheckFailed on a noised gradient that is not finite.
    """
    objective, device = state.private, batch.x_PKC.device
    aux = tuple(a.to(device) for a in objective.aux(batch.w_PK.numel(), state.random_real))
    fakes = None
    if objective.fakes is not None:
        # In the patients' units there are as many as patients were drawn.
        source = state.random_real if plan.fakes == "joint" else state.random
        units, unit_aux = made(objective.fakes, how_many(plan, len(batch)), source, alone=in_units(plan))
        fakes = units.to(device), tuple(a.to(device) for a in unit_aux)
    info = private_step(
        plan, state.engine, objective.module, batch, aux, fakes, state.noise, state.team, clipping=state.clipping
    )
    norm = info.public["noisy_gradient_norm"]
    refuse_divergence(norm, "gradient norm", state.step)
    take_step(state.optimizers[objective.name], info.noise_std)
    for each in state.updates:
        each.update(state.random, info.noise_std, plan.normaliser)
    adapted = {name: value for name, value in info.public.items() if name == "clipping_norm"}
    return {"gradient_norm": norm, **adapted}, {"patients": len(batch), **info.local}


def vote_update(state: TrainingState, plan: PrivacyPlan, teachers: Teachers) -> tuple[Numbers, Numbers]:
    """One noisy vote of ``teachers``, and the student's steps on the labels that come of it. Returns (public, local)
    numbers.

    The student is shown generated images and noisy labels alone; all that is drawn here is as much whoever the
    patients are. Raises InputError beyond the plan's last step.
    """
    objective, random = state.private, state.random
    votes = objective.votes
    assert votes is not None
    patients = state.sampler.draw()  # one of the steps that the plan accounts for; with rate 1 everybody
    for _ in range(votes.steps):
        with torch.no_grad():
            x_FC, y_F = votes.fakes.make(*votes.fakes.draw(votes.batch, random))
        teachers.learn(x_FC, y_F)
    with torch.no_grad():
        x_MC, y_M = votes.fakes.make(*votes.fakes.draw(votes.images, random))
    real_KM = teachers.vote(x_MC, y_M)
    margin_M = noisy_margin(plan, real_KM, state.noise)
    target_M = votes.label(margin_M, margin_std(plan, len(margin_M)), len(real_KM)).to(x_MC.dtype)
    state.told = [*state.told, (x_MC, y_M, target_M)][-votes.remembered :]
    told = [torch.cat(parts) for parts in zip(*state.told, strict=True)]
    parameters = [p for p in objective.module.parameters() if p.requires_grad]
    for _ in range(votes.student_steps):
        pick = torch.randint(len(told[0]), (votes.student_batch,), generator=random, device=random.device)
        loss = objective.module(*(part[pick] for part in told)).mean()
        refuse_divergence(loss.item(), f"loss of {objective.name}", state.step)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        state.optimizers[objective.name].step()
    agreed = (real_KM.double().mean(0) - 0.5).abs().mean().item()
    return (
        {f"{objective.name}_loss": loss.item(), "mean_label": target_M.mean().item()},
        {
            "patients": len(patients),
            "mean_margin_of_votes": agreed,
            "teachers_without_patients": teachers.without_patients,
        },
    )


def post_processing_updates(state: TrainingState, images: int) -> Numbers:
    """Step every data-free objective that is due, on ``images`` generated images or its own number. Returns their
    losses, which are functions of released weights and so public.

    A loss is any function of all its images, so that it cannot be split among ranks: each computes it on the same
    images, and takes the first one's gradient, as two devices need not agree in the last bit.
    """
    losses: Numbers = {}
    for objective in state.post:
        if not objective.due(state.step):
            continue
        if isinstance(objective.every, Pace):
            losses |= _tell(objective.every, objective, state, images)
        losses[f"{objective.name}_loss"] = _post_processing_update(objective, state, images)
    return losses


def warm_up(state: TrainingState, plan: PrivacyPlan, steps: int) -> Numbers:
    """The turn of what is trained before the first private step (``PostProcessing.before``); returns its last losses.

    It follows from released answers to queries alone, so that a run which was killed meanwhile can take it again. On a
    state that has taken a private step, there is nothing to do.
    """
    losses: Numbers = {}
    if state.step > 0:
        return losses
    for objective in state.post:
        if objective.before:
            for _ in track(range(steps), objective.name.replace("_", " ")):
                losses[f"{objective.name}_loss"] = _post_processing_update(objective, state, plan.companion_size)
    return losses


def _post_processing_update(objective: PostProcessing, state: TrainingState, images: int) -> float:
    """One step of ``objective``; returns its loss."""
    parameters = [p for p in objective.module.parameters() if p.requires_grad]
    loss = objective.loss(objective.images or images, state.random)
    refuse_divergence(loss.item(), f"loss of {objective.name}", state.step)
    # Not loss.backward(): that would leave gradients in the private network as well.
    gradients = state.team.same(torch.autograd.grad(loss, parameters))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    state.optimizers[objective.name].step()
    return loss.item()


def _tell(pace: Pace, objective: PostProcessing, state: TrainingState, images: int) -> Numbers:
    """Let ``pace`` know how things stand: the same on all ranks, which would wait for each other otherwise."""
    assert objective.accuracy is not None, "a pace is set by an accuracy"
    (accuracy,) = state.team.same([objective.accuracy(objective.images or images, state.random)])
    pace.tell(state.step, accuracy.item())
    return {"accuracy_on_fakes": accuracy.item(), "private_steps_per_generator_step": float(pace.every)}


def refuse_divergence(value: float, what: str, step: int) -> None:
    """Raises CheckFailed when ``value`` is no number.

    ``value`` is a function of noised gradients. That a run stopped, and where, tells about the data what any output of
    its steps may tell, up to ε, which the ledger has in full: taking the steps again would be a second release, so the
    run is over (``begin.ended_by``).
    """
    if not math.isfinite(value):
        raise CheckFailed(
            Fault(
                f"step {step}",
                f"a {what} of {value}",
                "finite numbers",
                "a lower trainer.learning_rate or trainer.generator_learning_rate, in another output=DIR; what this "
                "run spent stays spent",
            )
        )
