"""n_D walks up as the discriminator stops recognising fakes, and only then; and the walk goes on after a restart."""

import pytest
import torch

from imgsynth.models.pace import Pace, level_of, steps_at
from imgsynth.types import InputError


def walk(pace: Pace, accuracies: list[float], start: int = 0) -> list[int]:
    """The steps after which the generator steps, one for each accuracy."""
    taken, step = [], start
    for accuracy in accuracies:
        step += 1
        while not pace.due(step):
            step += 1
        pace.tell(step, accuracy)
        taken.append(step)
    return taken


def test_levels_are_1_2_5_10_and_so_on():
    assert [steps_at(level) for level in range(10)] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert [steps_at(level_of(n)) for n in (1, 2, 3, 5, 11, 1000)] == [1, 2, 5, 5, 20, 1000]


def test_a_discriminator_that_is_fooled_gets_more_steps_after_its_patience():
    pace = Pace(1, patience=3)
    assert walk(pace, [0.5] * 9) == [1, 2, 3, 5, 7, 9, 14, 19, 24]
    assert pace.every == 10


def test_one_that_knows_the_fakes_gets_none():
    pace = Pace(2, patience=3)
    walk(pace, [0.61] * 50)
    assert pace.every == 2


@pytest.mark.parametrize(("accuracy", "level"), [(0.6, 2), (0.6001, 1)])
def test_the_threshold_itself_is_low_enough(accuracy, level):
    pace = Pace(1, patience=2)
    walk(pace, [accuracy] * 2)
    assert pace.every == level


def test_the_average_is_over_the_level_and_forgets():
    pace = Pace(1, patience=10)
    readings = [0.9, 0.8, 1.0, 0.7, 0.65]
    walk(pace, readings)
    weights = [0.8 ** (4 - i) for i in range(5)]
    expected = sum(w * r for w, r in zip(weights, readings, strict=True)) / sum(weights)
    assert float(pace.accuracy) == pytest.approx(expected, rel=1e-5)
    walk(pace, [0.1] * 5, start=5)
    assert (pace.every, float(pace.accuracy), int(pace.taken)) == (2, 0.0, 0)


def test_it_goes_on_from_its_state():
    readings = torch.rand(40, generator=torch.Generator().manual_seed(0)).tolist()
    whole, first = Pace(1, patience=4), Pace(1, patience=4)
    expected = walk(whole, readings)
    begun = walk(first, readings[:17])
    second = Pace(1, patience=4)
    second.load_state_dict(first.state_dict())
    assert begun + walk(second, readings[17:], start=begun[-1]) == expected
    assert second.every == whole.every > 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"every": 0}, "model.every"),
        ({"patience": 1}, "model.patience"),
        ({"adaptive": True, "loss": "wasserstein", "critic": "lipschitz"}, "model.adaptive"),
        ({"loss": "wasserstein"}, "model.critic"),
        ({"loss": "mse"}, "model.loss"),
        ({"critic": "spectral"}, "model.critic"),
        ({"critic": "lipschitz", "channels": 3}, "model.channels"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_arguments_that_make_no_sense_are_refused_by_name(arguments, named):
    from imgsynth.models import GAN

    with pytest.raises(InputError) as refused:
        GAN((16, 16), 2, **arguments)
    assert named in refused.value.faults[0].where


def test_all_of_them_at_once():
    from imgsynth.models import GAN

    with pytest.raises(InputError) as refused:
        GAN((16, 16), 2, every=0, patience=0, loss="wasserstein", adaptive=True)
    assert [f.where for f in refused.value.faults] == [
        "model.critic",
        "model.every",
        "model.patience",
        "model.adaptive",
    ]
