"""What a private step costs beside an ordinary one: time and memory, every engine, in one run.

    python benchmarks/engines.py time                  the table of docs/results.md
    python benchmarks/engines.py memory                peak memory, each step in a process of its own
    python benchmarks/engines.py images                K = 1 and K = 4 images a patient at equal image counts
    python benchmarks/engines.py scaling               cost over batch size and voxels, with a figure
    python benchmarks/engines.py time --device cuda --precision bf16

A step is all of it: gradients (clipped), noise, normaliser, Adam. Each method takes turns with the ordinary step; a
figure is the median over rounds of the ratio to the ordinary step of the same round. On CPU the clock is the processor
time of the process (``OMP_WAIT_POLICY=PASSIVE``), which other programs on the machine disturb least; the wall clock is
shown too. All methods share one allocator setting (``imgsynth.training.device.keep_freed_memory``); each, the ordinary
step too, is in the memory format that suits it better (channels_last where that makes it more than 5 % faster), so that
ratios are to the faster ordinary step. The ghost engine examines the network on calls 1, 2, 4, 8, …, which costs about
a step each time; eight calls come before those that are counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from networks import CASES, Case
from torch import Tensor, nn

from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.step import private_step
from imgsynth.training.device import keep_freed_memory
from imgsynth.types import PatientBatch

Step = Callable[[], None]
CLIP, SIGMA = 1.0, 1.0


def ordinary(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> Step:
    optimizer = torch.optim.Adam(module.parameters(), 1e-4)
    device = inputs[0].device.type

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = module(*inputs).mean()
        loss.backward()
        optimizer.step()

    return step


def compiled(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> Step:
    """The ordinary step through torch.compile; fails loudly where no compiled graph is run."""
    torch._dynamo.config.suppress_errors = False
    return ordinary(torch.compile(module, fullgraph=True), inputs, precision)  # type: ignore[arg-type]


def ours(engine: str, images: int = 1) -> Callable[[nn.Module, tuple[Tensor, ...], str], Step]:
    def build(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> Step:
        x, y, *aux = inputs
        patients = len(x) // images
        batch = PatientBatch(
            x.view(patients, images, *x.shape[1:]),
            y.view(patients, images),
            torch.full((patients, images), 1 / images, device=x.device),
        )
        plan = PrivacyPlan("dp", "patient", 10 * patients, 0.1, 100, CLIP, SIGMA, images, 1e-5, physical_batch=patients)
        noise, optimizer = NoiseSource(), torch.optim.Adam(module.parameters(), 1e-4)
        found = get_engine(engine, precision)  # type: ignore[arg-type]

        def step() -> None:
            private_step(plan, found, module, batch, tuple(aux), None, noise)
            optimizer.step()

        return step

    return build


def opacus(mode: str) -> Callable[[nn.Module, tuple[Tensor, ...], str], Step]:
    """Opacus' per-sample gradients by hooks, or its "ghost" clipping, with its own optimizer."""

    def build(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> Step:
        from opacus.grad_sample import GradSampleModule
        from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizer
        from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping

        adam, batch = torch.optim.Adam(module.parameters(), 1e-4), len(inputs[0])
        settings = {"noise_multiplier": SIGMA, "max_grad_norm": CLIP, "expected_batch_size": batch}
        if mode == "hooks":
            wrapped, optimizer = GradSampleModule(module, loss_reduction="sum"), DPOptimizer(adam, **settings)

            def step() -> None:
                optimizer.zero_grad(set_to_none=True)
                wrapped(*inputs).sum().backward()
                optimizer.step()

            return step
        wrapped = GradSampleModuleFastGradientClipping(
            module, max_grad_norm=CLIP, use_ghost_clipping=True, loss_reduction="sum"
        )
        optimizer = DPOptimizerFastGradientClipping(adam, **settings)

        def ghost_step() -> None:
            optimizer.zero_grad(set_to_none=True)
            losses = wrapped(*inputs)
            losses.sum().backward(retain_graph=True)
            optimizer.zero_grad(set_to_none=True)
            coefficients = wrapped.get_clipping_coef()
            wrapped.disable_hooks()
            (coefficients * losses).sum().backward()
            wrapped.enable_hooks()
            optimizer.accumulate()
            optimizer.step()

        return ghost_step

    return build


METHODS = {
    "ordinary": ordinary,
    "compiled": compiled,
    "ghost": ours("ghost"),
    "functional": ours("functional"),
    "loop": ours("loop"),
    "Opacus hooks": opacus("hooks"),
    "Opacus ghost": opacus("ghost"),
}


def prepared(case: Case, method: str, args: argparse.Namespace, channels_last: bool, batch: int | None = None) -> Step:
    module = case.build().to(args.device)
    inputs = tuple(t.to(args.device) for t in case.inputs(batch))
    if channels_last:
        form = torch.channels_last if len(case.shape) == 2 else torch.channels_last_3d
        module, inputs = module.to(memory_format=form), (inputs[0].to(memory_format=form), *inputs[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return METHODS[method](module, inputs, args.precision)


def clock(step: Step, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the processor (of the device on CUDA) and of the wall."""
    if args.device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if args.device == "cuda":
        torch.cuda.synchronize()
    wall = time.perf_counter() - wall
    return (wall if args.device == "cuda" else time.process_time() - cpu), wall


def rounds(steps: dict[str, Step], args: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """``args.rounds`` rounds in which every method takes one step, after two that are not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    gc.disable()
    for number in range(args.rounds + 2):
        for name, step in steps.items():
            taken = clock(step, args)
            if number >= 2:
                times[name].append(taken)
        gc.collect()
    gc.enable()
    return times


def ratios(times: dict[str, list[tuple[float, float]]], name: str, which: int) -> list[float]:
    pairs = zip(times[name], times["ordinary"], strict=True)
    return [mine[which] / base[which] for mine, base in pairs]


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def prefers_last(case: Case, method: str, args: argparse.Namespace) -> bool:
    """Whether ``method`` is more than 5 % faster in channels_last."""
    steps = {str(last): prepared(case, method, args, last) for last in (False, True)}
    for step in steps.values():
        settle(step, method)
    times = rounds(steps, args)
    plain, last = (statistics.median(t[0] for t in times[key]) for key in ("False", "True"))
    return last < 0.95 * plain


def table_of_times(args: argparse.Namespace) -> None:
    methods = [m for m in args.methods if m != "ordinary"]
    print(f"| network | ordinary, ms | {' | '.join(methods)} | ghost by the wall clock |")
    print("|---" * (len(methods) + 3) + "|")
    for name in args.cases:
        case, cells, base, wall = CASES[name], [], [], "–"
        last = {method: prefers_last(case, method, args) for method in ("ordinary", *methods)}
        for method in methods:
            steps = {m: prepared(case, m, args, last[m]) for m in ("ordinary", method)}
            settle(steps[method], method)
            times = rounds(steps, args)
            cells.append(quartiles(ratios(times, method, 0)) + _mark(last[method]))
            base += [t[0] for t in times["ordinary"]]
            wall = f"{statistics.median(ratios(times, method, 1)):.2f}" if method == "ghost" else wall
            del steps
            gc.collect()
        shown = f"{1000 * statistics.median(base):.0f}{_mark(last['ordinary'])}"
        print(f"| {name} | {shown} | {' | '.join(cells)} | {wall} |")
        sys.stdout.flush()


def settle(step: Step, method: str) -> None:
    """Let the ghost engine have examined the network before its steps are counted."""
    for _ in range(8 if method == "ghost" else 0):
        step()


def _mark(channels_last: bool) -> str:
    """What the table's legend explains."""
    return " ᶜ" if channels_last else ""


def table_of_memory(args: argparse.Namespace) -> None:
    """Growth of the peak resident set (of the allocator's peak on CUDA) over three steps, in a process of its own.

    On CPU every tensor is a mapping of its own (MALLOC_MMAP_THRESHOLD_), so that the resident set is what is alive and
    not what the C library has in reserve. Three steps on images of side 16 come before, so that code which is loaded
    on first use is not counted.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    print(f"| network | ordinary, MB | {' | '.join(m for m in args.methods if m != 'ordinary')} |")
    print("|---" * (len(args.methods) + 1) + "|")
    for name in args.cases:
        grown = {}
        for method in args.methods:
            command = [sys.executable, __file__, "one", "--cases", name, "--methods", method, "--device", args.device]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
            grown[method] = json.loads(out.strip().splitlines()[-1])
        base = grown["ordinary"]
        cells = [f"{grown[m] / base:.2f}" for m in args.methods if m != "ordinary"]
        print(f"| {name} | {base / 2**20:.0f} | {' | '.join(cells)} |")
        sys.stdout.flush()


def one_memory(args: argparse.Namespace) -> None:
    (name,), (method,) = args.cases, args.methods
    case = CASES[name]
    small = replace(case, shape=(16,) * len(case.shape))
    first = prepared(small, method, args, False, batch=4)
    for _ in range(3):
        first()
    del first
    gc.collect()
    step = prepared(case, method, args, False)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if args.device == "cuda" else _resident()
    for _ in range(3):
        step()
    after = torch.cuda.max_memory_allocated() if args.device == "cuda" else _peak()
    print(json.dumps(after - before))


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table_of_images(args: argparse.Namespace) -> None:
    print("| network | K = 1, ms | K = 4 / K = 1 |\n|---|---|---|")
    for name in args.cases:
        case = CASES[name]
        steps = {}
        for images in (1, 4):
            inputs = tuple(t.to(args.device) for t in case.inputs())
            steps[f"K{images}"] = ours("ghost", images)(case.build().to(args.device), inputs, args.precision)
            for _ in range(8):
                steps[f"K{images}"]()
        times = rounds(steps, args)
        pairs = [four[0] / one[0] for four, one in zip(times["K4"], times["K1"], strict=True)]
        print(f"| {name} | {1000 * statistics.median(t[0] for t in times['K1']):.0f} | {quartiles(pairs)} |")
        sys.stdout.flush()


def figure_of_scaling(args: argparse.Namespace) -> None:
    """Time per step over a 16-fold range of batch sizes and of voxels, beside a line of slope 1."""
    import matplotlib.pyplot as plt

    by_batch = {name: (CASES[name], [4, 8, 16, 32, 64]) for name in (next(iter(CASES)), "imgsynth's VAE 32³, batch 64")}
    sides = [24, 32, 40, 48, 60]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, (case, batches) in by_batch.items():
        steps = {str(b): prepared(case, "ghost", args, False, b) for b in batches}
        times = rounds(steps, args)
        seconds = [statistics.median(t[0] for t in times[str(b)]) for b in batches]
        axes[0].loglog(batches, seconds, "o-", label=f"{name.rsplit(',')[0]}, slope {_slope(batches, seconds):.2f}")
    cases = [Case(f"{s}", (s,) * 3, 8, "discriminator", (16, 32, 64)) for s in sides]
    times = rounds({c.name: prepared(c, "ghost", args, False) for c in cases}, args)
    seconds = [statistics.median(t[0] for t in times[c.name]) for c in cases]
    voxels = [s**3 for s in sides]
    axes[1].loglog(voxels, seconds, "o-", label=f"3D discriminator, batch 8, slope {_slope(voxels, seconds):.2f}")
    for axis, label, ticks in zip(
        axes, ("patients in the batch", "voxels in a volume"), (batches, voxels), strict=True
    ):
        axis.set(xlabel=label, ylabel="seconds a private step")
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.tick_params(axis="both", which="both", labelsize=8)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(args.output, dpi=120)
    print(f"Figure: {args.output}")


def _slope(x: list[int], seconds: list[float]) -> float:
    """Of the least-squares line through the logarithms: 1 is linear."""
    u, v = torch.tensor(x).double().log(), torch.tensor(seconds).double().log()
    return float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "memory", "images", "scaling", "one"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="names as in the table")
    parser.add_argument("--methods", nargs="+", default=[m for m in METHODS if m != "compiled"], choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--output", type=Path, default=Path("docs/images/engine_scaling.png"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what in ("time", "images", "scaling"):
        keep_freed_memory()
    {"time": table_of_times, "memory": table_of_memory, "images": table_of_images,
     "scaling": figure_of_scaling, "one": one_memory}[args.what](args)  # fmt: skip


if __name__ == "__main__":
    main()
