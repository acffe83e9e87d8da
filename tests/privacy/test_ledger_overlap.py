"""The same patients in another cohort: known again by keyed hashes, composed, and told apart by issuer alone."""

import hashlib
import hmac
import math
import unicodedata
from itertools import product

import pytest
from dp_accounting import dp_event as DpEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsynth.keyed import key_check, keyed, normal
from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.entries import Account, Entry, composed
from imgsynth.privacy.events import compose, histogram_event, training_event
from imgsynth.privacy.overlap import Overlaps, Protected, Shared
from imgsynth.privacy.patients import Patients, digest, hashes, pack, unpack
from imgsynth.types import InputError

EVENTS = {name: histogram_event(eps) for name, eps in (("a", 0.1), ("b", 0.2), ("c", 0.4), ("d", 0.8))}


def people(*ids, issuer=None):
    return Patients(frozenset(ids), issuer)


def total(*names):
    return epsilon(compose([EVENTS[name] for name in names]), 1e-5)


def test_a_cohorts_epsilon_is_that_of_its_worst_patient(ledger, spend):
    spend(ledger, "r1", EVENTS["a"], cohort="A", patients=people("1", "2", "3"))
    spend(ledger, "r2", EVENTS["b"], cohort="B", patients=people("3", "4"))
    spend(ledger, "r3", EVENTS["c"], cohort="C", patients=people("4", "5"))
    spend(ledger, "r4", EVENTS["d"], cohort="D", patients=people("6"))
    expected = {"A": total("a", "b"), "B": total("b", "c"), "C": total("b", "c"), "D": total("d")}
    assert {c: ledger.composed_epsilon(c, 1e-5) for c in "ABCD"} == pytest.approx(expected)
    assert ledger.shared("B") == [Shared("A", 1, ("r1",)), Shared("C", 1, ("r3",))]
    assert ledger.shared("D") == []


def test_whom_runs_with_noise_read_is_found_under_every_name_and_nobody_else(ledger, spend):
    spend(ledger, "r1", EVENTS["a"], cohort="A", patients=people("1", "2", issuer="H"))
    spend(ledger, "r2", EVENTS["b"], cohort="A", patients=people("2", "3", issuer="h "))
    spend(ledger, "r3", EVENTS["c"], cohort="B", patients=people("3"))
    spend(ledger, "r4", EVENTS["d"], cohort="C", patients=people("3", issuer="G"))
    spend(ledger, "r5", DpEvent.NonPrivateDpEvent(), cohort="D", patients=people("3", issuer="H"), eps=math.inf)
    spend(ledger, "r6", EVENTS["d"], cohort="E", patients=people("3", issuer="H"), unit="image")
    spend(ledger, "r7", EVENTS["d"], cohort="F")
    found = ledger.protected("patient", people("1", "2", "3", "4", issuer="H"))
    assert found == [Protected("A", 3, True), Protected("B", 1, False)]
    assert ledger.protected("patient", people("3")) == [Protected(name, 1, False) for name in "ABC"]
    assert ledger.protected("image", people("3")) == [Protected("E", 1, True)]
    assert ledger.protected("patient", people("4", issuer="H")) == []
    ledger.set_issuer("B", "H")
    assert Protected("B", 1, True) in ledger.protected("patient", people("3", issuer="H"))


def test_entries_of_one_cohort_compose_whoever_they_read(ledger, spend):
    spend(ledger, "r1", EVENTS["a"], cohort="A", patients=people("1"))
    spend(ledger, "r2", EVENTS["b"], cohort="A", patients=people("2"))
    spend(ledger, "r3", EVENTS["c"], cohort="A")
    spend(ledger, "r4", EVENTS["d"], cohort="B", patients=people("2"))
    assert ledger.composed_epsilon("A", 1e-5) == pytest.approx(total("a", "b", "c", "d"))
    assert ledger.composed_epsilon("B", 1e-5) == pytest.approx(total("a", "b", "c", "d"))
    assert [row["composed_epsilon"] for row in ledger.table("A")] == pytest.approx(
        [total("a"), total("a", "b"), total("a", "b", "c")]
    )


def test_entries_whose_patients_are_not_known_count_for_their_cohort_alone(ledger, spend):
    spend(ledger, "r1", EVENTS["a"], cohort="A")
    spend(ledger, "r2", EVENTS["b"], cohort="B", patients=people("1"))
    assert ledger.composed_epsilon("A", 1e-5) == pytest.approx(total("a"))
    assert ledger.composed_epsilon("B", 1e-5) == pytest.approx(total("b"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (people("P 1"), people("  p 1 "), True),
        (people("J\u00fcrg"), people(unicodedata.normalize("NFD", "j\u00fcrg")), True),
        (people("1"), people("01"), False),
        (people("1", issuer="North"), people("1", issuer=" NORTH"), True),
        (people("1", issuer="North"), people("1", issuer="South"), False),
        (people("1", issuer="North"), people("1"), True),
        (people("1"), people("1"), True),
    ],
    ids=str,
)
def test_ids_are_normalised_and_issuers_tell_patients_apart(ledger, spend, one, other, same):
    spend(ledger, "r1", EVENTS["a"], cohort="A", patients=one)
    spend(ledger, "r2", EVENTS["b"], cohort="B", patients=other)
    assert ledger.composed_epsilon("A", 1e-5) == pytest.approx(total("a", "b") if same else total("a"))
    assert bool(ledger.shared("A")) == same


def test_an_id_without_issuer_may_be_either_of_two_patients_but_not_both(ledger, spend):
    spend(ledger, "r1", EVENTS["a"], cohort="A", patients=people("1", issuer="North"))
    spend(ledger, "r2", EVENTS["b"], cohort="B", patients=people("1", issuer="South"))
    spend(ledger, "r3", EVENTS["c"], cohort="C", patients=people("1"))
    assert ledger.composed_epsilon("A", 1e-5) == pytest.approx(total("a", "c"))
    assert ledger.composed_epsilon("B", 1e-5) == pytest.approx(total("b", "c"))
    assert ledger.composed_epsilon("C", 1e-5) == pytest.approx(total("b", "c"))


def test_the_custodian_can_say_afterwards_who_gave_out_the_ids(ledger, spend):
    spend(ledger, "r1", EVENTS["a"], cohort="A", patients=people("1", "2"))
    spend(ledger, "r2", EVENTS["b"], cohort="B", patients=people("1", issuer="South"))
    assert ledger.composed_epsilon("B", 1e-5) == pytest.approx(total("a", "b"))
    ledger.set_issuer("A", "North")
    assert ledger.composed_epsilon("B", 1e-5) == pytest.approx(total("b"))
    ledger.set_issuer("A", "South")  # said once, it stands
    assert [e.issuer for e in ledger.entries("A")] == ["North"]
    for cohort, issuer in (("A", " "), ("nobody", "North")):
        with pytest.raises(InputError, match="issuer of cohort"):
            ledger.set_issuer(cohort, issuer)


def test_patients_and_images_of_the_same_name_are_not_confused(ledger, spend):
    spend(ledger, "r1", EVENTS["a"], cohort="A", patients=people("1"))
    spend(ledger, "r2", EVENTS["b"], cohort="B", patients=people("1"), unit="image")
    assert ledger.shared("A") == []
    spend(ledger, "r3", EVENTS["c"], cohort="C", patients=people("1"), unit="image")
    assert ledger.composed_epsilon("B", 1e-5) == pytest.approx(total("b", "c"))


def test_the_budget_of_every_cohort_with_a_patient_of_the_run_holds(ledger, spend):
    spend(ledger, "r1", EVENTS["c"], cohort="A", patients=people("1", "2"), budget=0.5)
    spend(ledger, "r2", EVENTS["a"], cohort="B", patients=people("2", "3"), eps=0.1)
    refused = r"cohort A: .* spent by 2 runs, 0\.2 asked, 0\.6999 together.*1 with cohort B \(runs r2\).*data\.issuer"
    for cohort in ("A", "B", "C"):
        with pytest.raises(InputError, match=refused):
            spend(ledger, "r3", EVENTS["b"], eps=0.2, cohort=cohort, patients=people("2"))
    with pytest.raises(InputError, match="cohort A") as caught:
        spend(ledger, "r3", EVENTS["b"], eps=0.2, cohort="C", patients=people("2"), budget=0.1)
    assert [fault.where[-8:] for fault in caught.value.faults] == ["cohort A", "cohort C"]
    spend(ledger, "r3", EVENTS["b"], cohort="C", patients=people("4"))  # no patient of A
    spend(ledger, "r4", EVENTS["d"], cohort="C", patients=people("3"), budget=9)  # of B, which has no budget
    assert [e.run for e in ledger.entries("A")] == ["r1"]


def test_a_run_that_comes_back_with_other_patients_is_refused(ledger, spend):
    first = spend(ledger, "r1", patients=people("1", "2"))
    assert spend(ledger, "r1", patients=people("2", " 1")) == first
    for others in (people("1"), people("1", "2", "3"), None):
        with pytest.raises(InputError, match="other patients than recorded"):
            spend(ledger, "r1", patients=others)
    spend(ledger, "r2")
    assert spend(ledger, "r2", patients=people("1")).patients is None  # of an earlier version


def test_no_id_is_in_the_ledger_and_none_can_be_tried_without_the_key(ledger, spend):
    names = {f"Doe^Jane^{i}" for i in range(50)}
    spend(ledger, "r1", patients=Patients(frozenset(names)))
    stored = b"".join(file.read_bytes() for file in ledger.folder.iterdir() if file.name != "ledger.key")
    for name in names:
        for form in (name, normal(name)):
            plain = hashlib.sha256(form.encode()).digest()
            assert form.encode() not in stored and plain[:16] not in stored and plain.hex().encode() not in stored
    key = (ledger.folder / "ledger.key").read_bytes()
    assert all(one in stored for one in hashes(key, "patient", Patients(frozenset(names))))
    assert not any(one in stored for one in hashes(bytes(32), "patient", Patients(frozenset(names))))


def test_ids_that_come_hashed_are_the_same_patients_as_in_the_clear(ledger, spend):
    """Earlier versions gave the ledger ids in the clear: their entries and those of now must know each other."""
    spend(ledger, "before", EVENTS["a"], cohort="A", patients=people(" Ann ", "bob", "eve"))
    key = ledger.key()
    by_hand = [hmac.new(key, f'["patient", "{name}"]'.encode(), "sha256").hexdigest()[:32] for name in ("ann", "bob")]
    assert by_hand == [keyed(key, "patient", name).hex() for name in ("ann", "bob")]
    spend(ledger, "now", EVENTS["b"], cohort="B", patients=Patients(frozenset(by_hand), hashed=key_check(key)))
    assert ledger.shared("A") == [Shared("B", 2, ("now",))]
    assert ledger.composed_epsilon("A", 1e-5) == pytest.approx(total("a", "b"))


def test_ids_that_are_hashed_with_another_key_are_refused(ledger, spend):
    spend(ledger, "r1", patients=people("1"))
    with pytest.raises(InputError, match="another key than the one that the manifest's ids"):
        spend(ledger, "r2", patients=Patients(frozenset({"00" * 16}), hashed=key_check(bytes(32))))
    assert [entry.run for cohort in ledger.cohorts() for entry in ledger.entries(cohort)] == ["r1"]


def test_sets_of_patients_are_kept_once(ledger, spend, sql):
    for run in "abc":
        spend(ledger, run, patients=people("1", "2"))
    spend(ledger, "d", patients=people("1"))
    assert sorted(sql(ledger, "SELECT length(patients) FROM members")) == [(16,), (32,)]
    assert unpack(pack(frozenset({b"a" * 16, b"b" * 16}))) == {b"a" * 16, b"b" * 16}


sightings = st.lists(
    st.tuples(
        st.sampled_from("ABCD"), st.frozensets(st.sampled_from("12345")), st.sampled_from([None, "N", "S"]),
        st.sampled_from([0.1, 0.2, 0.4]),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=60)
@given(sightings)
def test_the_bound_is_the_worst_over_all_patients_one_by_one(spends):
    """Against the definition, naively: every id, every issuer that it may be of, every entry that then touches it."""
    account, sets = Account(), {}
    for i, (cohort, ids, issuer, eps) in enumerate(spends):
        packed = pack(frozenset(one.encode() * 16 for one in ids))
        sets[digest(packed)] = unpack(packed)
        entry = Entry(f"r{i}", histogram_event(eps), eps, 1e-5, None, "", patients=digest(packed), issuer=issuer)
        account.add(cohort, entry)
    overlaps = Overlaps(account, sets.__getitem__)
    for cohort in account.entries:
        worst = composed(account.of(cohort).values(), 1e-5)
        for one, who in product("12345", (None, "N", "S")):
            named = {by for _, ids, by, _ in spends if one in ids} - {None}
            if who is None and named:
                continue  # a person of an issuer who is not in the ledger is in fewer cohorts than one who is
            touched = {c for c, ids, by, _ in spends if one in ids and by in (None, who)}
            if cohort in touched:
                worst = max(worst, composed([e for c in touched for e in account.of(c).values()], 1e-5))
        assert overlaps.worst(cohort, 1e-5)[0] == pytest.approx(worst)


def test_a_training_run_on_two_exports_costs_both(ledger, spend):
    training = training_event(0.1, 2.0, 50)
    spend(ledger, "r1", training, cohort="2024", patients=people(*map(str, range(100))))
    spend(ledger, "r2", training, cohort="2025", patients=people(*map(str, range(50, 150))))
    assert ledger.shared("2025") == [Shared("2024", 50, ("r1",))]
    assert ledger.composed_epsilon("2025", 1e-5) == epsilon(training_event(0.1, 2.0, 100), 1e-5)
    assert math.isfinite(ledger.composed_epsilon("2024", 1e-5))
