"""MineSweeper: `env` is the environment, `board` what its cells say."""

from lamer_envs.minesweeper.env import Minesweeper as Minesweeper
