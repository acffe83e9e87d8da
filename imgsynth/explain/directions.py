"""Which directions of the latent space change the image most, without an image: from the generator's Jacobian.

With J(z) the derivative of the image's voxels with respect to z, a short step v changes the image by |J(z) v|. On
average over codes that is vᵀ M v, M = E[J(z)ᵀ J(z)], the metric that the image pulls back onto the latent space (Shao
et al. 2018, arXiv:1711.08014; Ramesh et al. 2018, arXiv:1812.01161, take its leading directions at single codes). The
directions that change the image most are M's leading eigenvectors. M is never formed: subspace iteration with
Jacobian-vector products and their transposes (Halko et al. 2011, arXiv:0909.4061), exact at once where the subspace is
the whole latent space.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vjp

WHOLE = 32  # latent dimensions up to which the whole space is taken
BESIDE = 8  # further directions that are iterated beside those asked for
TOLERANCE, MOST = 1e-3, 20  # relative change of the eigenvalues that ends the iteration, and its longest
AT_ONCE = 1 << 24  # numbers in the derivatives that are held at once

# Shape legend: N codes, L latent dimensions, b directions iterated, k directions asked for, X voxels of an image.


def leading(
    image: Callable[[Tensor, Tensor], Tensor], z_NL: Tensor, y_N: Tensor, k: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The k leading directions [k, L], orthonormal, and M's eigenvalues [k]: the mean squared length by which an image
    changes for a step of length one.

    ``image(z_BL, y_B)`` are [B, X], each a function of its own row. ``random`` only draws where an iteration begins.
    A direction's largest entry is positive.
    """
    size = z_NL.shape[1]
    b = size if size <= WHOLE else min(size, k + BESIDE)
    v_Lb = torch.linalg.qr(torch.randn(size, b, generator=random)).Q
    before_k = torch.zeros(min(k, b))
    for _ in range(MOST):
        gram_bb, turned_Lb = products(image, z_NL, y_N, v_Lb, back=b < size)
        value_b, rotation_bb = torch.linalg.eigh(gram_bb)
        value_k = value_b.flip(0)[: len(before_k)]
        best_Lb = v_Lb @ rotation_bb.flip(1)
        settled = (value_k - before_k).abs().max() <= TOLERANCE * value_k.abs().max()
        if b == size or settled:
            break
        before_k, v_Lb = value_k, torch.linalg.qr(turned_Lb).Q
    chosen_kL = best_Lb[:, : len(before_k)].T
    largest_k1 = chosen_kL.gather(1, chosen_kL.abs().argmax(1, keepdim=True))
    return chosen_kL * torch.where(largest_k1 < 0, -1.0, 1.0), value_k.clamp(min=0)


@torch.no_grad()
def products(
    image: Callable[[Tensor, Tensor], Tensor], z_NL: Tensor, y_N: Tensor, v_Lb: Tensor, back: bool
) -> tuple[Tensor, Tensor]:
    """Vᵀ M V [b, b], and M V [L, b] where ``back`` asks for it (else V)."""
    b = v_Lb.shape[1]
    voxels = image(z_NL[:1], y_N[:1]).shape[1]
    size = max(1, AT_ONCE // (b * voxels))
    gram_bb, turned_Lb = torch.zeros(b, b), torch.zeros_like(v_Lb) if back else v_Lb
    for z_nL, y_n in zip(z_NL.split(size), y_N.split(size), strict=True):

        def of(z: Tensor, y_n: Tensor = y_n) -> Tensor:
            return image(z, y_n)

        moved_bnX = torch.stack([jvp(of, (z_nL,), (v_L.expand_as(z_nL),))[1] for v_L in v_Lb.T])
        flat_bX = moved_bnX.flatten(1)
        gram_bb += flat_bX @ flat_bX.T
        if back:
            pulled = vjp(of, z_nL)[1]
            turned_Lb += torch.stack([pulled(moved_nX)[0].sum(0) for moved_nX in moved_bnX], dim=1)
    n = len(z_NL)
    return gram_bb / n, turned_Lb / n if back else turned_Lb
