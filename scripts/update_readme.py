"""Keep what documents show true: figures drawn from the code, and outputs that a command wrote, between their markers.

    python scripts/update_readme.py                     # docs/figures and docs/llms.txt (`make readme`)
    python scripts/update_readme.py quickstart          # runs it, and writes what it prints to docs/quickstart.md
    make test | tail -15 > t.txt && python scripts/update_readme.py test t.txt

What must stay true: outputs are what a command wrote, never typed in; of a training's many updates four are shown. A
test compares figures and index with what is drawn now, and the transcript's own words with the command's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import figures
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PLACES = {"quickstart": DOCS / "quickstart.md", "test": ROOT / "CONTRIBUTING.md"}


def fill(name: str, lines: list[str]) -> None:
    """Replace what is between the markers of `name` in its page."""
    page = PLACES[name]
    text = page.read_text()
    pattern = re.compile(f"<!-- {name}: begin -->.*?<!-- {name}: end -->", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"{page} must hold <!-- {name}: begin --> .. <!-- {name}: end --> once")
    block = "\n".join([f"<!-- {name}: begin -->", "", "```text", *lines, "```", "", f"<!-- {name}: end -->"])
    page.write_text(pattern.sub(lambda match: block, text))


def shortened(lines: list[str]) -> list[str]:
    """A training's updates but the first two and the last two left out, and said to be."""
    updates = [number for number, line in enumerate(lines) if re.match(r" +\d+/\d+  @1 ", line)]
    if len(updates) < 6:
        return lines
    return [*lines[: updates[2]], f"  .. (updates 3 to {len(updates) - 2})", *lines[updates[-2] :]]


def transcript() -> str:
    """What `lamer-graph quickstart` prints; a quarter of an hour on two cores."""
    command = [sys.executable, "-m", "lamer_graph", "quickstart"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def index() -> str:
    """docs/llms.txt: every page of the navigation with its title and its first sentence (llmstxt.org)."""
    lines = ["# lamer-graph", "", "> " + _first((DOCS / "index.md").read_text())]
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2])
    for part in navigation[1:]:
        (group, entries), *_ = part.items()
        lines += ["", f"## {group}", ""]
        for entry in entries:
            (title, name), *_ = entry.items() if isinstance(entry, dict) else [("", entry)]
            text = (DOCS / name if (DOCS / name).is_file() else ROOT / name).read_text()
            title = title or text.partition("\n")[0].removeprefix("# ")
            lines.append(f"- [{title}]({name.removesuffix('.md')}.html): {_first(text)}")
    return "\n".join(lines) + "\n"


def _first(text: str) -> str:
    """The first sentence of a page's prose; of a page without any, its first heading after the title."""
    body = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = [line for line in body.splitlines()[1:] if not re.match(r"[#!|<:]|    |- ", line)]
    first = next((part for part in "\n".join(prose).split("\n\n") if part.strip()), "")
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(first.split())).replace("*", "")
    return re.split(r"(?<=[.:])\s", plain)[0].rstrip(":")


def main() -> None:
    if len(sys.argv) == 1:
        figures.main()
        (DOCS / "llms.txt").write_text(index())
        return
    name = sys.argv[1]
    text = Path(sys.argv[2]).read_text() if len(sys.argv) > 2 else transcript()
    fill(name, shortened([line.rstrip() for line in text.strip("\n").splitlines()]))


if __name__ == "__main__":
    main()
