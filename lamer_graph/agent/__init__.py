"""The agent: `graph` is the trial as a LangGraph state machine, `episode` the graph inside it, `invocation` what one
call says beside its task (whose memory, which seed, who logs)."""

from lamer_graph.agent.graph import compile_agent as compile_agent
from lamer_graph.agent.graph import create_lamer_agent as create_lamer_agent
from lamer_graph.agent.graph import episode_graph as episode_graph
from lamer_graph.agent.graph import play_in_graph as play_in_graph
from lamer_graph.agent.invocation import LamerContext as LamerContext
