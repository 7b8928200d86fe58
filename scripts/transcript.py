"""Write what `make quickstart` printed into docs/quickstart.md, so that nobody types it: `make transcript`.

    lamer-graph quickstart > q.txt && python scripts/transcript.py q.txt

Of a training's many updates four are shown, and said to be shortened.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quickstart.md"
BEGIN, END = "<!-- quickstart: begin -->", "<!-- quickstart: end -->"


def shortened(lines: list[str]) -> list[str]:
    """A training's updates but the first two and the last two left out."""
    updates = [number for number, line in enumerate(lines) if re.match(r" +\d+/\d+  @1 ", line)]
    if len(updates) < 6:
        return lines
    return [*lines[: updates[2]], f"  .. (updates 3 to {len(updates) - 2}, shortened)", *lines[updates[-2] :]]


def block(lines: list[str]) -> str:
    """What goes into the page, markers and all."""
    return "\n".join([BEGIN, "", "```text", *shortened(lines), "```", "", END])


def main() -> None:
    (file,) = sys.argv[1:]
    lines = [line.rstrip() for line in Path(file).read_text().strip("\n").splitlines()]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + block(lines) + rest.partition(END)[2])


if __name__ == "__main__":
    main()
