"""Sokoban: `env` is the environment, `levels` makes its levels, `room` moves in them, `search` solves them."""

from lamer_envs.sokoban.env import Sokoban as Sokoban
