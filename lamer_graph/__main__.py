"""`python -m lamer_graph` is `lamer-graph`, so that `accelerate launch -m lamer_graph train ..` starts several."""

import os
import sys

from lamer_graph.cli import main

if __name__ == "__main__":
    try:
        main()
    except SystemExit as leave:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(leave.code or 0))  # the threads of torch's gloo are joined at exit, which may take for ever
        raise
