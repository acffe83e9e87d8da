"""What the card says of public weights that a run began with, and that nobody can take it off the card."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from imgsynth.files import read_json, write_json
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.public import PublicStart
from imgsynth.release.card import build_card, card_markdown, write_card
from imgsynth.release.documents import write_documents
from imgsynth.release.folder import write_checksums
from imgsynth.release.provenance import provenance
from imgsynth.release.verify import verify_release
from imgsynth.training.run import load_run
from imgsynth.types import CheckFailed

START = PublicStart("ab" * 32, "radiographs of {Example} 2019, | CC BY 4.0")


def of_release(release: Path, public: PublicStart | None) -> dict:
    """The card that the release would have had with such a beginning."""
    card = read_json(release / "privacy_card.json")
    plan = dataclasses.replace(PrivacyPlan.from_json(card["plan"]), public=public)
    return build_card(
        plan, card["synthetic_labels"], card["cohort_ledger"], card["audit"], card["burned_in_annotation"]
    )


def test_the_card_names_the_images_and_says_whom_the_guarantee_is_not_for(ct_release: Path) -> None:
    card, without = of_release(ct_release, START), of_release(ct_release, None)
    (declared,) = [fact for fact in card["declared_public"] if fact not in without["declared_public"]]
    assert START.images in declared and START.digest in declared
    (limit,) = [one for one in card["not_covered"] if one not in without["not_covered"]]
    assert START.images in limit and "no patient of the cohort is among them, is the custodian's declaration" in limit
    text = card_markdown(card)
    assert declared in text and limit in text
    assert card["guarantee"] == without["guarantee"] and card["statement"] == without["statement"]
    of_images = dataclasses.replace(PrivacyPlan.from_json(card["plan"]), unit="image")
    said = " ".join(build_card(of_images, "uniform", card["cohort_ledger"], card["audit"])["not_covered"])
    assert "no image of the cohort is among them" in said


def test_verify_holds_the_card_to_its_beginning(tampered: Path) -> None:
    whole = of_release(tampered, START)

    made = read_json(tampered / "provenance.json")
    began = {"digest": START.digest, "images": START.images, "trained": "all", "rank_of_adapters": 0}

    def verified(card: dict, began_with: dict | str = began) -> None:
        write_card(tampered, card)
        write_json(tampered / "provenance.json", made | {"began_with": began_with})
        write_documents(tampered)
        write_checksums(tampered)
        verify_release(tampered)

    verified(whole)
    with pytest.raises(CheckFailed, match="began_with: got None"):
        verified(whole, "random numbers")
    with pytest.raises(CheckFailed, match="began_with"):
        verified(whole, {**began, "images": "none"})
    for key in ("declared_public", "not_covered"):
        with pytest.raises(CheckFailed, match=key):
            verified({**whole, key: [one for one in whole[key] if START.images not in one]})
    with pytest.raises(CheckFailed, match="declared_public"):
        verified({**whole, "plan": {**whole["plan"], "public": None}})
    with pytest.raises(CheckFailed, match="declared_public"):
        verified({**whole, "plan": {**whole["plan"], "public": {**whole["plan"]["public"], "images": "none"}}})
    write_card(tampered, {**whole, "plan": {**whole["plan"], "public": {**START.__dict__, "digest": "unknown"}}})
    write_checksums(tampered)
    with pytest.raises(CheckFailed, match="SHA-256"):
        verify_release(tampered)


def test_provenance_says_what_the_networks_began_with(ct_run: Path, tmp_path: Path) -> None:
    run = load_run(ct_run)
    assert provenance(run)["began_with"] == "random numbers"
    begun = dataclasses.replace(run, plan=dataclasses.replace(run.plan, public=START))
    init = dataclasses.replace(run.config.init, train=["head"], rank=3)
    begun = dataclasses.replace(begun, config=dataclasses.replace(run.config, init=init))
    said = provenance(begun)["began_with"]
    assert said == {"digest": START.digest, "images": START.images, "trained": "some", "rank_of_adapters": 3}
    write_json(tmp_path / "provenance.json", said)
