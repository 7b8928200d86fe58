"""`lamer-graph gateway`: an OpenAI-compatible proxy that records what an agent's model read and said, by tokens."""
