"""Applications as they are: any compiled graph becomes the episode of a trial, tried again with what it has learnt."""

from lamer_graph.apps.grading import Grade as Grade
from lamer_graph.apps.retries import with_retries as with_retries
