from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsynth.cohort.splits import official_splits, split_patients
from imgsynth.schema import SplitsConfig
from imgsynth.types import InputError

cohorts = st.lists(st.integers(0, 3), min_size=40, max_size=150).map(lambda ys: {f"p{n}": y for n, y in enumerate(ys)})
shares = st.floats(0.05, 0.4)


@given(cohorts, shares, shares, st.integers(0, 5))
def test_every_class_gets_its_shares_to_within_one_patient(
    classes: dict[str, int], holdout: float, test: float, seed: int
) -> None:
    assigned = split_patients(classes, SplitsConfig(holdout, test, seed))
    assert set(assigned) == set(classes)
    for index in set(classes.values()):
        own = Counter(assigned[p] for p in classes if classes[p] == index)
        n = own.total()
        filled = 1  # a split that would have been empty takes one patient
        assert abs(own["holdout"] - holdout * n) < 1 + filled
        assert abs(own["test"] - test * n) < 1 + filled
    assert set(assigned.values()) == {"train", "holdout", "test"}


@given(cohorts, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_the_seed_does(classes: dict[str, int], random: object) -> None:
    assigned = split_patients(classes, SplitsConfig(seed=1))
    shuffled = list(classes.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_patients(dict(shuffled), SplitsConfig(seed=1)) == assigned
    assert split_patients(classes, SplitsConfig(seed=2)) != assigned


@given(cohorts, st.data())
def test_one_patient_more_moves_at_most_one_other_across_each_cut(classes: dict[str, int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(classes)))
    whole = split_patients(classes, SplitsConfig())
    fewer = split_patients({p: y for p, y in classes.items() if p != gone}, SplitsConfig())
    moved = [p for p in fewer if fewer[p] != whole[p]]
    assert len(moved) <= 2
    assert {classes[p] for p in moved} <= {classes[gone]}


def test_shares_do_not_depend_on_the_class() -> None:
    classes = {f"p{n}": n % 4 == 0 for n in range(2000)}
    assigned = split_patients({p: int(y) for p, y in classes.items()}, SplitsConfig(0.2, 0.1))
    counts = Counter((classes[p], split) for p, split in assigned.items())
    assert counts[True, "holdout"] in (99, 100, 101)
    assert counts[False, "test"] in (149, 150, 151)


def test_three_patients_give_one_each_and_two_are_too_few() -> None:
    assert sorted(split_patients({"a": 0, "b": 0, "c": 0}, SplitsConfig()).values()) == ["holdout", "test", "train"]
    with pytest.raises(InputError, match="2 patients; expected 3 or more"):
        split_patients({"a": 0, "b": 1}, SplitsConfig())


def test_official_parts_are_taken_as_they_are() -> None:
    parts = [("a", "train"), ("b", "test"), ("a", "train"), ("c", "holdout")]
    assert official_splits(parts) == {"a": "train", "b": "test", "c": "holdout"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts",
    [[("a", "train"), ("a", "test"), ("b", "train")], [("a", "train"), ("b", None)], [("a", "test")]],
    ids=["in two", "in none", "nobody trains"],
)
def test_official_parts_that_do_not_split_patients_are_refused(parts: list[tuple[str, None]]) -> None:
    with pytest.raises(InputError, match=r"data\.splits\.official"):
        official_splits(parts)
