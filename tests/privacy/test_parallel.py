import torch

from imgsynth.privacy.engines.parallel import for_each


def test_every_thread_computes_alone_also_after_torch_has_set_its_own_number():
    """torch sets a thread's number of helpers when it first computes there; they would be more than processors."""
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        for_each(lambda i: (torch.ones(100_000).add_(1), seen.append(torch.get_num_threads())), 6, torch.device("cpu"))
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * 6


def test_every_one_is_visited_once():
    seen = []
    for_each(seen.append, 5, torch.device("cpu"))
    assert sorted(seen) == [0, 1, 2, 3, 4]
