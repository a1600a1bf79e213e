"""What a fit will do, worked out and checked once: the checks, the run, the fit and the saved run are handed it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bilora.data.split import Split
from bilora.engines.settings import FitSettings
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
    processes: Processes = field(default=ONE_PROCESS, repr=False)

    def __post_init__(self) -> None:
        """Refuse ``halve`` with several processes."""
        # One that is out of memory cannot halve the batches of all.
        if self.processes.count > 1 and self.settings.on_out_of_memory == "halve":
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
