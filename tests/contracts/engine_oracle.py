"""What engines are measured against: naive on purpose, ordinary ``.backward()`` on a copy, no code of the package."""

import copy

import torch

from imgsynth.types import PatientBatch

CLASSES = 3
SIDE = 6
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def make_batch(patients, images, dims, seed=0, dtype=torch.float64, channels=1, side=SIDE):
    """Patients with 0 to K-1 images of padding (zeros, weight zero) and unequal weights."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(patients, images, channels, *([side] * dims), generator=random, dtype=dtype)
    y = torch.randint(0, CLASSES, (patients, images), generator=random)
    w = 0.1 + torch.rand(patients, images, generator=random, dtype=dtype)
    for p in range(patients):
        padding = int(torch.randint(0, images, (), generator=random))
        w[p, images - padding :] = 0
        x[p, images - padding :] = 0
    aux = (torch.randn(patients * images, generator=random, dtype=dtype),)
    return PatientBatch(x, y, w / w.sum(1, keepdim=True)), aux


def oracle(module, batch, aux, clipping_norm, *, unit="patient", leave_out=None):
    """Σ_p of clipped gradients by ordinary backward passes. ``unit="image"`` and ``leave_out`` (the name of a parameter
    that is forgotten in the norm) are the mistakes that the suite must notice."""
    module = copy.deepcopy(module)
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    sums = {n: torch.zeros_like(p) for n, p in module.named_parameters() if n in names}
    norms = []
    patients, images = batch.w_PK.shape
    for p in range(patients):
        groups = [[k] for k in range(images)] if unit == "image" else [list(range(images))]
        for group in groups:
            module.zero_grad()
            for k in group:
                if batch.w_PK[p, k] > 0:
                    b = p * images + k
                    x, y = batch.x_PKC[p, k][None].clone(), batch.y_PK[p, k][None]
                    (batch.w_PK[p, k] * module(x, y, *(a[b : b + 1] for a in aux))[0]).backward()
            g = {n: q.grad for n, q in module.named_parameters() if q.grad is not None}
            norm = sum(v.square().sum() for n, v in g.items() if n != leave_out) ** 0.5
            norms.append(float(norm))
            for n, v in g.items():
                sums[n] += v * min(1.0, clipping_norm / max(float(norm), 1e-300))
    return sums, norms


def disagreement(got, expected):
    """The largest error of any parameter, relative to that parameter's largest entry."""
    assert got.keys() == expected.keys()
    return max(float((got[n] - e).abs().max() / e.abs().max().clamp(min=1e-12)) for n, e in expected.items())
