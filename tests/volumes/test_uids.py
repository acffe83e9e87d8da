"""UIDs: random, under any root that may be one, and of nothing but the generator that is handed in."""

from __future__ import annotations

import pickle
import re
import uuid

import numpy as np
import pytest
from pydicom.uid import UID

from imgsynth.volumes.uids import RandomUids, is_uid_root

LONG = "1.2.826.0.1.3680043.10.1234567890123456"  # 39 characters


def seeded(root: str, seed: int = 7) -> RandomUids:
    return RandomUids(root, np.random.default_rng(seed))


@pytest.mark.parametrize("root", ["2.25", "1.2.826.0.1.3680043.10.1000", LONG, "0.39", "2.999", "1.0"])
def test_every_root_gives_valid_distinct_uids(root: str) -> None:
    new_uid = RandomUids(root)
    uids = [new_uid() for _ in range(2000)]
    assert len(set(uids)) == 2000
    for uid in uids:
        assert UID(uid).is_valid and uid.startswith(f"{root}.") and len(uid) <= 64
        assert re.fullmatch(r"[1-9][0-9]*", uid[len(root) + 1 :])


def test_under_2_25_each_is_a_random_uuid() -> None:
    new_uid = RandomUids()
    assert {uuid.UUID(int=int(new_uid()[5:])).version for _ in range(100)} == {4}  # no clock and no host in it


@pytest.mark.parametrize("root", ["2.25", "1.2.3", LONG])
def test_they_follow_from_the_generator_and_from_nothing_else(root: str) -> None:
    first, second, other = seeded(root), pickle.loads(pickle.dumps(seeded(root))), seeded(root, 8)
    drawn = [first() for _ in range(5)]
    assert drawn == [second() for _ in range(5)]
    assert not set(drawn) & {other() for _ in range(5)}
    assert RandomUids(root)() != RandomUids(root)()


@pytest.mark.parametrize("root", ["1.2.3", LONG])
def test_the_random_part_uses_all_its_digits(root: str) -> None:
    """A part that repeats, or of which a digit never changes, would have less room than it says."""
    new_uid = seeded(root)
    parts = np.array([list(map(int, new_uid()[len(root) + 1 :])) for _ in range(2000)])
    assert parts.shape[1] == min(39, 63 - len(root)) and parts[:, 0].min() == 1
    for column in parts[:, 1:].T:
        counts = np.bincount(column, minlength=10)
        assert np.abs(counts - 200).max() < 75  # 5.6 standard deviations


BAD = ["", "1", "3.1",
       "1.40", "0.40.1", "1..2", ".1.2", "1.2.", "1.02", "1.a", " 1.2", "1.2\n", LONG + "7", "1.2.840.10008",
       "1.2.840.10008.5", "2.25.5", "1,2", "-1.2", "1.²"]  # fmt: skip


@pytest.mark.parametrize("root", BAD)
def test_what_is_no_root_is_refused(root: str) -> None:
    assert not is_uid_root(root)
    with pytest.raises(ValueError, match="root of UIDs"):
        RandomUids(root)


def test_the_standards_root_is_refused_by_component_not_by_its_letters() -> None:
    assert is_uid_root("1.2.840.100080") and is_uid_root("2.250")
