"""One Markdown table from saved results: medians over all rounds, their range, and ratios to a reference.

A system's result files are NAME.rK.json, one a round. The best of each row is bold; systems whose name
starts with ``floor-`` or ``limit-`` do not compete. With a subject (our own system) each row also gives the
ratio of its median to that of the best competitor, above 1 where the subject is better.
"""

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

from workloads import GROUP_METRICS


def fmt(v):
    return f"{v:,.0f}" if abs(v) >= 100 else f"{v:.3g}"


def collect(folder):
    """{system: {metric: [values of all rounds]}} and {system: [errors]}, {system: note} from a result folder."""
    values, errors, notes = defaultdict(lambda: defaultdict(list)), defaultdict(dict), {}
    for path in sorted(Path(folder).glob("*.json")):
        run = json.loads(path.read_text())
        system = re.sub(r"\.r\d+$", "", path.stem)
        notes[system] = (
            f"{run['when']}, kernel {run['kernel']}, {run['cpus']} CPUs, {run['scale']}: {run['note']}"
        )
        for metric, result in run["results"].items():
            values[system][metric] += result["all"]
        for group, told in run["groups"].items():
            if told["error"]:
                errors[system][group] = told["error"]
    return values, errors, notes


def competes(system):
    return not system.startswith(("floor-", "limit-"))


def cell(samples, error):
    if not samples:
        return "-" if not error else "too slow" if error.startswith("TooLong") else "failed"
    text = fmt(statistics.median(samples))
    if len(samples) > 1:
        text += f" ({fmt(min(samples))}..{fmt(max(samples))})"
    return text


def ratio(subject, others, bigger):
    """How many times better the subject's median is than the best of the others' (None: not comparable)."""
    mine = statistics.median(subject) if subject else None
    theirs = [statistics.median(o) for o in others if o]
    if mine is None or not theirs or mine <= 0:
        return None
    best = max(theirs) if bigger else min(theirs)
    return mine / best if bigger else best / mine


def table(folder, subject=None, floor=None):
    """The Markdown table of all systems in ``folder``; columns in the order of their names, subject first."""
    values, errors, _ = collect(folder)
    systems = sorted(values, key=lambda s: (s != subject, not competes(s), s))
    extra = ["x best other"] * bool(subject) + [f"x {floor}"] * bool(floor)
    lines = [
        "| workload | unit | " + " | ".join(systems + extra) + " |",
        "|---|---|" + "--:|" * len(systems + extra),
    ]
    for group, metrics in GROUP_METRICS.items():
        for metric, (unit, bigger) in metrics.items():
            medians = {
                s: statistics.median(values[s][metric]) for s in systems if values[s][metric] and competes(s)
            }
            best = (max if bigger else min)(medians.values(), default=None)
            cells = []
            for s in systems:
                text = cell(values[s][metric], errors[s].get(group))
                cells.append(f"**{text}**" if s in medians and medians[s] == best else text)
            if subject:
                others = [values[s][metric] for s in systems if s != subject and competes(s)]
                r = ratio(values[subject][metric], others, bigger)
                cells.append("-" if r is None else f"{r:.2f}")
            if floor:
                r = (
                    ratio(values[subject][metric], [values[floor][metric]], bigger)
                    if floor in systems
                    else None
                )
                cells.append("-" if r is None else f"{r:.2f}")
            if any(values[s][metric] or errors[s].get(group) for s in systems):
                lines.append(f"| {metric} | {unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def notes(folder):
    """What each system was, with the groups that failed."""
    _, errors, told = collect(folder)
    lines = []
    for system, note in told.items():
        failed = "".join(f"; group {g} FAILED: {e}" for g, e in errors[system].items())
        lines.append(f"- **{system}** ({note}{failed})")
    return "\n".join(lines)
