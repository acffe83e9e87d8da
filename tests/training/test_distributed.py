"""Several processes, one run: the step of one process, one folder, one spend, and one end for all."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from imgsynth import cli, pipeline
from imgsynth.models import FakeSource
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import Config
from imgsynth.training import distributed, loop, publish
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.metrics import read_rows
from imgsynth.training.run import load_run, model_factory
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update
from imgsynth.training.team import SOLO, RankFailed, Solo, Team, merged_rows
from imgsynth.types import CheckFailed, Fault, ImgsynthError, InputError, PatientBatch

Configure = Callable[..., Config]
FORK = multiprocessing.get_context("fork")
KILLED = -signal.SIGKILL


def on_ranks(size: int, work: Callable[[int], Any], scratch: Path, timeout: float = 240) -> tuple[list[Any], list[int]]:
    """``work(rank)`` in ``size`` processes with torchrun's environment: what they returned, and their exit codes as
    those of the command line. The processes are forks, which saves importing torch anew. One that hangs says where."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's agent has one, too
    port = store.port

    def target(rank: int) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True",
                          TORCHELASTIC_RESTART_COUNT="0")  # fmt: skip
        code = 0
        where = (scratch / f"{port}-{rank}.where").open("w")
        faulthandler.dump_traceback_later(max(1, timeout - 10), file=where)
        try:
            returned = work(rank)
        except ImgsynthError as error:
            returned, code = error, cli.tell(error)
        except Exception as error:
            traceback.print_exc()
            returned, code = repr(error), 70
        (scratch / f"{port}-{rank}").write_bytes(pickle.dumps(returned))
        os._exit(code)

    processes = [FORK.Process(target=target, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.1, end - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, "\n".join(["a rank hangs", *(path.read_text() for path in scratch.glob(f"{port}-*.where"))])
    paths = [scratch / f"{port}-{rank}" for rank in range(size)]
    return [pickle.loads(p.read_bytes()) if p.is_file() else None for p in paths], [p.exitcode or 0 for p in processes]


def joined_as(work: Callable[[Team], Any], **trainer: Any) -> Callable[[int], Any]:
    """``work(team)`` between joining and leaving."""

    def target(_: int) -> Any:
        from imgsynth.schema import TrainerConfig

        with distributed.joined(TrainerConfig(device="cpu", threads=1, **trainer)) as team:
            return work(team)

    return target


def train_on(size: int, cfg: Config, run_dir: Path, prepare: Callable[[int], None] = lambda rank: None,
             timeout: float = 60) -> tuple[list[Any], list[int]]:  # fmt: skip
    def work(rank: int) -> None:
        prepare(rank)
        pipeline.train(dataclasses.replace(cfg, output=str(run_dir)))

    return on_ranks(size, work, run_dir.parent, timeout)


# --- the same step as on one process ---------------------------------------------------------------------------------

DRAWS = ([0, 1, 2, 3, 4], [2, 4], [], [3], [1, 2])  # patients by step; on two ranks: both, rank 0, none, rank 1, both
ALL = PatientBatch(
    torch.rand(6, 2, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1,
    torch.arange(12).view(6, 2) % 2,
    torch.tensor([[0.5, 0.5], [1.0, 0.0]] * 3),
)
EPS = torch.randn(len(DRAWS), 6, 2, 2, generator=torch.Generator().manual_seed(4))  # [step, patient, image, latent]
FAKES = torch.rand(len(DRAWS), 6, 2, 1, 8, 8, generator=torch.Generator().manual_seed(6)) * 2 - 1


def some_steps(
    team: Team, cfg: Config, plan: PrivacyPlan, draws: tuple[list[int], ...] = DRAWS
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Five steps on drawn patients, whose own randomness is given; of which this rank has its share."""
    torch.manual_seed(5)
    model = model_factory(cfg.model)((8, 8), 2)
    device = torch.device("cpu")
    state = TrainingState(model, plan, cfg.trainer, patients=3, seed=1, device=device, team=team)
    state.noise = NoiseSource(7 + team.rank)  # only the first rank's may matter
    objective, public = state.private, []
    for step, drawn in enumerate(draws):
        state.step += 1
        own = [p for p in drawn if p % team.size == team.rank]
        if "VAE" in cfg.model["_target_"]:
            state.private = dataclasses.replace(
                objective, aux=lambda *_, own=own, step=step: (EPS[step, own].flatten(0, 1),)
            )
        elif plan.fakes == "joint":
            given = iter(zip(FAKES[step, own].flatten(0, 1), ALL.y_PK[own].flatten(), strict=True))

            def draw(n: int, random: torch.Generator, given: Any = given) -> tuple[torch.Tensor, ...]:
                return tuple(t[None] for t in next(given, (torch.zeros(1, 8, 8), torch.tensor(0))))

            def make(x_BC: torch.Tensor, y_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return x_BC, y_B, torch.zeros_like(x_BC[:, 0, 0, 0])

            state.private = dataclasses.replace(objective, fakes=FakeSource(draw, make))
        numbers, _ = private_update(state, plan, PatientBatch(ALL.x_PKC[own], ALL.y_PK[own], ALL.w_PK[own]))
        public.append(numbers | post_processing_updates(state, plan.companion_size))
        state.ema.update(state.model)
    averages = {f"ema.{k}": v for k, v in state.ema.state_dict().items() if isinstance(v, torch.Tensor)}
    return {**state.model.state_dict(), **averages}, public


@pytest.mark.parametrize(
    ("model", "size", "privacy"),
    [
        ("vae", 2, {}),
        ("gan", 2, {"fakes": "joint", "clipping_quantile": 0.5}),
        ("gan", 3, {"fakes": "plain"}),
    ],
    ids=["vae", "gan with fakes in the patients' units and a norm that adapts", "gan with plain fakes"],
)
def test_the_steps_of_several_ranks_are_those_of_one_process(
    model: str, size: int, privacy: dict[str, Any], configure: Configure, tmp_path: Path
) -> None:
    """Given the same draws and noise, to 1e-6 after five steps; and bit for bit the same on all ranks."""
    cfg = configure(model, privacy, data={"images_per_patient": 2}, trainer={"learning_rate": 0.01})
    plan = make_plan(
        dataclasses.replace(cfg.privacy, noise_multiplier=0.1), n=20, steps=5, images_per_patient=2, unit="patient"
    )
    one, one_public = some_steps(SOLO, cfg, plan)
    found, codes = on_ranks(size, joined_as(lambda team: some_steps(team, cfg, plan)), tmp_path)
    assert codes == [0] * size
    for weights, public in found:
        assert all(torch.equal(weights[name], found[0][0][name]) for name in weights)
        assert [list(row) for row in public] == [list(row) for row in one_public]
        assert public[0]["gradient_norm"] == pytest.approx(one_public[0]["gradient_norm"], rel=1e-6)
        for name in one:
            torch.testing.assert_close(weights[name], one[name], rtol=1e-6, atol=1e-6)
    without_one, _ = some_steps(SOLO, cfg, plan, ([0, 1, 2, 3], *DRAWS[1:]))
    assert any((without_one[name] - one[name]).abs().max() > 1e-4 for name in one)  # the tolerance would notice


def test_sums_over_ranks_are_exact_in_double_precision(tmp_path: Path) -> None:
    """2²⁴ + 1 is no single-precision number; what a rank adds must not be lost."""

    def work(team: Team) -> torch.Tensor:
        part = torch.tensor([2.0**24, 1.0]) if team.first else torch.tensor([1.0, 2.0**24])
        return team.combine([{"a": part}], lambda total: total)["a"]

    found, _ = on_ranks(2, joined_as(work), tmp_path)
    assert all(total.dtype == torch.float64 and total.tolist() == [2**24 + 1, 2**24 + 1] for total in found)


def test_sums_are_added_by_name_and_not_by_place(tmp_path: Path) -> None:
    """An engine lists parameters as it meets them, and on an empty share it meets none."""

    def work(team: Team) -> dict[str, list[float]]:
        group = {"b": torch.tensor([10.0]), "a": torch.tensor([1.0])}
        if team.first:
            group = dict(reversed(group.items()))
        total = team.combine([group, group], lambda one, two: {n: one[n].double() + 2 * two[n] for n in one})
        return {name: value.tolist() for name, value in total.items()}

    assert on_ranks(2, joined_as(work), tmp_path)[0] == [{"a": [6.0], "b": [60.0]}] * 2


def test_noise_is_drawn_once_and_is_everybodys(tmp_path: Path) -> None:
    noised: list[int] = []

    def work(team: Team) -> tuple[list[int], torch.Tensor]:
        def finish(total: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            noised.append(team.rank)
            return {"a": NoiseSource().add(total["a"], 1.0)}

        return noised, team.combine([{"a": torch.zeros(4000)}], finish)["a"]

    (first, one), (second, two) = on_ranks(2, joined_as(work), tmp_path)[0]
    assert (first, second) == ([0], []) and torch.equal(one, two)
    assert 0.9 < one.std() < 1.1  # neither 1/√2 nor √2


def test_companions_are_dealt_out_whole(tmp_path: Path) -> None:
    batch = PatientBatch(torch.arange(10.0).view(5, 2, 1), torch.zeros(5, 2), torch.ones(5, 2))
    found, _ = on_ranks(3, joined_as(lambda team: team.share((batch, (torch.arange(10.0),)))), tmp_path)
    assert sorted(x for own, _ in found for x in own.x_PKC.flatten().tolist()) == list(range(10))
    assert all(torch.equal(own.x_PKC.flatten(), aux) for own, (aux,) in found)


def test_nobody_goes_on_before_all_are_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that ends at once would close connections that others are still making."""
    connect = dist.init_process_group

    def slowly(*args: Any, rank: int, **named: Any) -> None:
        connect(*args, rank=rank, **named)
        if rank == 1:
            time.sleep(0.5)
            (tmp_path / "connected").write_text(str(time.monotonic()))

    monkeypatch.setattr(dist, "init_process_group", slowly)
    joined, codes = on_ranks(3, joined_as(lambda team: time.monotonic()), tmp_path)
    assert codes == [0, 0, 0] and min(joined) > float((tmp_path / "connected").read_text())


class Second(Solo):
    """The second of two ranks, as far as one process can be."""

    rank, size = 1, 2


def test_ranks_toss_coins_of_their_own_and_generate_the_same_images(configure: Configure) -> None:
    """Without a seed too: what the first rank tells is the same, what the operating system gives is not."""
    for seed in (1, None):
        cfg = configure("gan", privacy={"seed": seed})
        plan = make_plan(cfg.privacy, n=40, steps=9, images_per_patient=1, unit="patient")
        told: list[int] = []
        streams = []
        for team in (Solo(), Second()):
            team.tell = lambda make, told=told: told[0] if told else told.append(make()) or told[0]
            model, device = model_factory(cfg.model)((8, 8), 2), torch.device("cpu")
            state = TrainingState(model, plan, cfg.trainer, patients=200, seed=seed, device=device, team=team)
            streams.append(state)
        one, two = streams
        assert one.sampler.draw() != two.sampler.draw()
        assert torch.equal(one.random.get_state(), two.random.get_state())
        assert not torch.equal(one.random_real.get_state(), two.random_real.get_state())
        if seed is not None:
            assert not torch.equal(one.picks.get_state(), two.picks.get_state())


# --- a whole run -----------------------------------------------------------------------------------------------------


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(run_dir / "checkpoints" / "last.pt")["state"]["model"]
    return model


def entries(cfg: Config, run_dir: Path) -> list[str]:
    cohort = json.loads((run_dir / "manifest.json").read_text())["fingerprint"]
    return [entry.state for entry in Ledger(cfg.privacy.ledger).entries(cohort)]


def test_two_ranks_make_one_run(configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One folder, one spend, one voice; the same again from the same seed; everybody is drawn at the plan's rate."""
    cfg = configure("gan", privacy={"batch_patients": 13})
    for name in ("one", "two"):
        assert train_on(2, cfg, tmp_path / name)[1] == [0, 0]
    assert entries(cfg, tmp_path / "one") == ["closed", "closed"]
    ours, again = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    assert load_run(tmp_path / "one").finished
    rows, local = (read_rows(tmp_path / "one" / p) for p in ("metrics.jsonl", "local/metrics.jsonl"))
    assert [row["step"] for row in rows] == [row["step"] for row in local] == list(range(1, 10))
    assert 80 < sum(row["patients"] for row in local) < 154  # 9 steps of 13 ± 2.5
    assert train_on(2, cfg, tmp_path / "one")[1] == [0, 0]
    assert capfd.readouterr().out.count("holds a finished run") == 1


def test_the_ranks_have_all_patients_and_none_twice(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    dataset = loop.PatientDataset
    monkeypatch.setattr(loop, "PatientDataset", lambda *a, **k: opened.append(dataset(*a, **k)) or opened[-1])

    def work(rank: int) -> list[str]:
        pipeline.train(dataclasses.replace(configure("vae"), output=str(tmp_path / "run")))
        return [opened[0].patient(i) for i in range(len(opened[0]))]

    found, _ = on_ranks(2, work, tmp_path)
    assert sorted(found[0] + found[1]) == sorted(load_run(tmp_path / "run").manifest.patients("train"))
    assert abs(len(found[0]) - len(found[1])) <= 1


def test_local_rows_of_ranks_become_one() -> None:
    one = [{"step": 1, "patients": 3, "loss": 2.0, "seconds": 1.0}, {"step": 2, "patients": 0, "seconds": 1.0}]
    two = [{"step": 1, "patients": 1, "loss": 6.0, "seconds": 2.0}, {"step": 2, "patients": 0, "seconds": 0.5}]
    assert merged_rows([one, two]) == [
        {"step": 1, "patients": 4, "loss": 3.0, "seconds": 2.0},
        {"step": 2, "patients": 0, "seconds": 1.0},
    ]


# --- one end for all -------------------------------------------------------------------------------------------------


def at_step(step: int, act: Callable[[], Any]) -> None:
    """Let ``act`` happen before this process' private update at ``step``."""
    update = loop.private_update

    def acting(state: TrainingState, *rest: Any) -> Any:
        if state.step == step:
            act()
        return update(state, *rest)

    loop.private_update = acting


def failing(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("ill", [0, 1])
def test_a_fault_on_one_rank_ends_all_with_one_message(
    ill: int, configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fault = Fault("scan 7", "rubbish", "an image", "mend it")
    found, codes = train_on(2, configure("gan"), tmp_path / "run",
                            lambda rank: at_step(3, failing(InputError(fault))) if rank == ill else None)  # fmt: skip
    assert codes == [2, 2]
    assert all(type(error) is InputError and error.faults == (fault,) for error in found)
    assert capfd.readouterr().err.count("rubbish") == 1


@pytest.mark.parametrize("ill", [[0, 1], [1]])
def test_a_fault_before_the_ranks_have_met_is_said_once(
    ill: list[int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(rank: int) -> None:
        if rank in ill:
            raise InputError(Fault("a key", "rubbish", "a value", "another"))

    assert on_ranks(2, work, tmp_path)[1] == [2 if rank in ill else 0 for rank in range(2)]
    assert capfd.readouterr().err.count("rubbish") == 1


def test_faults_of_several_ranks_are_said_together(
    configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = [Fault(f"scan {rank}", "rubbish", "an image", "mend it") for rank in range(2)]
    found, codes = train_on(2, configure("gan"), tmp_path / "run",
                            lambda rank: at_step(1, failing(InputError(faults[rank]))))  # fmt: skip
    assert codes == [2, 2] and all(list(error.faults) == faults for error in found)
    assert capfd.readouterr().err.count("2 faults") == 1


def test_a_bug_on_one_rank_is_named_on_the_others(configure: Configure, tmp_path: Path) -> None:
    bug = failing(ZeroDivisionError("by zero"))
    found, codes = train_on(2, configure("gan"), tmp_path / "run", lambda rank: at_step(3, bug) if rank == 1 else None)
    assert codes == [1, 70]
    assert type(found[0]) is RankFailed and "rank 1: got ZeroDivisionError: by zero" in str(found[0])


def test_divergence_on_one_rank_ends_the_run_for_good(configure: Configure, tmp_path: Path) -> None:
    fault = Fault("step 3", "a loss of nan", "finite numbers", "less")
    cfg, run_dir = configure("gan"), tmp_path / "run"
    _, codes = train_on(2, cfg, run_dir, lambda rank: at_step(3, failing(CheckFailed(fault))) if rank == 1 else None)
    assert codes == [1, 1] and (run_dir / "diverged.json").is_file() and entries(cfg, run_dir) == ["closed"]


@pytest.mark.parametrize(("victim", "before", "after"), [(1, 2, 1), (0, 2, 1), (0, 1, 2)])
def test_a_killed_rank_ends_the_run_which_goes_on_with_another_number_of_ranks(
    victim: int, before: int, after: int, configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg, run_dir = configure("gan", privacy={"seed": None}), tmp_path / "run"
    found, codes = train_on(before, cfg, run_dir, lambda rank: at_step(6, die) if rank == victim else None)
    assert codes[victim] == KILLED
    if before == 2:
        assert codes[1 - victim] == 1 and type(found[1 - victim]) is RankFailed
        assert capfd.readouterr().err.count("run the same command again") == 1
    assert load_run(run_dir).step == 4 and entries(cfg, run_dir) == ["open"]
    assert train_on(after, cfg, run_dir)[1] == [0] * after
    assert load_run(run_dir).finished and entries(cfg, run_dir) == ["closed"]
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")] == list(range(1, 10))
    state = load_checkpoint(run_dir / "checkpoints" / "last.pt")["state"]
    assert state["random"] is None and state["sampler"] == {"drawn": 9, "random": None}


def test_the_signal_to_stop_ends_a_rank_with_a_word_on_what_to_do(configure: Configure, tmp_path: Path) -> None:
    """It comes from torchrun when another rank has died, and from a cluster whose patience is over."""
    found, codes = train_on(2, configure("gan"), tmp_path / "run",
                            lambda rank: at_step(6, lambda: os.kill(os.getpid(), signal.SIGTERM)))  # fmt: skip
    assert codes == [1, 1] and load_run(tmp_path / "run").step == 4
    assert all(type(error) is RankFailed and "run the same command again" in str(error) for error in found)


def test_a_rank_that_hangs_is_missed_after_the_timeout(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("gan", trainer={"rank_timeout": 1.5})
    began = time.monotonic()
    found, codes = train_on(2, cfg, tmp_path / "run", lambda rank: at_step(3, lambda: time.sleep(rank * 3)))
    assert codes[0] == 1 and type(found[0]) is RankFailed
    assert time.monotonic() - began < 200  # and not half an hour, which is what ranks have unless told


def test_a_seeded_run_goes_on_bit_for_bit_on_as_many_ranks_and_on_no_others(
    configure: Configure, tmp_path: Path
) -> None:
    cfg = configure("vae")
    train_on(2, cfg, tmp_path / "unbroken")
    train_on(2, cfg, tmp_path / "run", lambda rank: at_step(6, die) if rank == 1 else None)
    with pytest.raises(InputError, match="begun on 2"):
        loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert train_on(2, cfg, tmp_path / "run")[1] == [0, 0]
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "unbroken")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_that_drift_apart_are_never_stored(configure: Configure, tmp_path: Path) -> None:
    def stray(rank: int) -> None:
        if rank == 1:
            check = publish.refuse_drift

            def checking(state: TrainingState) -> None:
                if state.step == 8:
                    next(state.model.parameters()).data.view(-1)[0] += 1e-6
                check(state)

            publish.refuse_drift = checking

    found, codes = train_on(2, configure("gan"), tmp_path / "run", stray)
    assert codes == [1, 1]
    assert all(type(error) is RankFailed and "step 8: got weights on rank 1" in str(error) for error in found)
    assert load_run(tmp_path / "run").step == 6


# --- refused ---------------------------------------------------------------------------------------------------------


def test_ranks_with_different_commands_are_refused(configure: Configure, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        cfg = configure("gan", trainer={"steps": 9 + rank})
        pipeline.train(dataclasses.replace(cfg, output=str(tmp_path / "run")))

    found, codes = on_ranks(2, work, tmp_path)
    assert codes == [2, 2] and [fault.where for fault in found[0].faults] == ["trainer.steps"]
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_patients_are_refused(configure: Configure, tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8)).astype(np.uint8)
    np.savez(few, images=images, patient_ids=[f"p{i}" for i in range(5)], labels=np.arange(5) % 2)
    cfg = configure("gan", data={"root": str(few)}, privacy={"batch_patients": 2})
    found, codes = train_on(4, cfg, tmp_path / "run")
    assert codes == [2] * 4 and "4 processes for 2 training patients" in str(found[0])
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("verb", ["inspect", "sample", "evaluate", "audit", "report", "run"])
def test_other_verbs_are_for_one_process(verb: str, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=f"2 processes for imgsynth {verb}"):
        getattr(pipeline, verb)(configure("gan"))


def test_half_an_environment_is_refused(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="MASTER_ADDR"):
        pipeline.train(dataclasses.replace(configure("gan"), output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_one_rank_of_one_is_one_process(configure: Configure, tmp_path: Path) -> None:
    assert not distributed.launched({"WORLD_SIZE": "1", "RANK": "0"}) and not distributed.launched({})
    assert distributed.launched({"WORLD_SIZE": "2", "RANK": "1"})


# --- torchrun itself -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_trains_one_run(cohort: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    overrides = [
        "data=npz", f"data.root={cohort}", "data.modality=DX", "data.classes=['0','1']", "model=vae",
        "preprocess=radiograph", "preprocess.shape=[8,8]", "privacy.delta=1e-2", "privacy.batch_patients=8",
        "trainer.steps=4", "trainer.device=cpu", f"privacy.ledger={tmp_path / 'ledger'}", "output=run",
    ]  # fmt: skip
    done = subprocess.run([*launcher, "-m", "imgsynth.cli", "train", *overrides], capture_output=True, text=True,
                          timeout=300, check=False, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next:   imgsynth sample") == 1 and load_run(tmp_path / "run").finished
