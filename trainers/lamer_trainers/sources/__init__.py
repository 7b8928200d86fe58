"""Where a run gets its trials: played in process, ahead in a thread, through a vLLM of its own, or from logs."""
