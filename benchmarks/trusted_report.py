"""What the study of trusted rows found: its scores, whether what was wanted came, and what is missing."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from study_findings import Comparison, Findings, Row, compare, lines_of
from study_jobs import jobs
from study_report import NOT_DONE, cost_cell, mean_cell, table
from trusted_protocol import TrustedProtocol, Wanted

Cells = Mapping[str, str]


def section(protocol: TrustedProtocol, findings: Findings, command: str) -> str:
    """Return the section of the document."""
    about = list(findings.done.values())[-1:]
    parts = [
        "## What a study found",
        _state(protocol, findings),
        _scores(protocol, findings),
        *([] if protocol.wanted is None else [_wanted(protocol, protocol.wanted, findings)]),
        _differences(protocol, findings),
        *("Versions: " + ", ".join(f"{name} {of}" for name, of in line["versions"].items()) + "." for line in about),
        f"```\n{command}\n```",
    ]
    return "\n\n".join(parts)


def _state(protocol: TrustedProtocol, findings: Findings) -> str:
    """Say how much is done, and which cells are missing."""
    all_jobs = jobs(protocol, findings.done)
    labels = {(row.method, tuple(sorted(row.run.items()))): label for label, row in protocol.methods.items()}
    missing = Counter(labels[job.method, job.run] for job in all_jobs if job.name not in findings.done)
    gone = ", ".join(f"{label} {missing[label]}" for label in protocol.methods if missing[label])
    said = f"{sum(missing.values())} of {len(all_jobs)} trainings are missing" + (f": {gone}" if gone else "")
    failed = f"; {len(findings.diverged)} diverged" + (
        f" ({', '.join(findings.diverged)})" if findings.diverged else ""
    )
    return f"Protocol sha256 `{protocol.sha256}`, fixed before the runs. {said}{failed}."


def _scores(protocol: TrustedProtocol, findings: Findings) -> str:
    rows = []
    for label, row in findings.rows.items():
        cells = {"": label, "role": protocol.methods[label].role}
        for setting in protocol.settings:
            wanted = len(protocol.seeds_of(setting))
            scores = [findings.score(line) for line in lines_of(row, setting)]
            cells[setting] = mean_cell(scores, wanted) if label in protocol.methods_in(setting) else ""
        mean = mean_of(findings, row)
        cells |= {"mean": NOT_DONE if mean is None else f"{mean:.1f}", "LoRA runs": cost_cell(findings, row)}
        rows.append(cells)
    metrics = ", ".join(f"{name} {setting.metrics[0]}" for name, setting in protocol.settings.items())
    text = (
        f"Scores on clean test rows in points ({metrics}), mean over seeds ± standard error; behind it how many of the "
        f"seeds are there where some are missing, {NOT_DONE} where none is, and nothing where a line is not for a "
        f"setting. The last column is CPU time in that of `{protocol.unit}`."
    )
    return f"{text}\n\n{table(rows)}"


def mean_of(findings: Findings, row: Row) -> float | None:
    """Return the mean over all settings of the means over seeds; None where a setting is missing."""
    scores = [[findings.score(line) for line in lines_of(row, setting)] for setting in findings.protocol.settings]
    return statistics.mean(map(statistics.mean, scores)) if all(scores) else None


def best_rival(protocol: TrustedProtocol, findings: Findings, settings: Sequence[str]) -> str | None:
    """Return the rival with the highest mean over settings, of those that have all of them."""
    means = {}
    for label in protocol.of_role("rival"):
        row = findings.rows[label]
        scores = [[findings.score(line) for line in lines_of(row, setting)] for setting in settings]
        if all(scores):
            means[label] = statistics.mean(map(statistics.mean, scores))
    return max(means, key=means.__getitem__, default=None)


def verdict(compared: Comparison, limit: float) -> tuple[bool, str]:
    """Return whether a lead is no chance, and the p-value that says so, in words."""
    can_tell = compared.least_p_value is not None and compared.least_p_value < limit
    p_value = compared.p_value if can_tell else compared.row_p_value
    if p_value is None:
        return False, "no p: too few seeds"
    test = "Wilcoxon" if can_tell else "bootstrap"
    return compared.mean > 0 and p_value < limit, f"p {p_value:.2g} ({test})"


def _wanted(protocol: TrustedProtocol, wanted: Wanted, findings: Findings) -> str:
    rows = [_on_the_mean(protocol, wanted, findings), *_in_each(protocol, wanted, findings)]
    rows += [_beats(wanted, findings, ours, rival) for ours, rivals in wanted.beats.items() for rival in rivals]
    rows += [_lead(protocol, wanted, findings, label) for label in wanted.two_levels]
    text = (
        "What was asked for before the runs, and what came. A line of ours should beat the rivals of its kind over the "
        "settings that both have. Of the last lines one is enough."
    )
    return f"{text}\n\n{table(rows)}"


def _on_the_mean(protocol: TrustedProtocol, wanted: Wanted, findings: Findings) -> Cells:
    settings = list(protocol.settings)
    rival = best_rival(protocol, findings, settings)
    cells = {"line": protocol.main, "wanted": f"on the mean at most {wanted.below_best_mean:g} below the best rival"}
    own = mean_of(findings, findings.rows[protocol.main])
    if rival is None or own is None:
        return {**cells, "against": NOT_DONE}
    other = mean_of(findings, findings.rows[rival])
    assert other is not None  # it has all settings
    return {**cells, "against": rival, **_met(own - other >= -wanted.below_best_mean, f"{own - other:+.2f}")}


def _in_each(protocol: TrustedProtocol, wanted: Wanted, findings: Findings) -> list[Cells]:
    """Return a row for the setting where the main line is farthest below the best rival."""
    cells = {
        "line": protocol.main,
        "wanted": f"in no setting {wanted.below_best_of_setting:g} below the best rival there",
    }
    leads = {}
    for setting in protocol.settings:
        rival = best_rival(protocol, findings, [setting])
        own = [findings.score(line) for line in lines_of(findings.rows[protocol.main], setting)]
        if rival is not None and own:
            others = [findings.score(line) for line in lines_of(findings.rows[rival], setting)]
            leads[setting] = (statistics.mean(own) - statistics.mean(others), rival)
    if not leads:
        return [{**cells, "against": NOT_DONE}]
    worst = min(leads, key=lambda name: leads[name][0])
    lead, rival = leads[worst]
    found = f"{lead:+.2f} in {worst}" + ("" if len(leads) == len(protocol.settings) else f", of {len(leads)} settings")
    return [{**cells, "against": rival, **_met(lead >= -wanted.below_best_of_setting, found)}]


def _beats(wanted: Wanted, findings: Findings, ours: str, rival: str) -> Cells:
    compared = compare(findings, findings.rows[ours], findings.rows[rival], list(findings.protocol.settings))
    cells = {"line": ours, "wanted": f"ahead, p < {wanted.p_value:g}", "against": rival}
    if compared is None:
        return cells
    holds, p_value = verdict(compared, wanted.p_value)
    return {**cells, **_met(holds, f"{compared.mean:+.2f}, {p_value}, {compared.pairs} pairs")}


def _lead(protocol: TrustedProtocol, wanted: Wanted, findings: Findings, label: str) -> Cells:
    """Return a row for the setting where a line leads the best rival by most."""
    cells = {"line": label, "wanted": f"in one setting {wanted.two_levels_lead:g} ahead of the best rival there"}
    leads = {}
    for setting in protocol.settings:
        rival = best_rival(protocol, findings, [setting])
        compared = None if rival is None else compare(findings, findings.rows[label], findings.rows[rival], [setting])
        if compared is not None and rival is not None:
            leads[setting] = (compared.mean, rival)
    if not leads:
        return {**cells, "against": NOT_DONE}
    best = max(leads, key=lambda name: leads[name][0])
    lead, rival = leads[best]
    return {**cells, "against": rival, **_met(lead >= wanted.two_levels_lead, f"{lead:+.2f} in {best}")}


def _met(holds: bool, found: str) -> Cells:
    return {"found": found, "met": "yes" if holds else "no"}


def _differences(protocol: TrustedProtocol, findings: Findings) -> str:
    main = findings.rows[protocol.main]
    rows = []
    for label, row in findings.rows.items():
        compared = None if row is main else compare(findings, main, row, list(protocol.settings))
        if compared is None:
            continue
        interval = "" if compared.interval is None else "{:+.2f} to {:+.2f}".format(*compared.interval)
        rows.append(
            {
                f"{main.label} less": label,
                "mean": f"{compared.mean:+.2f}",
                "95% over seeds and rows": interval,
                "Wilcoxon p": "" if compared.p_value is None else f"{compared.p_value:.2g}",
                "better in": f"{compared.better} of {compared.pairs}",
                "worst setting": f"{compared.worst[0]} {compared.worst[1]:+.1f}",
            }
        )
    if not rows:
        return f"No training of {main.label} is done that another can be paired with."
    text = (
        f"Differences of `{main.label}` to each other line in points, paired by setting and seed, over the settings "
        "that both have, with a 95% bootstrap interval over seeds and test rows."
    )
    return f"{text}\n\n{table(rows)}"
