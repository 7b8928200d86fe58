"""A trial as OpenTelemetry sees it: every model call, turn, recall and reflection a span, with what it came to.

    pip install 'lamer-graph[train,trace]'
    python examples/traced_agent.py                                           # a tree on the terminal
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:6006 python examples/traced_agent.py    # Phoenix, Jaeger, MLflow, ..

Nothing is traced unless an application asks for it, as here. What is particular to a trial is in a span's metadata:
`lamer_trial`, `lamer_episode`, `lamer_turn`, and of a turn `lamer_reward`, `lamer_valid` and `lamer_success`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lamer_graph import LocalPolicy, create_lamer_agent

POLICY = Path(__file__).parent / "policies" / "minesweeper-warmstart"


def traced(seed: int) -> Sequence[ReadableSpan]:
    """The spans of one trial, in the order in which they began."""
    seen = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(seen))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    instrumentor = LangChainInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    policy = LocalPolicy(POLICY)
    try:
        create_lamer_agent(policy, "minesweeper:4x4-3", max_episodes=2, max_turns=3).invoke({"task": {"seed": seed}})
    finally:
        policy.close()
        instrumentor.uninstrument()
        provider.shutdown()
    return sorted(seen.get_finished_spans(), key=lambda span: span.start_time or 0)


def line(span: ReadableSpan) -> str:
    """A span in words: its kind, name and what it says of the trial."""
    told = dict(span.attributes or {})
    about: dict[str, Any] = json.loads(str(told.get("metadata", "{}")))
    ours = {key.removeprefix("lamer_"): value for key, value in about.items() if key.startswith("lamer_")}
    return f"{str(told.get('openinference.span.kind', '')).lower():10}{span.name:20}{ours or ''}"


def main() -> None:
    spans = traced(3)
    depth: dict[int, int] = {}
    for span in spans:
        depth[span.context.span_id] = depth.get(span.parent.span_id, -1) + 1 if span.parent else 0
        print("  " * depth[span.context.span_id] + line(span))


if __name__ == "__main__":
    main()
