import pytest
import torch

from imgsynth.privacy.engines.base import _fingerprint

LONG = 2 * 2**15 + 3  # 64-bit words: more than two parts
VALUES = {
    "a scalar": torch.tensor(3.0),
    "a step counter": torch.tensor(3),
    "bits": torch.zeros(7, dtype=torch.bool),
    "bf16": torch.zeros(5, dtype=torch.bfloat16),
    "double": torch.randn(3, 4, dtype=torch.float64),
    "transposed": torch.randn(4, 5).T,
    "long": torch.randn(2 * LONG),
    "NaN": torch.tensor([float("nan"), 0.0, 1.0]),
}


@pytest.mark.parametrize("what", VALUES)
def test_a_fingerprint_is_of_the_contents(what):
    value = VALUES[what]
    assert _fingerprint(value) == _fingerprint(value.clone())
    for place in {0, value.numel() // 2, value.numel() - 1}:
        other = value.clone().contiguous()
        bytes_of = other.view(-1).view(torch.uint8)
        bytes_of[place * other.element_size()] ^= 1  # the smallest change there is
        assert _fingerprint(other) != _fingerprint(value)


def test_changes_that_leave_a_plain_sum_as_it_was_are_seen():
    value = torch.arange(2.0 * LONG)
    swapped, moved = value.clone(), value.roll(2 * 2**15)  # two neighbours; whole parts
    swapped[[0, 2]] = swapped[[2, 0]]
    assert len({_fingerprint(t) for t in (value, swapped, moved, value.view(2, -1), value.flip(0))}) == 5
    assert _fingerprint(torch.zeros(64)) != _fingerprint(torch.ones(64))
