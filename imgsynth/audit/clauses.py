"""The clauses that a policy may have: how each is judged, and what to do where it fails.

| clause                        | is judged by                                                                       |
|-------------------------------|------------------------------------------------------------------------------------|
| max_epsilon                   | the proven ε on the release's privacy card                                         |
| verdict                       | the audit's word: one of these                                                     |
| required_controls             | each a kind of control or the beginning of a name: all of those ran and passed     |
| max_tpr_at_1_percent_fpr      | every attack: upper end of the 95 % interval                                       |
| max_tpr_at_0.1_percent_fpr    | likewise                                                                           |
| min_holdout_relative_distance | copy check: lower end of the interval of distances to train over those to holdout  |
| require_clean_leakage         | no string of the source in a file, or read in samples; a release, and all was read |
| require_canaries              | canaries were counted, with all their required controls passed                     |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from imgsynth.audit.verdict import INCONCLUSIVE, LEAK_FOUND, NO_LEAK_FOUND, WORDS, attack_name
from imgsynth.release.rounding import at_most, outward_digits
from imgsynth.types import nearest_name

KINDS = ("positive", "negative", "blind")
AGAIN = "imgsynth audit output=RUN, then verify once more"


class Failed(NamedTuple):
    """What a clause got, what it asks for, and the way there."""

    got: str
    expected: str
    remedy: str


Judge = Callable[["Evidence", Any], Iterator[Failed]]


@dataclass(frozen=True)
class Evidence:
    """The card of the release, and the audit of its run; None where there was none. ``not_of_it``: why the audit is
    not of this run and its release; ``searched``: whether its search for strings was made on the release as it is."""

    card: Mapping[str, Any]
    audit: Mapping[str, Any] | None
    not_of_it: str | None
    searched: bool


@dataclass(frozen=True)
class Clause:
    """``accepts`` tells whether a value in the file makes sense, ``expected`` says so in words, ``example`` is one."""

    accepts: Callable[[Any], bool]
    expected: str
    example: str
    judge: Judge

    def remedy(self, name: str, value: Any) -> str:
        """What to write instead of a value that makes no sense."""
        words = value if isinstance(value, list) else [value]
        near = [nearest_name(word, WORDS) for word in words if isinstance(word, str) and word not in WORDS]
        if name == "verdict" and any(near):
            return f"did you mean {', '.join(one for one in near if one)}?"
        return f"{name}: {self.example}, say"


def _epsilon(evidence: Evidence, most: float) -> Iterator[Failed]:
    proven = evidence.card["guarantee"]["epsilon"]
    if proven is None or not proven <= most:  # NaN fails too, here and below
        got = f"ε = {'∞' if proven is None else at_most(proven, 4)}"
        remedy = f"train a new run with privacy.epsilon={most:g} or less: the ε of a finished one cannot be lowered"
        yield Failed(got, f"at most {most:g}", remedy)


def _verdict(evidence: Evidence, allowed: list[str]) -> Iterator[Failed]:
    expected = " or ".join(allowed)
    if evidence.audit is None:
        yield Failed("no audit", expected, AGAIN)
    elif not any(evidence.audit["verdict"].startswith(word) for word in allowed):
        yield Failed(evidence.audit["verdict"], expected, _after(evidence.audit["verdict"]))
    elif not evidence.searched:
        got = "the search for strings of the source, which the verdict rests on, was not made on this release"
        yield Failed(got, "that imgsynth audit comes after imgsynth sample", AGAIN)


def _after(verdict: str) -> str:
    """What to do about a verdict that was not asked for."""
    if verdict.startswith(INCONCLUSIVE):
        return "audit again with what was lacking: the verdict names the control, the patients or the files"
    if verdict.startswith(LEAK_FOUND):
        return (
            "a smaller privacy.epsilon, fewer trainer.steps or a smaller model in a new run; or the custodian allows it"
        )
    return "do not release; report.html has the reasons, and where a proof is contradicted the program must be mended"


def _controls(evidence: Evidence, required: list[str]) -> Iterator[Failed]:
    controls = evidence.audit["controls"] if evidence.audit else []
    for wanted in required:
        those = [c for c in controls if c["kind"] == wanted or c["name"].startswith(wanted)]
        if not those:
            near = nearest_name(wanted, [*KINDS, *(control["name"] for control in controls)])
            remedy = f"did you mean {near}? Else {AGAIN}" if near else f"{AGAIN}, with audit.controls=true"
            yield Failed(f"{wanted}: was not run", "that it was run and passed", remedy)
        for control in those:
            missed = control["passed"] is False and control["kind"] == wanted and not control["required"]
            if control["passed"] is not True and not missed:
                yield _control(control)


def _control(control: Mapping[str, Any]) -> Failed:
    if control["passed"] is None:
        got = f"{control['name']}: cannot be judged: {control['detail']}"
        return Failed(got, "that it passes", "more held-out patients or a larger audit.n; or ask for others by name")
    got = f"{control['name']}: failed: {control['detail']}"
    if control["kind"] == "positive":
        remedy = "the audit is too weak to see a leak: more patients (audit.n) or samples (audit.samples)"
    else:
        remedy = "the audit sees what is not there: look for what tells the splits apart (site, scanner, preprocessing)"
    return Failed(got, "that it passes", remedy)


def _tpr(at: str) -> Judge:
    def judge(evidence: Evidence, most: float) -> Iterator[Failed]:
        attacks = evidence.audit["attacks"] if evidence.audit else []
        if not attacks:
            yield Failed("no attack was run", f"at most {most:g}, measured", AGAIN)
        for attack in attacks:
            found = attack["tpr_at"][at]
            if found["high"] is None:
                remedy = "more held-out patients (data.splits.holdout), or a policy without this clause: see its docs"
                yield Failed(f"{attack_name(attack)}: {found['status']}", f"at most {most:g}, measured", remedy)
            elif not found["high"] <= most:
                got = f"{attack_name(attack)}: {found['tpr']:.3g} {outward_digits(found['low'], found['high'])}"
                remedy = "a smaller privacy.epsilon in a new run; where the interval is wide, more held-out patients"
                yield Failed(got, f"at most {most:g}, by the upper end of the interval", remedy)

    return judge


def _distance(evidence: Evidence, least: float) -> Iterator[Failed]:
    found = (evidence.audit or {}).get("copies", {}).get("holdout_relative_distance")
    if found is None:
        yield Failed("no copy check", f"at least {least:g}, measured", f"{AGAIN}: it takes patients on either side")
    elif not found["low"] >= least:
        got = f"{found['value']:.3g} {outward_digits(found['low'], found['high'])}"
        remedy = "look at local/copy_sheet.png; copies come of too large an ε, a wide interval of too few patients"
        yield Failed(got, f"at least {least:g}, by the lower end of the interval", remedy)


def _clean(evidence: Evidence, _: bool) -> Iterator[Failed]:
    expected = "no string of the source in any file or sample, all of it searched, the release too"
    found = (evidence.audit or {}).get("leakage")
    if found is None:
        yield Failed("no search for strings of the source", expected, AGAIN)
        return
    read = found["pixels"].get("samples", {}).get("recovered", 0)
    if found["clean"] is not True or read:
        remedy = "do not release; local/leakage.json and local/text_in_pixels.json have them: rename or de-identify"
        yield Failed(f"{found['n_findings']} strings in files, {read} read in samples", expected, remedy)
    if found["not_read"]:
        yield Failed(f"not read: {'; '.join(found['not_read'])}", expected, f"make these files readable; {AGAIN}")
    if found["release_searched"] is not True:
        yield Failed("no release was searched", expected, f"imgsynth sample output=RUN; {AGAIN}")


def _canaries(evidence: Evidence, _: bool) -> Iterator[Failed]:
    found = (evidence.audit or {}).get("canaries")
    if not found or not found["twins"]:
        yield Failed("no canaries", "that they were counted", "imgsynth audit canaries output=RUN")
        return
    for control in found["controls"]:
        if control["required"] and control["passed"] is not True:
            got = f"{control['kind']} control of the canaries: {control['detail']}"
            remedy = "imgsynth audit canaries output=RUN with more of them (audit.canaries.m) or another kind"
            yield Failed(got, "that it passes", remedy)


def _number(least: float, most: float) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and least <= v <= most


def _names(v: Any) -> bool:
    return isinstance(v, list) and bool(v) and all(isinstance(one, str) and one for one in v)


_DEMAND = (lambda v: v is True, "true, or no such line", "true")
_RATE = (_number(0, 1), "a rate in [0, 1]", "0.05")
_WORDS = (lambda v: _names(v) and set(v) <= set(WORDS), f"a list, some of {', '.join(WORDS)}", f"[{NO_LEAK_FOUND}]")
_CONTROLS = (_names, "a list of kinds (positive, negative, blind) or names", "[positive, negative, blind]")
CLAUSES: dict[str, Clause] = {
    "max_epsilon": Clause(_number(0, 1e6), "a number from 0 on", "8", _epsilon),
    "verdict": Clause(*_WORDS, _verdict),
    "required_controls": Clause(*_CONTROLS, _controls),
    "max_tpr_at_1_percent_fpr": Clause(*_RATE, _tpr("0.01")),
    "max_tpr_at_0.1_percent_fpr": Clause(*_RATE, _tpr("0.001")),
    "min_holdout_relative_distance": Clause(
        _number(0, 1), "a ratio in [0, 1]; 1 is as far as strangers", "0.8", _distance
    ),
    "require_clean_leakage": Clause(*_DEMAND, _clean),
    "require_canaries": Clause(*_DEMAND, _canaries),
}
