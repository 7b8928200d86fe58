"""`lamer-graph compare --train N`: before it is compared, every memory gets a policy that was trained with it.

What must stay true: the trainings differ in their memory alone (same run file, start, seeds, number of updates); what
cannot be trained is refused by name before anything is played; each lies in its configuration's folder, under
`training`, so a comparison that was cut short goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamer_graph.cli.checks import TRAINING_NEEDS, check_installed
from lamer_graph.cli.frame import Json, Ui, options
from lamer_graph.cli.options import Player, Setting
from lamer_graph.cli.running import MEASURED, WARM
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_graph.collection.config import CollectConfig
    from lamer_graph.policies.base import Policy
    from lamer_trainers.runfile import RunFile

TRAINING = "Training"
FOLDER = "training"


@options
@dataclass(frozen=True, kw_only=True)
class Training:
    """Whether each configuration's policy is trained first, and as which run file says."""

    train: Annotated[
        int | None,
        typer.Option(
            "--train",
            metavar="N",
            min=1,
            rich_help_panel=TRAINING,
            show_default=False,
            help="Train a policy per configuration first, N updates each. Needs --preset or --run-file.",
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=TRAINING,
            show_default=False,
            help="With --train: a run file that comes with us, see `lamer-graph train --presets`.",
        ),
    ] = None
    run: Annotated[
        Path | None,
        typer.Option(
            "--run-file",
            metavar="FILE",
            rich_help_panel=TRAINING,
            show_default=False,
            help="With --train: a run file of one's own; its memory and number of updates are replaced.",
        ),
    ] = None

    def load(self, ui: Ui, player: Player, setting: Setting) -> RunFile | None:
        """The run file of all trainings, None without --train; starting from --policy if there is one.

        Raises ConfigError and TrainingConfigError.
        """
        if self.train is None:
            if self.preset is not None or self.run is not None:
                raise ConfigError("--preset and --run-file say how --train trains; give --train N, or leave them out")
            return None
        if (self.preset is None) == (self.run is None):
            raise ConfigError("--train needs a run file: --preset NAME or --run-file FILE, one of the two")
        if player.base_url is not None:
            raise ConfigError("--train trains policies in folders, and --base-url is a server: leave one of them out")
        check_installed("--train", TRAINING_NEEDS)
        from lamer_envs import make
        from lamer_trainers.runfile import load_run

        changes = [f"optimise.updates={self.train}"]
        run = load_run(self.run, preset=self.preset, changes=changes)
        if run.logs:
            raise ConfigError("--train plays with each memory to learn with it; a run file with `logs` does not play")
        if setting.tasks_type is not None:
            raise ConfigError("--train trains on the run file's own tasks: leave --tasks-type out")
        if player.policy is not None:
            run = run.model_copy(update={"policy": str(player.policy)})
        begins = replace(player, policy=Path(run.policy))
        ours, theirs = setting.spec(ui, begins), make(run.collect.env).spec
        if ours != theirs:
            raise ConfigError(f"the run file trains on {theirs}, and {ours} is to be played: use --env {theirs}")
        return run


def starts(run: RunFile, player: Player, setting: Setting) -> tuple[Player, Setting]:
    """Who plays and how if nothing is trained yet: the start of the trainings, in their prompt style."""
    auto = setting.prompt_style == "auto"
    return (
        replace(player, policy=Path(run.policy)),
        replace(setting, prompt_style=run.collect.prompt_style) if auto else setting,
    )


def worded(run: RunFile, setting: Setting, planned: Mapping[str, CollectConfig]) -> dict[str, CollectConfig]:
    """The configurations with the prompts that the run trains on, as far as nothing else was asked for."""
    same = run.collect
    told: dict[str, Any] = {"texts": same.texts}
    for key in ("actions", "strategy", "thoughts"):
        if getattr(setting, key) == "auto":
            told[key] = getattr(same, key)
    return {
        name: config.model_copy(update=told) if config.prompt_style == same.prompt_style else config
        for name, config in planned.items()
    }


def trainings(run: RunFile, planned: Mapping[str, CollectConfig], folders: Mapping[str, Path]) -> dict[str, RunFile]:
    """The run file of each configuration. Raises ConfigError and what `lamer_trainers.loop.train.check` raises."""
    from lamer_graph.collection.config import MEMORY_FIELDS
    from lamer_trainers.loop.run_folder import RUN
    from lamer_trainers.loop.train import check
    from lamer_trainers.runfile import RunFile

    made = {}
    for name, config in planned.items():
        memory = {key: getattr(config, key) for key in MEMORY_FIELDS} | {"visible": "frozen"}
        if config.store in (WARM, MEASURED):  # is played by the trained policy, so the training begins without it
            memory["store"] = ""
        plain = run.model_dump()
        if config.scope == "trial":
            del plain["remember"]
        one = RunFile.model_validate({**plain, "collect": {**plain["collect"], **memory}})
        # What has played with a policy cannot go on with one that was trained longer.
        check(one, folders[name] / FOLDER, resume=(folders[name] / FOLDER / RUN).exists(), longer=False)
        made[name] = one
    return made


def trained(ui: Ui, player: Player, run: RunFile, folder: Path, name: str) -> tuple[Player, Json]:
    """Train, or go on or be done with it, in `folder`; who plays from then on, and what `train --json` would print."""
    from lamer_graph.cli.train import train_run
    from lamer_trainers.loop.run_folder import RUN

    document = train_run(ui, run, folder / FOLDER, resume=(folder / FOLDER / RUN).exists())
    begun = Path(run.policy).resolve().name
    settings = {key: getattr(player, key) for key in Player.__dataclass_fields__}
    says = f"{begun} + {document['updates']} updates with {name}"
    return TrainedPlayer(**{**settings, "policy": Path(document["policy"])}, says=says), document


@dataclass(frozen=True, kw_only=True)
class TrainedPlayer(Player):
    """A policy that a training left, recorded as what it is: its folder is called the same in every training."""

    says: str

    def name_of(self, policy: Policy, env: str) -> str:
        return self.says
