"""Holds a VllmServer and tells of it, for a test that kills things. Arguments: model, run folder, adapter.

One JSON line once the server is up, another once it has come back from a death.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from lamer_graph.serving import supervisor
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.types import Sampling


def tell(**facts: Any) -> None:
    print(json.dumps({"pids": supervisor.descendants(os.getpid()), **facts}), flush=True)


if __name__ == "__main__":
    model, run_dir, adapter = sys.argv[1:]
    with VllmServer(model, run_dir=run_dir) as server:
        server.load_adapter("policy-v0001", adapter)
        tell()
        while not server.restarts:
            time.sleep(0.1)
        # No waiting for health: a policy outlasts the restart by itself.
        answered = {}
        for name in ("policy-v0001", Path(model).name):
            done = server.policy(name).generate_sync([{"role": "user", "content": "Act"}], Sampling(max_tokens=2))
            answered[name] = done.trainable
        tell(restarts=server.restarts, answered=answered)
        time.sleep(600)
