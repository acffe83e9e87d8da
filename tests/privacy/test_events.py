import json

import pytest
from dp_accounting import dp_event as dp
from hypothesis import given
from hypothesis import strategies as st

from imgsynth.privacy.events import compose, event_from_json, event_to_json, histogram_event, training_event
from imgsynth.types import InputError

positive = st.floats(1e-3, 1e3)
simple = st.one_of(
    st.builds(dp.GaussianDpEvent, positive),
    st.builds(dp.LaplaceDpEvent, positive),
    st.builds(histogram_event, positive),
    st.builds(training_event, st.floats(1e-6, 1), positive, st.integers(1, 10**6)),
    st.just(dp.NonPrivateDpEvent()),
)


@given(st.recursive(simple, lambda inner: st.lists(inner, min_size=2, max_size=3).map(compose), max_leaves=5))
def test_through_json_and_back_is_the_identity(event):
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"type": "RandomizedResponseDpEvent", "noise_parameter": 0.1, "num_buckets": 2},
        {"type": "GaussianDpEvent"},
        {"type": "GaussianDpEvent", "noise_multiplier": "1"},
        {"type": "GaussianDpEvent", "noise_multiplier": True},
        {"type": "GaussianDpEvent", "noise_multiplier": 1.0, "extra": 1},
        {"type": "ComposedDpEvent", "events": {"type": "NoOpDpEvent"}},
        {"type": "SelfComposedDpEvent", "count": 2, "event": {"type": "Unheard"}},
    ],
    ids=str,
)
def test_unknown_or_malformed_events_are_refused(value):
    with pytest.raises(InputError, match="privacy event"):
        event_from_json(value)


def test_noise_of_zero_is_not_private():
    assert training_event(0.1, 0.0, 10) == dp.NonPrivateDpEvent()
