"""Many trials at once: what a run collects (`config`), playing and logging it (`collect`), its `run_memory`."""
