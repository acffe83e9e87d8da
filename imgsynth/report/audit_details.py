"""The folded parts of the audit in the local report: what was measured besides the verdict, in plain words and tables.

Each part of audit.json may be absent; its section then says that it was not done, and why. No ids, no strings of the
source: audit.json holds none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imgsynth.release.rounding import fixed_down, outward, outward_digits, outward_percent

Part = Mapping[str, Any]


@dataclass
class Section:
    """One fold: ``says`` stands on its line, ``lines`` and the table inside. ``alarm`` opens and marks it."""

    title: str
    says: str
    lines: list[str] = field(default_factory=list)
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    alarm: bool = False


def details(audit: Part, unit: str) -> list[Section]:
    """Every section, in the order of the page. ``unit`` is "patient", "case" or "image"."""
    return [
        _strings(audit),
        _pixels(audit),
        _extraction(audit, unit),
        _recognised(audit, unit),
        _beyond(audit, unit),
        _set_classifier(audit, unit),
        _doses(audit, unit),
        _mechanism(audit),
        _references(audit, unit),
    ]


def why_not(audit: Part, what: str, otherwise: str = "this audit does not say why") -> str:
    """The reason that ``not_done`` has for ``what``."""
    reasons = [entry["why"] for entry in audit["not_done"] if entry["what"] == what]
    return reasons[0] if reasons else otherwise


def share(value: float, low: float, high: float) -> str:
    """A share or a difference of shares with its interval, in per cent."""
    return f"{_short(100 * value)} % {outward_percent(low, high)}"


def area(entry: Part, prefix: str = "") -> str:
    return f"{entry['auc']:.2f} {outward(entry[prefix + 'low'], entry[prefix + 'high'])}"


def _short(value: float) -> str:
    """To a tenth, without a minus on 0."""
    return f"{round(value, 1) + 0.0:g}"


def _not_done(title: str, why: str) -> Section:
    return Section(title, f"not done: {why}")


def _strings(audit: Part) -> Section:
    title, found = "Strings of the source in files", audit.get("leakage")
    if not found:
        return _not_done(title, "this audit did not search")
    sought = f"of {found['strings']['sought']} strings (ids, names, paths, UIDs) in {found['files']} files"
    left_out = ", ".join(f"{n} {rule}" for rule, n in found["strings"]["left_out"].items())
    section = Section(title, f"none {sought}" if found["clean"] else f"{found['n_findings']} found, {sought}")
    section.alarm = not found["clean"]
    if left_out:
        section.lines.append(f"Not looked for, because they are too short or public: {left_out}.")
    section.lines += [f"Could not be read: {text}." for text in found["not_read"]]
    if section.alarm:
        section.lines.append("The strings themselves are in local/leakage.json.")
        section.head = ("file", "place in it", "times", "a string of")
        section.rows = [(f["file"], f["where"] or "as it lies", str(f["times"]), f["of"]) for f in found["findings"]]
        if (more := found["n_findings"] - len(section.rows)) > 0:
            section.lines.append(f"{more} more are in the local file alone.")
    return section


def _pixels(audit: Part) -> Section:
    title, found = "Text and faces in the images", audit.get("leakage")
    if not found:
        return _not_done(title, "this audit did not look")
    warnings = [risk["warning"] for risk in found["visible"].values() if risk["warning"] is not None]
    heads = found["visible"]["heads"]
    declared = {None: "nobody declared whether faces were removed", True: "declared to be de-faced",
                False: "declared to show faces"}[heads["declared"]]  # fmt: skip
    lines = [warning[0].upper() + warning[1:] + "." for warning in warnings]
    lines.append(f"By headers and sizes {heads['images']} volumes look like heads ({declared}).")
    pixels = found["pixels"]
    if "not_done" in pixels:
        said = f"text was not read off the images: {pixels['not_done']}"
    else:
        source, samples = pixels["source"], pixels["samples"]
        said = f"text that is also in the source: {samples['recovered']} strings ({samples['pictures']} read)"
        lines.append(
            f"Text of any kind is in {source['with_text']} of {source['pictures']} pictures of the source and in "
            f"{samples['with_text']} of {samples['pictures']} of the samples, as far as OCR reads it."
        )
    says = "; ".join([said, *([f"{len(warnings)} warning(s) of the source"] if warnings else [])])
    alarm = bool(warnings) or bool(pixels.get("samples", {}).get("recovered"))
    return Section(title, says, lines, alarm=alarm)


def _extraction(audit: Part, unit: str) -> Section:
    title, found = "Extraction", audit["copies"].get("extraction", {})
    if "clusters" not in found:
        return _not_done(title, found.get("not_done") or why_not(audit, "extraction"))
    says = f"clusters of near-duplicates among {found['n_samples']} samples: {found['clusters']}"
    hit = found.get("extracted")
    if hit is None:
        return Section(title, says)
    lines = [
        f"{found['samples_in_clusters']} samples are in them, {found['largest']} in the largest. The middle is as near "
        f"to a training {unit} in {hit['train']} clusters, to a held-out one in {hit['holdout']} "
        f"(p = {hit['p_value']:.2g}), of {found['n_patients_each']} {unit}s each."
    ]
    rows = [
        (str(one["size"]), f"{one['train_distance']:.3g}", f"{one['holdout_distance']:.3g}")
        for one in found["largest_clusters"][:5]
    ]
    lines.append(f"Near-duplicates are nearer than {found['threshold']:.3g}; the largest clusters:")
    head = ("samples", f"distance to a training {unit}", f"to a held-out {unit}")
    return Section(title, says, lines, head, rows, alarm=hit["p_value"] <= audit["alpha"])


def _recognised(audit: Part, unit: str) -> Section:
    title, found = "Re-identification", audit.get("reidentification")
    if not found:
        return _not_done(title, why_not(audit, "re-identification"))
    lines = [
        f"Called the same person as a sample: {100 * found['train']:.3g} % of {found['n_train']} training {unit}s and "
        f"{100 * found['holdout']:.3g} % of {found['n_holdout']} held-out ones, at {100 * found['fpr']:.2g} % false "
        f"matches. AUC of the greatest similarity {area(found, 'auc_')}.",
        f"The encoder learned from {found['trained_on']} other {unit}s ({found['pairs']}) and knows "
        f"{100 * found['recognised']:.3g} % of held-out {unit}s again from two real views; where that is low, "
        "few hits say little.",
    ]
    if found["underpowered"]:
        lines.append(f"Underpowered: {found['n_pairs']} pairs of different {unit}s; it takes 10,000 for 0.1 %.")
    says = f"training less held-out {unit}s: {share(found['excess'], found['low'], found['high'])}"
    return Section(title, says, lines, alarm=found["low"] > 0)


def _beyond(audit: Part, unit: str) -> Section:
    title, found = "Beyond membership", audit.get("beyond_membership")
    if not found or not found["advantages"]:
        return _not_done(title, found["not_done"][0]["why"] if found and found["not_done"] else "not asked")
    leaks = [t["guessed_by"] for t in found["advantages"] if t["low"] > 0]
    section = Section(
        title,
        f"more is learned about members than about others, by {', '.join(leaks)}"
        if leaks
        else "no more is learned about members than about others",
    )
    section.alarm = bool(leaks)
    section.head = ("attack", "guessed by", "on members", "on others", "difference", "blind guess")
    section.rows = [(t["name"], t["guessed_by"], *_advantage(t)) for t in found["advantages"]]
    section.lines.append(
        "The leak is the difference; what is learned about anybody is what the images are for. Attribute inference: "
        f"how often a {unit}'s class is guessed. Class-mean inversion: how near the mean generated image of a class is "
        "to the real one (minus a distance; nearer 0 is nearer). Not corrected for many looks."
    )
    section.lines += [f"Not done: {one['what']}: {one['why']}." for one in found["not_done"]]
    return section


def _advantage(t: Part) -> tuple[str, str, str, str]:
    if t["baseline"] is None:  # closeness of pictures
        band = f"{t['value']:.2g} {outward_digits(t['low'], t['high'], 2)}"
        return f"{t['members']:.3g}", f"{t['nonmembers']:.3g}", band, "–"
    shares = [f"{100 * t[key]:.3g} %" for key in ("members", "nonmembers", "baseline")]
    return shares[0], shares[1], share(t["value"], t["low"], t["high"]), shares[2]


def _set_classifier(audit: Part, unit: str) -> Section:
    title, found = "Set classifier", (audit.get("beyond_membership") or {}).get("set_classifier")
    if found is None:
        return _not_done(title, "it takes four reference models or more (audit.references)")
    lines = [
        "Shown the samples of two models trained by the same recipe, of which one knew a certain "
        f"{unit}, it picks the right one so often; 0.5 is guessing. {found['pairs']} pairs of models, the "
        f"{found['patients']} most unusual {unit}s."
    ]
    return Section(title, f"AUC {area(found)}", lines, alarm=found["low"] > 0.5)


def _doses(audit: Part, unit: str) -> Section:
    title, found = "Dose and response", audit.get("dose_response")
    if not found:
        return _not_done(title, "no attack on samples was run with controls")
    doses = list(dict.fromkeys((one["dose"]["rate"], one["dose"]["noise"]) for one in found))
    by_attack: dict[str, dict[tuple[float, float], Part]] = {}
    for one in found:
        by_attack.setdefault(one["attack"], {})[one["dose"]["rate"], one["dose"]["noise"]] = one
    names = [f"{100 * rate:g} %{f', noise {noise:g}' if noise else ''}" for rate, noise in doses]
    rows = [
        (name.replace("_", " "), *(_answer(answers.get(dose)) for dose in doses)) for name, answers in by_attack.items()
    ]
    most = max(one["copied"] for one in found)
    lines = [
        f"AUC on synthesizers that copy on purpose, by the share of samples that are copies; ● caught. At the largest "
        f"dose {100 * most:.3g} % of the training {unit}s were copied. At 0 % nothing can leak."
    ]
    caught = [one for one in found if one["caught"] and one["dose"]["rate"]]
    least = min((one["dose"]["rate"] for one in caught), default=None)
    says = "none is caught" if least is None else f"the least that any attack caught is {100 * least:g} % of copies"
    return Section(title, says, lines, ("attack", *names), rows)


def _answer(one: Part | None) -> str:
    return "–" if one is None else f"{'● ' if one['caught'] else ''}{area(one)}"


def _mechanism(audit: Part) -> Section:
    title, canaries = "Canaries' checks of the mechanism", audit["canaries"]
    checks = [(t["kind"], c) for t in (canaries or {}).get("twins", ()) for c in t.get("mechanism", ())]
    if not checks:
        return _not_done(title, why_not(audit, "canaries", "canaries were not counted (imgsynth audit canaries)"))
    off = [f"{kind}: {c['name']}" for kind, c in checks if not c["passed"]]
    rows = [
        (kind, c["name"], f"{c['value']:.4g}", f"{c['expected']:.4g}", f"{c['p']:.2g}", "yes" if c["passed"] else "NO")
        for kind, c in checks
    ]
    says = f"NOT as planned: {', '.join(off)}" if off else f"all {len(checks)} checks passed"
    lines = ["Doses, noise and draws of the twins beside what the plan says; each is tested at 1 in 10,000."]
    return Section(title, says, lines, ("canaries", "check", "value", "expected", "p", "passed"), rows, alarm=bool(off))


def _references(audit: Part, unit: str) -> Section:
    title, found = "Reference models", audit.get("references") or {}
    if not found.get("count"):
        return _not_done(title, "none were trained (audit.references=0)")
    sizes = found["patients_each"]
    each = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    return Section(title, f"{found['count']}, of {each} {unit}s each", [f"{found['note'].capitalize()}."])


def down(value: float | None) -> str:
    """A lower bound: to two decimals, never above it."""
    return "–" if value is None else fixed_down(value)
