"""The same records and queries through mem0's Chroma path, for `bench_memory`; runs in an environment that has mem0.

Usage: PEER_PYTHON bench/peer_mem0.py WORK.json FOLDER. Prints {"upsert_ms", "recall_ms", "query_ms"}, each a median.

mem0 is given what makes it fastest: no LLM (`infer=False`), the same vectors (our hashing embedder's recipe), and its
store filled through its own bulk insert. Measured are its public `add`, `get_all` of one trial, and `search`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

os.environ.update(MEM0_TELEMETRY="False", ANONYMIZED_TELEMETRY="False", OPENAI_API_KEY="none", MEM0_DIR=sys.argv[2])

BATCH = 500


class Hashing:
    """mem0's embedder interface over the vectors that our side uses."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._vectorizer = HashingVectorizer(
            n_features=383, token_pattern=r"(?u)\w+|[^\w\s]", ngram_range=(1, 2), norm="l2"
        )

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: list[str], memory_action: str | None = None) -> list[list[float]]:
        return [[*row, 0.0 if any(row) else 1.0] for row in self._vectorizer.transform(texts).toarray().tolist()]


def median_ms(work: list[Any], one: Any) -> float:
    seconds = []
    for item in work:
        started = time.perf_counter()
        one(item)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def main() -> None:
    from mem0 import Memory

    work = json.loads(Path(sys.argv[1]).read_text())
    memory = Memory.from_config(
        {
            "vector_store": {
                "provider": "chroma",
                "config": {"collection_name": "lessons", "path": str(Path(sys.argv[2], "chroma"))},
            },
            "history_db_path": str(Path(sys.argv[2], "history.db")),
        }
    )
    memory.embedding_model = Hashing()
    records = work["records"]
    for first in range(0, len(records), BATCH):
        part = records[first : first + BATCH]
        payloads = [{"data": r["text"], "user_id": "bench", "run_id": r["trial"], "hash": uuid4().hex} for r in part]
        vectors = memory.embedding_model.embed_batch([r["text"] for r in part])
        memory.vector_store.insert(vectors=vectors, payloads=payloads, ids=[str(uuid4()) for _ in part])
    trials = work["trials"]
    result = {
        "recall_ms": median_ms(trials, lambda t: memory.get_all(filters={"user_id": "bench", "run_id": t})),
        "query_ms": median_ms(
            work["queries"], lambda q: memory.search(q, top_k=work["k"], filters={"user_id": "bench"}, threshold=0.0)
        ),
        "upsert_ms": median_ms(
            work["new"], lambda r: memory.add(r["text"], user_id="bench", run_id=r["trial"], infer=False)
        ),
    }
    found = memory.search(work["queries"][0], top_k=work["k"], filters={"user_id": "bench"}, threshold=0.0)
    assert found["results"], "mem0 found nothing"
    assert memory.get_all(filters={"user_id": "bench", "run_id": trials[0]})["results"], "mem0 lost a trial"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
