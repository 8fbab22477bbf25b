"""Fills the tables of README.md and draws its plot from all of results/: ``python benchmarks/summarize.py``."""

import json
from pathlib import Path

from harness import write_results

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def main(folder=HERE):
    files = {}
    for path in sorted((folder / "results").glob("*.json")):
        benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        write_results(path, benchmarks)
        files[path.stem] = [{"group": b["group"], "name": b["name"], **b["extra_info"]} for b in benchmarks]
    parts = [part for name, records in files.items() for part in (f"### {name}", *section(records))]
    if files:
        plot(files, folder / "steps.png")
        parts.insert(0, "![Time of a step over the plain one](steps.png)")
    readme = folder / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    text = "\n\n".join(parts) or "None yet."
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def section(records):
    """Paragraphs about one file of results."""
    here = records[0]["environment"]
    versions = ", ".join(f"{package} {version}" for package, version in here["versions"].items())
    yield f"{here['gpu'] or here['processor']}, {here['threads']} thread; {versions}; commit {here['commit']}."
    checks = [[r["name"], *r["errors"], r["same bits"], r["combinations"]] for r in records if "passed" in r]
    if checks:
        yield markdown(["against float64", "products", "gradients", "same bits again", "combinations"], checks)
    groups = {}
    for record in (r for r in records if "ms" in r):
        groups.setdefault(record["group"], []).append(record)
    for group, found in groups.items():
        yield f"#### {group[0].upper()}{group[1:]}"
        if group.startswith("similarity"):
            rows = [similarity_row(record) for record in found]
            yield markdown(list(rows[0]), [row.values() for row in rows])
        else:
            rows = [row for record in found for row in race_rows(record)]
            yield markdown(["", "", "ms", "time over", "", "goal or claim"], rows)
    for record in (r for r in records if "failed" in r or "skipped" in r):
        yield f"Not measured: {record['name']}: {record.get('failed') or record['skipped']}."


def similarity_row(record):
    """Speed-ups over naive of every way, what the first takes over the bounds, and memory over the features."""
    subject, over, memory = next(iter(record["ms"])), record["over"], record["memory"]
    row = record["case"] | {"naive, ms": record["ms"]["naive"][1], "goal, x": record.get("goal")}
    for way in ("triton", "torch", "reference", "paper", "corrcoef"):
        row[f"{way}, x"] = spread(over["naive"].get(way), inverse=True)
    for bound in ("memory floor", "two matmuls"):
        row[f"over {bound}"] = spread(over.get(bound, {}).get(subject))
    return row | {"memory (goal <= 1.05)": memory[subject], "memory, naive": memory["naive"]}


def race_rows(record):
    """One row for each candidate."""
    case = ", ".join(f"{key} {value}" for key, value in record["case"].items())
    ((base, over),) = record["over"].items()
    for name, ms in record["ms"].items():
        ratio = None if name == base else spread(over[name])
        yield [case, name, ms[1], base if ratio else None, ratio, record.get("goals", {}).get(name)]


def markdown(titles, rows):
    """A table; columns that are empty throughout are left out."""
    cells = [[number(c) if isinstance(c, float) else "" if c is None else str(c) for c in row] for row in rows]
    kept = [i for i in range(len(titles)) if any(row[i] for row in cells)]
    return "\n".join("| " + " | ".join(r[i] for i in kept) + " |" for r in (titles, ["---"] * len(titles), *cells))


def number(value):
    """Three digits."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def spread(quartiles, *, inverse=False):
    """Median with the quartiles in brackets; ``inverse`` turns times into speed-ups."""
    if quartiles is None:
        return None
    low, middle, high = (1 / q for q in reversed(quartiles)) if inverse else quartiles
    return f"{number(middle)} [{number(low)}-{number(high)}]"


def plot(files, path):
    """Median time of a step over the plain one, by mode, and by the number of pairs beside the line 1 + 2k/B."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    modes, pairs = figure.subplots(1, 2)
    for name, record in ((n, r) for n, records in files.items() for r in records if "plain" in r.get("over", {})):
        middle = {candidate: quartiles[1] for candidate, quartiles in record["over"]["plain"].items()}
        label = f"{name}, width {record['case'].get('width')}"
        if record["group"] == "training step":
            modes.plot(list(middle.values()), list(middle), "o", label=label)
        elif "pairs" in record["group"]:
            k = {int(candidate[4:]): over for candidate, over in middle.items() if candidate != "plain"}
            pairs.plot(list(k), list(k.values()), "o-", label=label)
            pairs.plot(list(k), [1 + 2 * each / record["case"]["batch"] for each in k], "k--", label="1 + 2k/B")
    modes.set_xlabel("time over the plain step")
    pairs.set(xlabel="k, pairs a step", ylabel="time over the plain step")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
