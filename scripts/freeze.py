"""Write what `.venv` holds to constraints/cpu.txt: exact versions, no paths, no local build labels, not this project.

    make constraints

What must stay true: the file names versions and nothing of the machine it was made on, so that it installs anywhere.
"""

import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints" / "cpu.txt"
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._!-]+)(\+[A-Za-z0-9.]+)?")


def main() -> None:
    head = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("#")]
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable", "--exclude", "lamer-graph"]
    frozen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pins = []
    for line in frozen:
        match = PIN.fullmatch(line.strip())
        if match is None:
            raise SystemExit(f"not a plain pin, install it from an index first: {line}")
        pins.append(f"{match[1]}=={match[2]}")
    CONSTRAINTS.write_text("\n".join([*head, *sorted(pins, key=lambda pin: pin.split("==")[0].lower())]) + "\n")
    print(f"{len(pins)} pins written to {CONSTRAINTS}")


if __name__ == "__main__":
    main()
