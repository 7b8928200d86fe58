"""What one trial is: pure `steps`, the `prompts` they ask with, `calls` of policy and memory, the bulk `driver`."""
