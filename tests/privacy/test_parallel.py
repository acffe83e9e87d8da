import torch

from imgsynth.privacy.engines.parallel import for_each, processors


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


def test_within_a_thread_that_computes_alone_there_is_one_processor():
    """Else a thread would wait for work that only threads as busy as itself could do."""
    before, seen, device = torch.get_num_threads(), [], torch.device("cpu")
    torch.set_num_threads(2)
    try:
        for_each(lambda i: for_each(lambda j: seen.append((i, j, processors(device))), 3, device), 4, device)
        assert processors(device) == 2
    finally:
        torch.set_num_threads(before)
    assert sorted(seen) == [(i, j, 1) for i in range(4) for j in range(3)]
