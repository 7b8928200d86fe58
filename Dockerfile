# lamer-graph on CPUs: docker build --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's CPU wheels> -t lamer-graph .
FROM python:3.11-slim-bookworm

# A compiler and a few libraries are what vLLM's CPU build asks for at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git libnuma1 libtcmalloc-minimal4 make \
    && rm -rf /var/lib/apt/lists/*

# Without it pip takes PyTorch's GPU build, which works too and is some gigabytes larger.
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL} PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

RUN useradd --create-home lamer
USER lamer
WORKDIR /home/lamer/lamer-graph

COPY --chown=lamer pyproject.toml README.md LICENSE Makefile lamer_errors.py ./
COPY --chown=lamer constraints constraints
COPY --chown=lamer scripts scripts
COPY --chown=lamer lamer_graph lamer_graph
COPY --chown=lamer memory memory
COPY --chown=lamer envs envs
COPY --chown=lamer trainers trainers
COPY --chown=lamer examples examples
RUN make setup

ENV PATH=/home/lamer/lamer-graph/.venv/bin:${PATH}
CMD ["make", "quickstart"]
