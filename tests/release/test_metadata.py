"""Age band, sex and site of synthetic patients: from noised counts or an anonymous table; what card and headers say."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from imgsynth import config
from imgsynth.cohort.facts import AGE_BANDS, SEXES, UNKNOWN, domains, facts_by_patient
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.files import read_json, write_json
from imgsynth.release.anonymity import SUPPRESSED, Anonymity, measure
from imgsynth.release.folder import write_checksums
from imgsynth.release.metadata import draw_metadata, hierarchy, shares
from imgsynth.release.sample import sample_release
from imgsynth.release.update import update_card
from imgsynth.release.verify import verify_release
from imgsynth.schema import DataConfig, PreprocessConfig, SampleConfig
from imgsynth.training.histogram import count
from imgsynth.training.run import load_run
from imgsynth.types import CheckFailed, InputError

SITES = ("North", "South")


def item(patient: str, number: int = 0, **facts: str | None) -> Item:
    return Item(patient, "s", "t", (f"{patient}/{number}",), "DX", (4, 4, 1), (1.0,) * 3, f"{patient}{number}", **facts)  # type: ignore[arg-type]


def manifest_of(*items: Item) -> Manifest:
    return Manifest("npz", "/", "patient", ("well", "ill"), items)


@pytest.fixture
def cohort() -> Manifest:
    """200 patients: the ill are old men of the north, the well young women of the south, and one is like nobody."""
    bands = ("60-69", "70-79")
    ill = [item(f"i{n}", label="ill", age_band=bands[n % 2], sex="M", site="North") for n in range(100)]
    well = [item(f"w{n}", label="well", age_band="30-39", sex="F", site="South") for n in range(99)]
    return manifest_of(*ill, *well, item("x", label="well", age_band="0-9", sex="O", site="Nowhere"))


def test_a_patients_facts_are_the_first_that_his_images_say_and_in_the_public_lists() -> None:
    manifest = manifest_of(
        item("a", 0, sex=None, age_band="30-39", site="North"), item("a", 1, sex="F", age_band="40-49"),
        item("b", site="Elsewhere"), dataclasses.replace(item("c", sex="M"), split="test"),
    )  # fmt: skip
    public = domains(("age_band", "sex", "site"), SITES)
    assert public == {"age_band": (*AGE_BANDS, UNKNOWN), "sex": (*SEXES, UNKNOWN), "site": (*SITES, UNKNOWN)}
    assert facts_by_patient(manifest, "train", public) == {"a": ("30-39", "F", "North"), "b": (UNKNOWN,) * 3}
    assert facts_by_patient(manifest, "train", ("site",)) == {"a": ("North",), "b": ("Elsewhere",)}


def test_every_patient_is_counted_once_and_one_patient_moves_one_cell_by_one(cohort: Manifest) -> None:
    sample = SampleConfig(metadata=["age_band", "sex", "site"], sites=list(SITES))
    exact = count(cohort, sample, 200.0, seed=1)  # noise of 0, all but surely
    cells = np.array(exact["cells"]).reshape(2, 11, 4, 3)
    assert cells.sum() == 200 and exact["counts"] == [100, 100]
    assert cells[1, AGE_BANDS.index("70-79"), SEXES.index("M"), SITES.index("North")] == 50
    assert cells[0, 0, SEXES.index("O"), 2] == 1  # a site that is not declared is unknown
    without = manifest_of(*cohort.items[:-1])
    moved = cells - np.array(count(without, sample, 200.0, seed=1)["cells"]).reshape(cells.shape)
    assert np.abs(moved).sum() == 1 and moved[0, 0, 2, 2] == 1
    noisy = np.array(count(cohort, sample, 0.5, seed=2)["cells"])
    assert (noisy < 0).any() and np.abs(noisy - cells.ravel()).mean() == pytest.approx(2.0, rel=0.25)  # E|z| ~ 1/ε
    assert set(count(cohort, SampleConfig(labels="histogram"), 200.0, 1)) == {"counts"}


def test_shares_are_the_nearest_that_are_not_negative() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        noisy = random.normal(2, 4, 9)
        if noisy.sum() <= 0:
            continue
        got = shares(noisy) * noisy.sum()
        assert got.min() >= 0 and got.sum() == pytest.approx(noisy.sum())
        for other in random.dirichlet(np.ones(9), 200) * noisy.sum():  # none that sums to the same is nearer
            assert np.square(got - noisy).sum() <= np.square(other - noisy).sum() + 1e-9
    assert shares(np.array([4.0, 2.0, -3.0])).tolist() == [pytest.approx(2.5 / 3), pytest.approx(0.5 / 3), 0.0]
    assert shares(np.array([-1.0, 0.0])).tolist() == [0.5, 0.5]


def test_rows_follow_the_counts_of_their_class(cohort: Manifest, tmp_path: Path) -> None:
    sample = SampleConfig(metadata=["age_band", "sex"])
    write_json(tmp_path / "h.json", count(cohort, sample, 50.0, seed=3))
    labels = np.array([0, 1] * 500)
    table = draw_metadata(sample, cohort, labels, tmp_path / "h.json", np.random.default_rng(0))
    ill = Counter(row for row, label in zip(table.rows, labels, strict=True) if label)
    assert set(ill) == {("60-69", "M"), ("70-79", "M")} and 200 < ill["60-69", "M"] < 300
    assert table.of(1) == {"age_band": "30-39", "sex": "F"}
    assert table.record == {"facts": ["age_band", "sex"], "by": "dp"}
    with pytest.raises(InputError, match=r"counted \['age_band', 'sex'\]"):
        draw_metadata(SampleConfig(metadata=["sex"]), cohort, labels, tmp_path / "h.json", np.random.default_rng(0))
    with pytest.raises(InputError, match="counted none"):
        draw_metadata(sample, cohort, labels, tmp_path / "none.json", np.random.default_rng(0))


def test_an_anonymous_table_keeps_what_was_asked_and_never_the_one_who_is_like_nobody(
    cohort: Manifest, tmp_path: Path
) -> None:
    sample = SampleConfig(metadata=["age_band", "sex", "site"], metadata_by="anonymised", k=5, l=1, t=1.0)
    labels = np.array([0, 1] * 50)
    table = draw_metadata(sample, cohort, labels, tmp_path / "none", np.random.default_rng(0))
    names = [cohort.classes[c] for c in labels]
    assert measure(table.rows, names).keeps(Anonymity(5, 1, 1.0)) and table.record is not None
    assert table.record["has"] == vars(measure(table.rows, names))
    assert {"0-9", "O", "Nowhere"}.isdisjoint(value for row in table.rows for value in row)
    assert ("60-69", "M", "North") in table.rows  # and not more is hidden than must be
    close = dataclasses.replace(sample, l=2, t=0.2)  # age and sex tell the class here: nothing can be said
    rows = draw_metadata(close, cohort, labels, tmp_path / "none", np.random.default_rng(0)).rows
    assert set(rows) == {(SUPPRESSED,) * 3}
    with pytest.raises(InputError, match=r"sample\.k"):
        draw_metadata(dataclasses.replace(sample, k=101), cohort, labels, tmp_path, np.random.default_rng(0))


def test_ages_widen_step_by_step() -> None:
    twenty, forty, none = hierarchy("age_band")
    assert (twenty["30-39"], twenty["80-89"], twenty["90+"]) == ("20-39", "80+", "80+")
    assert (forty["30-39"], forty["40-49"], forty["90+"]) == ("0-39", "40-79", "80+")
    assert set(none.values()) == {SUPPRESSED} == set(hierarchy("sex")[0].values())
    assert all(set(level) == {*AGE_BANDS, UNKNOWN} for level in (twenty, forty, none))


def sampled(run: Path, **sample: object) -> Path:
    cfg = load_run(run).config
    return sample_release(run, dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, **sample)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table_run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs of 40 patients with a table of age and sex, which were counted with noise."""
    folder, random = tmp_path_factory.mktemp("table"), np.random.default_rng(5)
    np.savez(folder / "i.npz", images=random.integers(0, 256, (40, 16, 16)).astype(np.uint8), patient_ids=np.arange(40))
    rows = [f"{n},{'ab'[n % 2]},{20 + n},{'FM'[n // 2 % 2]}" for n in range(40)]
    (folder / "t.csv").write_text("patient_id,finding,age,sex\n" + "\n".join(rows) + "\n")
    data = DataConfig(kind="npz", root=str(folder / "i.npz"), modality="DX", table=str(folder / "t.csv"),
                      label="finding", classes=["a", "b"])  # fmt: skip
    preprocess = PreprocessConfig([16, 16], fit="resize", intensity="minmax", low=0, high=255)
    return make_run(data, preprocess, sample={"metadata": ["age_band", "sex"], "n": 12})


def test_a_table_from_noised_counts_is_in_the_guarantee_and_verifies(table_run: Path) -> None:
    release = sampled(table_run)
    verify_release(release)
    card = read_json(release / "privacy_card.json")
    assert card["guarantee"]["epsilon_histogram"] == 0.5 and card["plan"]["histogram_epsilon"] == 0.5
    assert card["released_metadata"]["by"] == "dp" and "part of the total" in card["released_metadata"]["note"]
    assert not any("DOES NOT COVER THE TABLE" in limit for limit in card["not_covered"])
    patients = read_json(release / "synthetic_cohort.json")["patients"]
    rows = (release / "synthetic_cohort.csv").read_text().splitlines()
    assert rows[0] == "id,label,age_band,sex,files" and len(rows) == 13
    for patient in patients:
        assert patient["facts"]["age_band"] in (*AGE_BANDS, UNKNOWN)
        header = pydicom.dcmread(release / patient["dicom"][0])
        assert header.PatientSex == (patient["facts"]["sex"] if patient["facts"]["sex"] != UNKNOWN else "")
        assert "PatientAge" not in header
        sidecar = json.loads((release / patient["nifti"][0].replace(".nii.gz", ".json")).read_text())
        assert (sidecar["AgeBand"], sidecar["Sex"]) == tuple(patient["facts"].values())


def test_an_anonymised_table_is_said_to_be_outside_the_guarantee_and_is_measured_again(table_run: Path) -> None:
    release = sampled(table_run, metadata_by="anonymised", k=3, l=1, t=1.0)
    verify_release(release)
    update_card(table_run)  # what an audit does keeps the record
    verify_release(release)
    card = read_json(release / "privacy_card.json")
    record = card["released_metadata"]
    assert "THE GUARANTEE DOES NOT COVER THE TABLE" in record["note"] and record["note"] == card["not_covered"][0]
    assert record["note"] in (release / "privacy_card.md").read_text()
    assert record["asked"] == {"k": 3, "l": 1, "t": 1.0} and record["has"]["k"] >= 3


@pytest.fixture(scope="module")
def anonymised_release(table_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    release = sampled(table_run, metadata_by="anonymised", k=3, l=1, t=1.0, formats=["dicom"])
    return Path(shutil.copytree(release, tmp_path_factory.mktemp("anonymised") / "release"))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", ""),
        ("one row", "as was asked|as the card says"),
        ("the asked k", "as was asked"),
        ("the note", "released_metadata"),
        ("by", "released_metadata"),
        ("other facts", "other facts"),
        ("sex in a header", "PatientSex"),
    ],
)
def test_a_table_that_is_not_what_the_card_says_does_not_verify(
    what: str, said: str, anonymised_release: Path, tmp_path: Path
) -> None:
    release = Path(shutil.copytree(anonymised_release, tmp_path / "release"))
    card, cohort = (read_json(release / f"{name}.json") for name in ("privacy_card", "synthetic_cohort"))
    if what == "one row":
        cohort["patients"][0]["facts"] = {"age_band": "0-9", "sex": "*"}
    elif what == "the asked k":
        card["released_metadata"]["asked"]["k"] = 13
    elif what == "the note":
        card["released_metadata"]["note"] = "All of it is covered."
    elif what == "by":
        card["released_metadata"] = card["released_metadata"] | {"by": "dp"}
    elif what == "other facts":
        card["released_metadata"]["facts"] = ["sex"]
    elif what == "sex in a header":
        path = release / cohort["patients"][0]["dicom"][0]
        dataset = pydicom.dcmread(path)
        dataset.PatientSex = "O"
        dataset.save_as(path)
    write_json(release / "privacy_card.json", card)
    write_json(release / "synthetic_cohort.json", cohort)
    write_checksums(release)
    if what == "nothing":
        verify_release(release)
    else:
        with pytest.raises(CheckFailed, match=said):
            verify_release(release)


def test_settings_that_say_too_little_are_refused() -> None:
    def faults(*overrides: str) -> str:
        with pytest.raises(InputError) as caught:
            config.from_overrides("train", list(overrides))
        return str(caught.value)

    assert "sample.sites: got nothing" in faults("sample.metadata=[site]")
    assert "sample.metadata" in faults("sample.metadata=[name]")
    assert "sample.k" in faults("sample.k=1") and "sample.t" in faults("sample.t=2")
    assert "sample.histogram_epsilon" in faults("sample.metadata=[sex]", "sample.histogram_epsilon=9")
    free = config.from_overrides("train", ["sample.metadata=[site]", "sample.metadata_by=anonymised"])
    assert free.sample.epsilon_for_histogram == 0
    assert config.from_overrides("train", ["sample.metadata=[sex]"]).sample.epsilon_for_histogram == 0.5
