"""ALFWorld: `env` is the environment, `world` its rules, the rest makes, reads, words and solves households."""

from lamer_envs.alfworld.env import Alfworld as Alfworld
