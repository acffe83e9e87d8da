"""The report shows segmentation and the plausibility of masks, structure by structure, in its local part alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from imgsynth.files import read_json, write_json
from imgsynth.report.write import write_report


def said(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def quantity(name: str, unit: str, at: float) -> dict[str, Any]:
    return {"name": name, "unit": unit, "range": [at - 1, at + 1], "outside": None, "outside_floor": said(0.07),
            "mean": {"test": at, "train": at, "synthetic": None},
            "distance": said(0.123), "distance_floor": said(0.2)}  # fmt: skip


def test_each_structure_has_its_dice_and_its_quantities(complete: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    evaluation = read_json(run / "evaluation.json")
    rows = [{"name": name, "dice": said(dice), "by_seed": [dice], "gap_to_real": None}
            for name, dice in (("front<", 0.456), ("back", 0.654))]  # fmt: skip
    evaluation["segmentation"] = {
        "network": "small_unet", "steps": 200, "n_test_patients": 27, "shows_its_mask": rows,
        "sentences": ["front<: synthetic pairs do not beat"],
        "curve": [{"share": 0.05, "n_patients": 6, "real": said(0.311), "real_and_synthetic": said(0.422),
                   "gain": said(0.111)}],
        "by_group": [
            {"attribute": "sex", "value": "F<", "n_patients": 14,
             "results": [{"name": "front<", "real": said(0.777), "synthetic": said(0.555), "gap": said(0.222)}]},
            {"attribute": "sex", "value": "O", "n_patients": None, "results": [], "why_not": "fewer than 10 patients"},
        ],
        "results": [{"trained_on": on, "n_train": 9, "seeds": 3, "structures": rows}
                    for on in ("synthetic", "real", "real + synthetic")],
    }  # fmt: skip
    evaluation["plausibility"] = {
        "n_test_patients": 27, "n_train_patients": 100, "n_synthetic": 100, "range": "quantiles of somebody",
        "structures": [{"name": name, "present": {"test": 1.0, "train": 1.0, "synthetic": 0.93},
                        "outside": {"synthetic": said(0.35), "train": said(0.11)},
                        "quantities": [quantity("volume", "mm³", 1709.4)]} for name in ("front<", "back")],
        "contacts": [{"between": ["front<", "back"], **quantity("contact", "mm²", 88.0)}],
    }  # fmt: skip
    write_json(run / "evaluation.json", evaluation)
    write_report(run)
    page, public = ((run / name).read_text(encoding="utf-8") for name in ("report.html", "report_public.html"))
    for text in ("0.311 [", "6 (5 %)", "sex: F&lt;", "0.222 [", "sex: O", "front&lt;: synthetic pairs do not beat",
                 "front&lt;</td>", "real + synthetic", "0.456 [", "0.654 [", "1708 – 1710", "1709",
                 "In 93 % of synthetic and 100 % of test masks", "0.35 [", "(floor 0.11 [", "0.123 [",
                 "quantiles of somebody", "front&lt; – back", "mm²"):  # fmt: skip
        assert text in page, text
        assert text not in public
