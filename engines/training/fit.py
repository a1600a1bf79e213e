"""From a model with an adapter and training rows to trained parameters."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from bilora import BiloraConfig
from bilora.data.loaders import Collate
from bilora.engines.bilevel import Metrics
from bilora.engines.callbacks.callback import Callback
from bilora.engines.checkpoints.saving import Checkpoints
from bilora.engines.settings import FitSettings
from bilora.engines.training.plan import Plan
from bilora.engines.training.result import FitResult
from bilora.engines.training.saved_run import SavedRun
from bilora.engines.training.split_loaders import DividedRows
from bilora.engines.training.staged_run import StagedRun
from bilora.engines.training.stages import run_stages
from bilora.metrics.monitor import Monitor
from bilora.problems.catalog import DEFAULT_METHOD, find_variant
from bilora.problems.variant import Variant
from bilora.problems.variants.bilora import BiloraSettings
from bilora.processes.group import join_processes
from bilora.processes.processes import Processes
from bilora.settings.arguments import check_arguments


def fit(
    model: PeftModel,
    rows: Sequence[Mapping[str, Any]],
    *,
    upper_rows: Sequence[Mapping[str, Any]] | None = None,
    collate: Collate,
    variant: str | Variant = DEFAULT_METHOD,
    variant_settings: Any = None,
    settings: FitSettings | None = None,
    validate: Callable[[], Metrics] | None = None,
    monitor: Monitor | None = None,
    callbacks: Sequence[Callback] = (),
    folder: Path | str | None = None,
    resume: bool | Path | str = False,
    allow_config_change: bool = False,
    processes: Processes | None = None,
) -> FitResult:
    """Train the adapter of ``model`` in place and return what came of it.

    A bi-level variant trains its lower level on one part of ``rows`` and its upper level on the other, or on
    ``rows`` and ``upper_rows``; a single-level one trains on all of them, through the same code. A run is a row of
    stages, of which the variant and the ending say what they are; most have one.

    Args:
        model: A model with the variant's adapter on it, from ``get_peft_model``.
        rows: Tokenised training rows; integer or float ``labels`` stratify the split, and those with the same
            ``group`` stay in one part. ``source`` says where a row is from, for variants that ask.
        upper_rows: Tokenised rows of D2, where it is given, such as rows that somebody has checked; then ``rows`` are
            D1. None draws both from ``rows``.
        collate: Makes a batch, a mapping with ``labels``, of a list of rows.
        variant: Name, ``package.module:NAME``, or the variant itself. That of the default, ``self_tuned``, trains the
            adapter of ``BiloraConfig(init_weights="lora")``.
        variant_settings: The variant's own settings; None takes its defaults, and what the adapter was made with.
        settings: Steps, levels, hypergradient, split, device; None takes the defaults.
        validate: Returns metrics by name.
        monitor: The metric that early stopping and keep-the-best watch, where the settings ask for them.
        callbacks: Hang on the engine, see :class:`~bilora.engines.callbacks.callback.Callback`.
        folder: Where checkpoints go, as often as the settings say, and one more when SIGTERM or SIGINT ends the run
            after a whole step; None saves nothing and leaves signals alone.
        resume: True goes on from the newest checkpoint in ``folder`` that verifies, and begins at the start if there
            is none at all; a path names the checkpoint. The other arguments must be those of the run that wrote it.
        allow_config_change: Whether learning rates, schedules, clipping, steps and validation may differ on a resume.
        processes: The processes that train together; None takes those that torchrun has started, see
            :func:`~bilora.processes.group.join_processes`.

    Returns:
        Steps, metrics, splits and time.

    Raises:
        SettingsError: Settings do not fit each other or the model.
        DataError: The rows are too few.
        DivergedError: A loss or gradient is not finite.
        CheckpointError: No checkpoint can be used, or it is of another run.
        InterruptedRun: A signal ended the run.
        ResourceError: There is too little memory or disk space.
        ProcessesError: A process is lost, or was given something else than the others.
    """
    check_arguments(fit, locals(), model=nn.Module)
    variant = find_variant(variant) if isinstance(variant, str) else variant
    settings = (settings or FitSettings()).of_variant(variant)
    if variant_settings is None:
        variant_settings = settings_of_adapter(model, variant)
    plan = Plan(
        variant=variant,
        variant_settings=variant_settings,
        settings=settings,
        stages=run_stages(variant, variant_settings, settings),
        processes=join_processes(device=settings.device) if processes is None else processes,
    )
    return fit_plan(
        model,
        rows if upper_rows is None else DividedRows(rows, upper_rows),
        plan,
        collate=collate,
        validate=validate,
        monitor=monitor,
        callbacks=callbacks,
        folder=None if folder is None else Path(folder),
        resume=Path(resume) if isinstance(resume, str) else resume,
        allow_config_change=allow_config_change,
    )


def fit_plan(
    model: PeftModel,
    rows: Sequence[Mapping[str, Any]],
    plan: Plan,
    *,
    collate: Collate,
    count_terms: Callable[[Any], float] | None = None,
    compute_loss: Callable[[Any, Any], Any] | None = None,
    validate: Callable[[], Metrics] | None = None,
    monitor: Monitor | None = None,
    callbacks: Sequence[Callback] = (),
    folder: Path | None = None,
    resume: bool | Path = False,
    allow_config_change: bool = False,
) -> FitResult:
    """Do what a plan says and return what came of it; the other arguments are those of :func:`fit`.

    ``count_terms`` tells of how many terms the loss of a batch is the mean; None counts its labels. ``compute_loss``
    takes the loss of a model on a batch with ``weights``, where rows have a ``weight``; None takes the model's own.
    """

    def make(plan: Plan, checkpoints: Checkpoints) -> StagedRun:
        # Last, so that a checkpoint holds what the other callbacks did at the end of its step.
        hooks = (*callbacks, checkpoints)
        return StagedRun(
            model,
            rows,
            collate=collate,
            count_terms=count_terms,
            compute_loss=compute_loss,
            plan=plan,
            validate=validate,
            monitor=monitor,
            callbacks=hooks,
            folder=folder,
        )

    return SavedRun(make, plan, folder, resume, allow_config_change).fit()


def settings_of_adapter(model: PeftModel, variant: Variant) -> Any:
    """Return the variant's default settings, for pseudo singular values with what the adapter was made with."""
    # A user's own variant may train a module that PEFT did not make.
    settings = variant.settings()
    config = model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None
    if not (isinstance(settings, BiloraSettings) and isinstance(config, BiloraConfig)):
        return settings
    names = ("alpha", "dropout", "formulation", "normalized", "start_value")
    adapter: dict[str, Any] = {"rank": config.r, **{name: getattr(config, name) for name in names}}
    # Without unit lengths the scale of P and Q needs a penalty: the default of orthogonality depends on them.
    return dataclasses.replace(settings, **adapter, orthogonality=None)
