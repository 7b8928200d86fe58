"""From logs to numbers: pass@k with intervals (`evaluate`, `stats`), memories side by side (`compare`)."""
