"""A run from start to plot: `train` is the loop, `run_folder` what it leaves, `watch` follows every update."""
