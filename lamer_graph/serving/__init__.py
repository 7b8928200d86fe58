"""vLLM as a child process that is gone when we are: `vllm` starts it, `supervisor` watches over it."""
