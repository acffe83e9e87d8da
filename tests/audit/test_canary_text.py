"""String canaries: read where a model repeats what it saw and only there, refused where none can be read."""

from __future__ import annotations

import json
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from canary_cohort import CLASSES, SHAPE, Cohort, make_plan
from test_canaries_run import audit, no_earlier_look, trained  # noqa: F401
from torch import Tensor, nn

from imgsynth.audit.canaries import text
from imgsynth.audit.canaries.coins import toss
from imgsynth.audit.canaries.control import CouldShow
from imgsynth.audit.canaries.run import evaluated
from imgsynth.audit.canaries.text import LETTERS, burned_in, code_words, counted, exposure
from imgsynth.audit.canaries.twin import Twin
from imgsynth.audit.one_run import guess
from imgsynth.features import ocr
from imgsynth.models import GenerativeModel, PostProcessing, Private, Query
from imgsynth.privacy.plan import GaussianQuery
from imgsynth.schema import TrainerConfig
from imgsynth.types import InputError

M = 40
BOTH = ["audit.canaries.kinds=[side,text]", "audit.alpha=0.1"]


class Seen(list[Tensor]):
    """What passed through a network, kept beside its weights; a copy of the network keeps the same."""

    def __deepcopy__(self, memo: dict) -> Seen:
        return self


class Brightness(nn.Module):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), seen

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        self.seen.extend(x_BC.detach().clone())
        return self.layer(x_BC.flatten(1).mean(1, keepdim=True)).square()[:, 0]


class Keeper(GenerativeModel):
    """Its gradients are as private as the plan; what it ``repeats`` it has from elsewhere."""

    def __init__(self, repeats: bool, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__()
        self.shape, self.classes, self.repeats = shape, CLASSES, repeats
        self.loss = Brightness(Seen())

    def objectives(self):
        return [Private("brightness", self.loss, lambda n, random: ())]

    @property
    def generator(self) -> nn.Module:
        return self.loss.layer

    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        if not self.repeats:
            return torch.rand(len(y_B), 1, *self.shape, generator=random) * 2 - 1
        seen = self.loss.seen
        return torch.stack([seen[i] for i in torch.randint(len(seen), (len(y_B),), generator=random)])


class Decoder:
    """Stands for the OCR: reads what ``written`` wrote, and nothing else."""

    def read(self, pixels: np.ndarray) -> list[ocr.Text]:
        index = (pixels[0, : text.LENGTH] + 1) / 2 * len(LETTERS)
        exact = np.abs(index - index.round()) < 1e-4
        plain = exact.all() and (pixels[1:] == -1).all() and index.max() < len(LETTERS)
        return [ocr.Text("".join(LETTERS[int(i)] for i in index.round()), 1.0, (0.0, 0.0))] if plain else []


def written(word: str, shape: tuple[int, ...]) -> np.ndarray:
    picture = np.full(shape, -1.0, np.float32)
    picture[0, : text.LENGTH] = [2 * LETTERS.index(letter) / len(LETTERS) - 1 for letter in word]
    return picture


@pytest.fixture
def no_ocr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TextReader", Decoder)
    monkeypatch.setattr(text, "_burned", written)


def twin_of(model: GenerativeModel, coins_M: np.ndarray, strings: text.Strings, samples: int = 400) -> Twin:
    plan = make_plan(images=1, engine="loop")
    settings, shape = TrainerConfig(steps=plan.steps, device="cpu"), strings.image_MC.shape[2:]
    patients = Cohort(plan.n, 1, tuple(shape))
    return Twin(
        model, "text", coins_M, plan, settings, patients, torch.device("cpu"), seed=1, strings=strings, samples=samples
    )  # fmt: skip


def test_words_are_further_apart_than_reading_errs() -> None:
    words = code_words(150, np.random.default_rng(0))
    assert len(set(words)) == 150 and all(len(word) == 6 and set(word) <= set(LETTERS) for word in words)
    assert min(ocr.misread(a, b) for a, b in permutations(words, 2)) == text.APART
    assert int(ocr.SIMILAR * text.LENGTH) * 2 < text.APART
    spoilt = [word[:2] + "#" + word[3:] for word in words[:40]]
    assert [[w for w in words if ocr.recovered(w, [line])] for line in spoilt] == [[w] for w in words[:40]]


def test_a_model_that_repeats_what_it_saw_is_found_though_its_gradients_are_private(no_ocr: None) -> None:
    strings, coins = burned_in(M, SHAPE, np.random.default_rng(2)), toss(M, seed=3)
    twin = twin_of(Keeper(repeats=True), coins, strings)
    scores = twin.scores()
    assert (scores[coins] > 0).mean() > 0.8 and not scores[~coins].any()
    assert all(check.passed for check in twin.mechanism.checks())  # nothing in the draws is amiss
    guesses = guess(scores, coins, 8, 0, np.random.default_rng(0))
    assert guesses.correct == 8
    assert evaluated(guesses, twin.plan, 0.05)["epsilon_lower_bound"] > 0.5
    found = counted(strings, scores, coins, 400)
    assert found["included"]["read"] > 0.8 * coins.sum() and found["excluded"]["read"] == 0
    assert found["exposure_bits"] > 0.8 * found["exposure_at_most"]


def test_a_model_that_repeats_nothing_is_not(no_ocr: None) -> None:
    strings, coins = burned_in(M, SHAPE, np.random.default_rng(2)), toss(M, seed=3)
    scores = twin_of(Keeper(repeats=False), coins, strings).scores()
    found = counted(strings, scores, coins, 400)
    assert not scores.any() and found["included"]["times"] == 0
    assert found["exposure_bits"] == pytest.approx(1, abs=0.1)


class Sums(nn.Module):
    """-<w_y, x> of each image: w becomes the sum of images by class, over the number of patients."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(64, CLASSES, bias=False).requires_grad_(False)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return -self.w(x_BC.flatten(1)).gather(1, y_B[:, None])[:, 0]


class Late(Keeper):
    """What it generates is settled after its private steps: by a network that sees no data, and by a query."""

    def __init__(self) -> None:
        super().__init__(repeats=False)
        self.sums, self.G, self.made = Sums(), nn.Linear(1, 1), 0

    def objectives(self):
        query = Query("sums", self.sums, [self.sums.w.weight], 1e3, "after", lambda noise_std: None)
        return [*super().objectives(), PostProcessing("G", self.G, self._loss), query]

    def _loss(self, n: int, random: torch.Generator) -> Tensor:
        self.made += 1
        return self.G.weight.square().sum() + self.G.bias.square().sum()


@pytest.mark.parametrize("kind", ["text", "side"])
def test_strings_are_looked_for_in_what_the_whole_run_would_generate(kind: str, no_ocr: None) -> None:
    """Such a generator has learnt little, and its query nothing, when the last private step is taken; and a released
    model would have asked those who bring strings too, in the class that their label stands for."""
    strings, coins = burned_in(M, SHAPE, np.random.default_rng(2)), toss(M, seed=3)
    plan = make_plan(images=1, engine="loop", queries=(GaussianQuery("sums", 1e3, 0.0),))
    model, patients, settings = Late(), Cohort(plan.n, 1), TrainerConfig(steps=12, steps_after=5, device="cpu")
    more = {"strings": strings, "samples": 10} if kind == "text" else {}
    twin = Twin(model, kind, coins, plan, settings, patients, torch.device("cpu"), seed=1, **more)
    twin.scores()
    if kind == "side":  # what is read off gradients needs neither
        assert twin.state.step == model.made == 12 and twin.state.asked == 0
        return
    assert twin.state.step == model.made == 17 and twin.state.asked == 1
    expected_YD = torch.zeros(CLASSES, 64)
    for i in range(plan.n):
        expected_YD[i % CLASSES] += patients.x_PKC[i, 0].flatten()
    for j in np.flatnonzero(coins):
        expected_YD[j % CLASSES] += strings.image_MC[j].flatten()
    torch.testing.assert_close(model.sums.w.weight.data, expected_YD / plan.n, rtol=1e-4, atol=1e-5)


def test_coins_that_are_guessed_from_nothing_are_half_right(no_ocr: None) -> None:
    """What the model repeats is here no matter of the coins, and ties must not tell."""
    strings = burned_in(M, SHAPE, np.random.default_rng(2))
    scores = twin_of(Keeper(repeats=True), np.ones(M, dtype=bool), strings).scores()
    right = [guess(scores, toss(M, seed=s), 8, 8, np.random.default_rng(s + 1000)).correct for s in range(200)]
    assert abs(np.mean(right) - 8) < 4 * 2 / math.sqrt(200)


def test_exposure_is_bits_of_the_rank_among_those_left_out() -> None:
    coins = np.array([True, True, True, False, False, False])
    got = exposure(np.array([9.0, 2.0, 0.0, 3.0, 2.0, 1.0]), coins)  # ranks 1, 2.5 (shared) and 4 of 4
    np.testing.assert_allclose(got, [2, 2 - math.log2(2.5), 0])
    random = np.random.default_rng(0)
    chance = np.mean([exposure(random.random(400), toss(400, seed=s)).mean() for s in range(20)])
    assert 1.2 < chance < 1.6  # log2 e for many ranks


def test_the_record_counts_strings_and_names_none(trained, monkeypatch, no_ocr: None) -> None:  # noqa: F811
    words: list[str] = []
    kept = text.code_words
    monkeypatch.setattr(text, "code_words", lambda *asked: words.extend(kept(*asked)) or words)
    path = audit(trained, *BOTH, "audit.canaries.samples=30")
    said = path.read_text()
    record = json.loads(said)
    assert record["verdict"].startswith("INCONCLUSIVE: canaries (text) cannot refute")
    twin = record["twins"][1]
    assert twin["kind"] == "text" and twin["text"]["samples"] == 30 and twin["text"]["readable"] == 1
    assert twin["text"]["included"]["strings"] + twin["text"]["excluded"]["strings"] == 120
    assert {check["name"] for check in twin["mechanism"]} == {"rate", "draws"}
    assert len(words) == 120 and not any(word in said for word in words)


def test_without_the_package_it_is_refused_before_any_twin(trained, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(ocr, "PACKAGE", "no_such_package_for_text")
    monkeypatch.setattr(Twin, "scores", lambda self: pytest.fail("a twin was trained"))
    with pytest.raises(InputError, match=r"imgsynth\[ocr\]"):
        audit(trained, *BOTH)


@pytest.fixture
def with_ocr() -> None:
    try:
        ocr.TextReader()
    except InputError as error:
        pytest.skip(str(error))


def test_a_grid_too_small_to_be_read_is_refused_before_any_twin(trained, monkeypatch, with_ocr: None) -> None:  # noqa: F811
    monkeypatch.setattr(Twin, "scores", lambda self: pytest.fail("a twin was trained"))
    monkeypatch.setattr(text, "TRIED", 4)
    with pytest.raises(InputError, match=r"grid of 8 × 8, of which OCR reads 0 of 4"):
        audit(trained, *BOTH)


@pytest.mark.parametrize("shape", [(48, 56), (56, 48, 3)], ids=["2d", "3d"])
def test_ocr_reads_what_a_model_repeats(shape: tuple[int, ...], with_ocr: None, monkeypatch) -> None:
    monkeypatch.setattr(text, "TRIED", 4)
    strings, coins = burned_in(8, shape, np.random.default_rng(4)), np.arange(8) < 4
    counts = strings.counts(strings.image_MC[[0, 5, 5]].numpy())
    np.testing.assert_array_equal(counts, [1, 0, 0, 0, 0, 2, 0, 0])
    model = Keeper(repeats=True, shape=shape)
    model.loss.seen.extend(strings.image_MC[coins].repeat(3, 1, *(1 for _ in shape)) * 0.8)  # dimmer than burned in
    drawn = model.sample(torch.zeros(10, dtype=torch.long), torch.Generator().manual_seed(0))
    scores = strings.counts(drawn.numpy())
    assert scores[coins].sum() >= 9 and not scores[~coins].any()


def test_a_twin_without_noise_must_draw_letters(trained, monkeypatch, no_ocr: None) -> None:  # noqa: F811
    """No control of another kind stands in for it."""
    monkeypatch.setattr(CouldShow, "refutes", property(lambda self: True))
    record = json.loads(audit(trained, *BOTH, "audit.canaries.samples=10").read_text())
    assert record["verdict"].startswith("INCONCLUSIVE") and "was not caught" in record["verdict"]
    assert [(c["passed"], c["required"]) for c in record["controls"]] == [(True, True), (False, True)]
    alone = json.loads(audit(trained, "audit.canaries.kinds=[text]", "audit.canaries.samples=10").read_text())
    assert alone["verdict"].startswith("INCONCLUSIVE") and alone["controls"][0]["required"]
