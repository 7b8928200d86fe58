"""Front doors over HTTP: `gateway` records what any agent asks a model, `agent` answers as a model would."""
