"""Tables of methods written by hand: what a ranking must say of them is known."""

from __future__ import annotations

from typing import Any

from imgsynth.training.method_table import Row


def planted(method: str, n: int = 200, epsilon: float = 8.0, **more: Any) -> Row:
    """AUC 0.9 ± 0.02 between class means at 0.8 and real images at 1: half of the way. Fréchet 4 ± 0 where class means
    have 16 and real images 0: half of the way too."""
    known: dict[str, Any] = {
        "method": method, "needs_public": method == "evolution", "dims": 3, "grid": 32, "n": n, "epsilon": epsilon,
        "delta": 1e-5, "repetitions": 1, "label": "planted", "auc": 0.9, "auc_low": 0.88, "auc_high": 0.92,
        "auc_real": 1.0, "auc_trivial": 0.8, "frechet": 4.0, "frechet_low": 4.0, "frechet_high": 4.0,
        "frechet_floor": 0.0, "frechet_trivial": 16.0, "auc_dp_sgd": 0.85, "auc_dp_sgd_low": 0.8,
        "auc_dp_sgd_high": 0.9,
    }  # fmt: skip
    return Row(**known | more)


def poor(method: str, n: int = 200, **more: Any) -> Row:
    """As good as class means, to within its interval."""
    known = {"auc": 0.81, "auc_low": 0.77, "auc_high": 0.85, "frechet": 15.5, "frechet_low": 15.0, "frechet_high": 16.5}
    return planted(method, n, **known | more)
