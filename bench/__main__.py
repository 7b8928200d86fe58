"""Run the benchmarks and print one table: `make bench`, or `python -m bench [NAME ..] [--json FILE]`.

What must stay true: every number is measured in this run, baselines beside what they are compared with, and each
module runs in a process of its own, so that no benchmark sees the heap or the imports of another.

A module `bench/bench_NAME.py` defines `rows()`, a list of `bench.row`. The exit code is 1 if a target is missed or a
module fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TIMEOUT_S = 1800.0


def modules() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def met(row: dict[str, Any]) -> bool | None:
    """Whether the row meets its target, None if it has none."""
    if not row["target"]:
        return None
    sign, bound = row["target"].split()
    if sign not in (">=", "<="):
        raise ValueError(f"row {row['name']!r}: target {row['target']!r} is not '>= NUMBER' or '<= NUMBER'")
    return bool(row["value"] >= float(bound)) if sign == ">=" else bool(row["value"] <= float(bound))


def measure(name: str, path: Path) -> None:
    """In the child: run one module and leave its rows in `path`."""
    module = importlib.import_module(f"bench.bench_{name}")
    path.write_text(json.dumps(module.rows()))


def run(name: str) -> dict[str, Any]:
    """One module in a process of its own: its rows, or the error that ended it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "bench", name, "--measure", str(path)]
        result: dict[str, Any] = {"module": name, "rows": [], "error": ""}
        try:
            done = subprocess.run(command, cwd=HERE.parent, timeout=TIMEOUT_S, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                result["error"] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                sys.stderr.write(done.stderr)
            else:
                result["rows"] = [{**row, "met": met(row)} for row in json.loads(path.read_text())]
        except subprocess.TimeoutExpired:
            result["error"] = f"took more than {TIMEOUT_S:.0f} s"
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show(results: list[dict[str, Any]], console: Console) -> None:
    table = Table(title=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    table.add_column("benchmark")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("target", justify="right")
    table.add_column("")
    table.add_column("note", overflow="fold")
    for result in results:
        table.add_section()
        for row in result["rows"]:
            mark = {True: "[green]met[/]", False: "[red]MISSED[/]", None: ""}[row["met"]]
            name = row["name"] if row["target"] else f"  {row['name']}"
            table.add_row(name, number(row["value"]), row["unit"], row["target"], mark, row["note"])
        if result["error"]:
            table.add_row(result["module"], "", "", "", "[red]FAILED[/]", result["error"])
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Measure against baselines run beside.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run (default all): {', '.join(modules())}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there too")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(modules()))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(modules())}")
    if arguments.measure:
        measure(arguments.names[0], arguments.measure)
        return
    console = Console()
    results = []
    for name in arguments.names or modules():
        with console.status(f"measuring {name}"):
            results.append(run(name))
    show(results, console)
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    bad = [row for result in results for row in result["rows"] if row["met"] is False]
    raise SystemExit(1 if bad or any(result["error"] for result in results) else 0)


if __name__ == "__main__":
    main()
