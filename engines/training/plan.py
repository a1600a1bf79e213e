"""What a fit will do, worked out and checked once: the checks, the run, the fit and the saved run are handed it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bilora.data.groups import Groups
from bilora.data.split import Split
from bilora.engines.checks import check_upper_steps
from bilora.engines.hypergradients.catalog import build_hypergradient
from bilora.engines.hypergradients.first_order import FirstOrder
from bilora.engines.settings import FitSettings
from bilora.engines.training.levels import stage_steps
from bilora.errors import SettingsError
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.problems.stage import Stage
from bilora.problems.variant import Variant
from bilora.processes.processes import ONE_PROCESS, Processes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A variant with its settings, the stages that it and the ending ask for, and how they divide the rows."""

    variant: Variant
    variant_settings: Any
    settings: FitSettings
    # In the order in which they are run.
    stages: tuple[Stage, ...]
    # The first D1 and D2; None where D2 is given, where no stage needs them, or where they come of the encoded rows.
    split: Split | None = None
    # Of each row, where those of a group stay together when D1 and D2 are drawn anew.
    groups: Groups | None = field(default=None, repr=False)
    processes: Processes = field(default=ONE_PROCESS, repr=False)

    def __post_init__(self) -> None:
        """Refuse stages in which an upper level would never step or learn, and ``halve`` with several processes."""
        settings = self.settings
        # Here too, and not by the engine alone: a model that takes minutes to load should not be loaded for it.
        for stage in self.stages:
            if stage.upper is not None:
                unroll, warmup = settings.unroll_steps, settings.warmup_steps
                chosen = self.hypergradient
                built = chosen if isinstance(chosen, Hypergradient) else build_hypergradient(chosen)
                looks_back = built.needs.steps
                check_upper_steps(stage_steps(stage, settings), unroll=unroll, warmup=warmup, looks_back=looks_back)
        if self.variant.own_loss and isinstance(self.hypergradient, FirstOrder):
            raise SettingsError(
                f"hypergradient is 'first_order', by which method {self.variant.name!r} would learn nothing: D2's loss "
                "depends on what it learns through the lower steps alone; choose darts, its default, or unrolled"
            )
        # One that is out of memory cannot halve the batches of all.
        if self.processes.count > 1 and settings.on_out_of_memory == "halve":
            raise SettingsError(
                "on_out_of_memory is 'halve', which one process alone can do, and there are "
                f"{self.processes.count}; set it to 'stop', and halve batch_size and double accumulation by hand"
            )

    @property
    def targets(self) -> Mapping[str, float] | None:
        """How the labels are scaled for training, which may not change within a run; None where they are as given."""
        return None

    @property
    def hypergradient(self) -> str | Hypergradient:
        """The approximation of the upper level: the variant's where it brings one, else that of the settings."""
        return self.variant.hypergradient or self.settings.approximation

    @property
    def splits_rows(self) -> bool:
        """Whether a stage needs the rows divided into D1 and D2."""
        return any(stage.splits for stage in self.stages)
