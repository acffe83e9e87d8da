"""The report holds the numbers of the run, needs nothing from outside, and its public part holds nothing private."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from imgsynth.files import read_json, write_json
from imgsynth.release.rounding import outward_digits
from imgsynth.release.sample import sample_release
from imgsynth.release.verify import verify_release
from imgsynth.report.local import cohort_tables
from imgsynth.report.write import write_report
from imgsynth.schema import Config
from imgsynth.training.loop import train
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import InputError

SENTINEL = "ZQXJSENTINEL"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Parses strictly: every tag closed in order. Collects text, links and ids."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def pictures(self) -> list[bytes]:
        return [base64.b64decode(link.split(",", 1)[1]) for link in self.links if link.startswith("data:")]


def pages(run_dir: Path) -> tuple[Page, Page]:
    assert write_report(run_dir) == run_dir / "report.html"
    return Page((run_dir / "report.html").read_text()), Page((run_dir / "report_public.html").read_text())


@pytest.fixture(scope="module")
def both(complete: Path) -> tuple[Page, Page]:
    return pages(complete)


def test_nothing_is_fetched_and_every_link_leads_somewhere(both: tuple[Page, Page], complete: Path) -> None:
    for page, name in zip(both, ("report.html", "report_public.html"), strict=True):
        assert all(link.startswith("data:image/") or (link[1:] in page.ids and link[0] == "#") for link in page.links)
        assert not page.tags & {"script", "link", "iframe", "object", "embed"}
        assert not re.search(r"url\(|@import", (complete / name).read_text())
        for picture in page.pictures():
            if picture.startswith(b"<?xml"):
                assert not re.search(rb'(href|src)="(?!#|data:)', picture)


def test_the_whole_report_holds_the_numbers_of_the_run(both: tuple[Page, Page], complete: Path) -> None:
    text = both[0].text
    card, audit = read_json(complete / "release" / "privacy_card.json"), read_json(complete / "audit.json")
    evaluation = read_json(complete / "evaluation.json")
    assert evaluation["metrics"] and evaluation["utility"]["results"] and audit["attacks"] and audit["controls"]
    for metric in evaluation["metrics"]:
        assert f"{metric['value']:.3g} {outward_digits(metric['low'], metric['high'])}" in text, metric["name"]
        assert f"{metric['floor']['value']:.3g} [" in text
    for row in evaluation["utility"]["results"]:
        assert f"{row['auc']['value']:.3g} {outward_digits(row['auc']['low'], row['auc']['high'])}" in text
    for attack in audit["attacks"]:
        assert f"{attack['auc']:.3g} {outward_digits(attack['auc_low'], attack['auc_high'])}" in text
        low, most = (f"{math.floor(100 * attack['bound'][key]) / 100:.2f}" for key in ("epsilon", "ceiling"))
        assert f"{low} of {most}" in text
    for control in audit["controls"]:
        assert control["detail"] in text
    assert audit["judgement"]["word"] in text and audit["power"]["sentence"] in text
    assert f"{audit['copies']['closer_to_train']} of" in text
    assert f"{card['plan']['noise_multiplier']:.5g}" in text and "LOCAL ONLY" in text
    for entry in evaluation["not_done"] + audit["not_done"]:
        assert entry["why"].rstrip(".") in text


def test_subgroups_have_every_score_and_small_ones_the_reason(complete: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    found = read_json(run_dir / "evaluation.json")
    group = {"attribute": "age_band", "value": "40-49", "n_patients": 12}
    rows = [
        {
            "classifier": "tree",
            "score": name,
            **{of: band(value + shift) for shift, of in enumerate(("real", "synthetic", "gap"))},
        }
        for name, value in (("auc", 0.111), ("balanced_accuracy", 4.222), ("brier", 8.333))
    ]
    few = {"attribute": "sex", "value": "F", "n_patients": None, "results": [], "why_not": "fewer than 10 patients"}
    covered = group | {"coverage": band(0.444), "floor": band(0.555), "lost": True}
    found["subgroups"] |= {"coverage": [covered], "utility": [group | {"results": rows}, few]}
    write_json(run_dir / "evaluation.json", found)
    text = pages(run_dir)[0].text
    assert "age band 40-49 12 0.444 [0.444, 0.444] 0.555 [0.555, 0.555] lost" in text
    assert "age band 40-49 tree AUC 0.111 [0.111, 0.111] 1.11 [1.11, 1.12] 2.11 [2.11, 2.12]" in text
    assert "age band 40-49 tree balanced accuracy 4.22" in text and "age band 40-49 tree brier 8.33" in text
    assert text.count("sex F fewer than 10 patients") == 1 and "fewer than 10" not in pages(run_dir)[1].text
    assert "Brier score and calibration error in each group" in text
    write_json(
        run_dir / "evaluation.json", found | {"subgroups": found["subgroups"] | {"coverage": [], "utility": [few]}}
    )
    text = pages(run_dir)[0].text
    assert "sex F fewer than 10 patients" in text and "share of test images with a sample" not in text
    assert "Brier score and calibration error in each group" not in text
    found |= {"utility": {}, "subgroups": found["subgroups"] | {"utility": []}}
    write_json(run_dir / "evaluation.json", found)  # a cohort of one class
    assert "age band 40-49 12 0.444" in pages(run_dir)[0].text


def band(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def test_what_was_spent_under_other_names_is_in_the_whole_report_alone(both: tuple[Page, Page]) -> None:
    whole, public = both
    said = "on whom most was, under whatever name of a cohort: 1 run(s), ε at most"
    assert said in " ".join(whole.text.split()) and "under whatever name" not in public.text


def test_pictures_of_real_patients_are_in_the_whole_report_alone(both: tuple[Page, Page], complete: Path) -> None:
    whole, public = both
    sheet = (complete / "local" / "copy_sheet.png").read_bytes()
    assert sheet in whole.pictures() and sheet not in public.pictures()
    local = set(whole.pictures()) - set(public.pictures())
    assert set(public.pictures()) <= set(whole.pictures())
    assert len(public.pictures()) == 2  # training curves and the release's images
    assert len(local) == 7  # real sheet, local curves, intervals, histogram, ROC, ladder of ε, copies


def test_the_public_report_holds_nothing_private(both: tuple[Page, Page], complete: Path) -> None:
    raw, text = (complete / "report_public.html").read_text(), both[1].text
    manifest, audit = load_run(complete).manifest, read_json(complete / "audit.json")
    for secret in (SENTINEL, str(complete), manifest.root, manifest.fingerprint, audit["meaning"][:40]):
        assert secret not in raw
    evaluation = read_json(complete / "evaluation.json")
    private = [f"{m[key]:.3g}" for m in evaluation["metrics"] for key in ("value", "low", "high") if m[key]]
    private += [f"{a['auc']:.3g}" for a in audit["attacks"]]
    private += [f"{r['auc']['value']:.3g} [" for r in evaluation["utility"]["results"]]
    private = [number for number in private if sum(map(str.isdigit, number.lstrip("0."))) >= 3]  # 0.5 is anywhere
    words = set(re.findall(r"[0-9.]+", text))
    assert [number for number in private if number in words] == []
    counts = {str(row["patients"]) for row in cohort_tables(manifest)["by_split"] if row["split"] != "train"}
    assert not counts & {w for w in words if w not in ("15", "10")}
    assert f"{len(manifest.patients())}" not in words  # the whole cohort; n of the training split is declared


def test_the_public_report_says_what_the_card_says(both: tuple[Page, Page], complete: Path) -> None:
    card = read_json(complete / "release" / "privacy_card.json")
    text = both[1].text
    assert card["statement"] in text and card["audit"]["verdict"] in text
    for limit in card["not_covered"] + card["declared_public"]:
        assert limit in text


def test_the_audit_reaches_the_card_and_the_release_still_verifies(complete: Path) -> None:
    audit, card = read_json(complete / "audit.json"), read_json(complete / "release" / "privacy_card.json")
    assert card["audit"]["status"] == "audited" and audit["verdict"].startswith(card["audit"]["verdict"])
    lower = audit["epsilon_lower_bound"]
    assert card["audit"]["epsilon_lower_bound"] == int(lower * 10) / 10 and card["audit"]["private_data_output"]
    assert "output of real patients without noise" in (complete / "release" / "privacy_card.md").read_text()
    verify_release(complete / "release")


def test_before_the_other_stages_it_says_which_command_they_take(trained: tuple[Path, Config], tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    whole, public = pages(run_dir)
    for verb in ("sample", "evaluate", "audit"):
        assert f"imgsynth {verb} output={run_dir}" in whole.text
    assert "not audited yet" in public.text and "No release yet" in public.text


def test_real_images_that_are_gone_are_said_to_be_gone(complete: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    root = Path(load_run(run_dir).manifest.root)
    hidden = root.with_name("elsewhere")
    moved = root if root.is_dir() else root.parent
    moved.rename(hidden)
    try:
        whole, _ = pages(run_dir)
    finally:
        hidden.rename(moved)
    assert "No real images to show" in whole.text


def test_a_run_that_is_not_releasable_shows_nothing_of_it_in_public(
    tmp_path: Path, trained: tuple[Path, Config]
) -> None:
    cfg = trained[1]
    cfg = dataclasses.replace(
        cfg, privacy=dataclasses.replace(cfg.privacy, mode="none", ledger=str(tmp_path / "ledger"))
    )
    run_dir = train(cfg, tmp_path / "run", model_factory(cfg.model))
    sample_release(run_dir, cfg)
    whole, public = pages(run_dir)
    assert public.pictures() == [] and "NOT RELEASABLE" in public.text and "NOT RELEASABLE" in whole.text
    assert len(whole.pictures()) >= 3


def test_a_card_on_disk_that_is_out_of_date_is_not_believed(complete: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(complete, tmp_path / "run"))
    audit = read_json(run_dir / "audit.json")
    write_json(run_dir / "audit.json", audit | {"verdict": "VIOLATION: ε", "epsilon_lower_bound": 99.0})
    assert read_json(run_dir / "release" / "privacy_card.json")["releasable"] is True
    public = pages(run_dir)[1]
    assert "NOT RELEASABLE" in public.text and public.pictures() == []


@pytest.mark.parametrize(("changes", "said"), [({"ids": "case"}, "CASES, NOT PATIENTS"),
                                               ({"noise_multiplier": 0.12}, "WEAK PROOF")])  # fmt: skip
def test_both_reports_open_with_what_weakens_the_proof(
    changes: dict, said: str, complete: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = load_run(Path(shutil.copytree(complete, tmp_path / "run")))
    changed = dataclasses.replace(run, plan=dataclasses.replace(run.plan, **changes))
    (run.root / "audit.json").unlink()
    for page in pages(run.root):
        assert said not in page.text
    monkeypatch.setattr("imgsynth.report.write.load_run", lambda _: changed)
    for page in pages(run.root):
        assert said in page.text.split("proven: ε at most")[0]


def test_a_folder_without_a_run_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="imgsynth train"):
        write_report(tmp_path)
