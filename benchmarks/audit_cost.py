"""Time and peak memory of the attacks on samples, with their controls, in every space.

    OMP_NUM_THREADS=2 python benchmarks/audit_cost.py --samples 5000 --patients 500 --side 64

Volumes are smooth seeded noise: the cost does not depend on what is in them. Half of the patients are members; there
are 100 reference patients beside. The samples are as a run would hold them: in half precision from 1 GiB on. Prints
Markdown: seconds, seconds of CPU (which a busy machine does not lengthen) and peak resident memory after each stage.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import numpy as np
import torch
from torch.nn import functional as F

from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.copies import find_copies
from imgsynth.audit.registry import NAMES
from imgsynth.audit.run import Attacked, run_attacks, run_controls
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, stored_as
from imgsynth.schema import AuditConfig

SAMPLE_FAMILIES = (
    "nearest_neighbour", "calibrated_nearest_neighbour", "monte_carlo_median", "monte_carlo_percentile", "domias",
)  # fmt: skip
BATCH = 100


def volumes(n: int, side: int, seed: int, prefix: str) -> Images:
    """Noise of 8 voxels a side, enlarged, with a little fine noise on top."""
    random = torch.Generator().manual_seed(seed)
    x_NC = np.empty((n, 1, side, side, side), dtype=stored_as(n, (side, side, side)))
    for i in range(0, n, BATCH):
        m = min(BATCH, n - i)
        coarse = torch.rand((m, 1, 8, 8, 8), generator=random) * 2 - 1
        fine = 0.05 * torch.randn((m, 1, side, side, side), generator=random)
        x = F.interpolate(coarse, size=(side, side, side), mode="trilinear") + fine
        x_NC[i : i + m] = x.clamp(-1, 1).numpy()
    return Images(x_NC, np.zeros(n, dtype=int), np.array([f"{prefix}{i:06d}" for i in range(n)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--encoder", default="random_conv")
    parser.add_argument("--families", nargs="+", default=SAMPLE_FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", action="store_true", help="the copy check too")
    args = parser.parse_args()
    began = time.monotonic()

    def stage(name: str) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
        print(f"| {name} | {time.monotonic() - began:.0f} | {spent:.0f} | {peak:.1f} |", flush=True)

    print(f"{args.samples} samples, {args.patients} patients, {args.side}³ voxels, {args.encoder}, "
          f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads\n\n"
          "| after | s | CPU s | peak GiB |\n|---|---|---|---|")  # fmt: skip
    half = args.patients // 2
    members, nonmembers = volumes(half, args.side, 1, "m"), volumes(args.patients - half, args.side, 2, "n")
    released = Released(volumes(args.samples, args.side, 3, "s"), volumes(100, args.side, 4, "r"))
    stage("making the volumes")
    attacks = [name for name in NAMES if name.split("/")[0] in args.families]
    settings = AuditConfig(attacks=attacks, seed=args.seed)
    tools = Tools(get_encoder(args.encoder, 3, 0), settings)
    found = Attacked()
    for space in ("raw", "pca", "ssim", "encoder"):
        settings.attacks = [name for name in attacks if name.endswith(space)]
        part = run_attacks(members, nonmembers, released, tools, delta=1e-5)
        found.ran |= part.ran
        stage(f"{len(part.ran)} attacks in space {space}")
    _, doses = run_controls(found, members, nonmembers, released, tools, delta=1e-5)
    stage(f"controls: {len(doses)} attacks on leaking synthesizers, blind baseline and the others")
    if args.copies:
        find_copies(released.samples, members, nonmembers, settings)
        stage("copy check")


if __name__ == "__main__":
    main()
