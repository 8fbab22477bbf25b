"""Turns results into the tables of README.md and the plots in figures/.

    python benchmarks/summarize.py [results.json ...]

By default it takes all of benchmarks/results. It rewrites these files with one benchmark a line.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import figures
import tables
from goals import Record

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"

_RACES = {
    "step": "Training step in each mode",
    "step by pairs": "Training step by the number of pairs",
    "compiled step": "Training step inside torch.compile",
    "large step": "Training step of ResNet50 on a GPU",
    "pool set-up": "Set-up of a pool",
    "pair drawing": "Drawing a step's pairs",
    "attacks": "Attacks",
}


def main(arguments: Sequence[str]) -> None:
    paths = [Path(a) for a in arguments] or sorted((HERE / "results").glob("*.json"))
    for path in paths:
        compact(path)
    text = report([record for path in paths for record in read(path)], HERE / "figures")
    readme = HERE / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), text), encoding="utf-8")


def read(path: Path) -> list[Record]:
    """What each benchmark has noted, with its group."""
    benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    return [{"group": b["group"], **b["extra_info"]} for b in benchmarks if "case" in b["extra_info"]]


def compact(path: Path) -> None:
    """One benchmark a line."""
    data = json.loads(path.read_text(encoding="utf-8"))
    benchmarks = data.pop("benchmarks")
    lines = ",\n".join(json.dumps(benchmark) for benchmark in benchmarks)
    text = json.dumps({**data, "benchmarks": []})
    path.write_text(text.replace('"benchmarks": []', f'"benchmarks": [\n{lines}\n]') + "\n", encoding="utf-8")


def fill(readme: str, text: str) -> str:
    """``readme`` with ``text`` between the marks.

    Raises:
        ValueError: If a mark is missing.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"README.md must hold the marks {BEGIN} and {END}.")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", readme)


def report(records: Sequence[Record], folder: Path) -> str:
    """A section for each machine."""
    machines: dict[str, list[Record]] = {}
    for record in records:
        machines.setdefault(machine(record), []).append(record)
    return "\n\n".join(section(name, found, folder) for name, found in machines.items())


def machine(record: Record) -> str:
    found = record["environment"]
    return found["gpu"] or found["processor"]


def section(name: str, records: Sequence[Record], folder: Path) -> str:
    parts = [f"### {name}", conditions(records), "#### Goals", tables.goals_table(records)]
    parts += plots(name, records, folder)
    similarity = [r for r in records if r["group"] == "similarity"]
    for suffix, how in (("", ""), (", graph", ", as CUDA graphs")):
        for pairing, title in (("pairs", "Similarity of pairs"), ("all", "Similarity of all pairs")):
            if any(r["case"]["pairing"] == pairing and "naive" + suffix in r["milliseconds"] for r in similarity):
                parts += [f"#### {title}{how}", tables.similarity_table(similarity, pairing, suffix)]
    if similarity:
        parts += ["#### Forward and backward", tables.stage_table(similarity)]
    precision = [r for r in records if r["group"] == "precision"]
    if precision:
        parts += ["#### Errors against float64", tables.precision_table(precision)]
    for group, title in _RACES.items():
        found = [r for r in records if r["group"] == group]
        if found:
            parts += [f"#### {title}", tables.race_table(found)]
    parts += ["#### Where simreg is slower", tables.losses(records)]
    return "\n\n".join(parts)


def conditions(records: Sequence[Record]) -> str:
    """Hardware, versions and commits in one paragraph."""
    first = records[0]["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items() if version)
    commits = " and ".join(sorted({str(r["environment"]["commit"]) for r in records}))
    threads = f"{first['threads']} thread" + ("s" if first["threads"] > 1 else "")
    return (
        f"{first['processor']}, {threads} of {first['cores']} cores; {first['system']}, Python {first['python']}; "
        f"{versions}; commit {commits}."
    )


def plots(name: str, records: Sequence[Record], folder: Path) -> Iterable[str]:
    """Draw what was measured; gives the lines that show it."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder.mkdir(exist_ok=True)
    for kind, draw in (("overhead", figures.overhead), ("speed-up", figures.speed_up)):
        path = folder / f"{stem}-{kind}.png"
        if draw(records, path):
            yield f"![{kind.capitalize()}, {name}](figures/{path.name})"


if __name__ == "__main__":
    main(sys.argv[1:])
