"""`lamer-graph agent serve`: a whole agent, with its retries and its memory, that answers as a chat model would."""
