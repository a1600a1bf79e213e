"""The settings of training: of one level, and of a whole fit."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar, get_args

from bilora.engines.endings import build_ending
from bilora.engines.hypergradients.catalog import build_hypergradient, explicit, named
from bilora.engines.hypergradients.implicit import ProductSettings
from bilora.errors import SettingsError
from bilora.problems.levels.hypergradient import Hypergradient
from bilora.problems.variant import Variant
from bilora.processes.devices import choose_device, has_bf16
from bilora.settings.arguments import check_fields
from bilora.settings.sections import refuse_faults

Schedule = Literal["constant", "linear", "cosine"]
CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]
COMPILE_MODES: tuple[CompileMode, ...] = get_args(CompileMode)

# What a field that a method may have a default of its own for holds until its settings are built.
OPEN: Any = None


@dataclass(frozen=True)
class LevelSettings:
    """How one level is trained: AdamW with a schedule.

    Where batch size, schedule, warm-up and clipping are left out, a method may have its own, see
    :attr:`~bilora.problems.variant.Variant.defaults`.

    Args:
        learning_rate: Peak learning rate; None takes that of its level in :class:`FitSettings`: 0.003 for the lower
            one and 0.1 for the upper one.
        weight_decay: Decoupled weight decay.
        batch_size: Rows per micro-batch; 16.
        accumulation: Micro-batches per optimizer step.
        schedule: What follows the warm-up: ``constant``, ``linear`` (to zero; the default) or ``cosine`` (to
            zero).
        warmup: Share of this level's steps over which the learning rate rises; 0.06.
        gradient_clipping: Largest gradient norm, 1; 0 does not clip.

    Raises:
        SettingsError: A value is out of range; all faults are told together.

    Example:
        >>> LevelSettings(batch_size=0)
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: level: batch_size is 0, it must be at least 1
    """

    learning_rate: float | None = None
    weight_decay: float = 0.0
    batch_size: int = OPEN
    accumulation: int = 1
    schedule: Schedule = OPEN
    warmup: float = OPEN
    gradient_clipping: float = OPEN

    # What stands in for those that neither the user nor the method gives.
    DEFAULTS: ClassVar[Mapping[str, Any]] = dict(batch_size=16, schedule="linear", warmup=0.06, gradient_clipping=1.0)
    # Those that the user has left out. Not a field: in files and hashes a default is the same as its value given.
    left_open: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        _close(self)
        check_fields(self, "level")
        # Each is written so that nan fails it.
        checks = (
            ("learning_rate", "it must not be negative", 0 <= (self.learning_rate or 0) < math.inf),
            ("weight_decay", "it must not be negative", 0 <= self.weight_decay < math.inf),
            ("batch_size", "it must be at least 1", self.batch_size >= 1),
            ("accumulation", "it must be at least 1", self.accumulation >= 1),
            ("schedule", "allowed: constant, linear, cosine", self.schedule in ("constant", "linear", "cosine")),
            ("warmup", "it is a share of the steps, in [0, 1)", 0 <= self.warmup < 1),
            ("gradient_clipping", "it must be positive, or 0 for none", 0 <= self.gradient_clipping < math.inf),
        )
        refuse_faults("level", self, checks)

    def with_defaults(self, defaults: Mapping[str, Any]) -> "LevelSettings":
        """Return the settings with these values for what the user has left out, which stays noted."""
        settings = copy.copy(self)
        _put(settings, {name: value for name, value in defaults.items() if name in self.left_open})
        if settings.learning_rate is None:
            _put(settings, {"learning_rate": defaults["learning_rate"]})
        return settings


def _put(settings: Any, values: Mapping[str, Any]) -> None:
    # By object.__setattr__, the one way into a frozen dataclass.
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def _close(settings: Any) -> None:
    """Give what was left out its default, and note it."""
    left_open = frozenset(name for name in settings.DEFAULTS if getattr(settings, name) is None)
    _put(settings, {name: settings.DEFAULTS[name] for name in left_open} | {"left_open": left_open})


def reopened(settings: Any) -> dict[str, Any]:
    """Return the fields that open again what the user has left out, for :func:`dataclasses.replace`."""
    levels = {name: dataclasses.replace(level, **reopened(level)) for name, level in levels_of(settings).items()}
    return {**dict.fromkeys(settings.left_open), **levels}


def levels_of(settings: Any) -> dict[str, LevelSettings]:
    """Return the settings of the levels by name; none of those of a level itself."""
    return {name: getattr(settings, name) for name in RATES} if isinstance(settings, FitSettings) else {}


Base = TypeVar("Base", bound="FitSettings")

# The learning rate of a level whose settings give none.
RATES = {"lower": 3e-3, "upper": 0.1}


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained; what only bi-level methods use is ignored by the single-level ones.

    None leaves a setting to the caller, who knows the rows: ``bilora train`` goes by epochs, validates and keeps the
    best; :func:`~bilora.engines.training.fit.fit` and comparisons make 300 steps and watch nothing.

    Args:
        steps: Lower optimizer steps; None for 300, and in ``bilora train`` for ``epochs``.
        unroll_steps: Lower steps per upper step; 4, or what the method has. Only the last of them is differentiated
            (``unrolled`` goes further back), so with rows in a fixed order some would never be seen by the upper level;
            the loaders here shuffle.
        warmup_steps: Lower steps before the upper level may step.
        hypergradient: Name, mapping with ``name`` and that approximation's own settings, without a name ``darts``, or
            an object, which is kept as such a mapping; left out it is ``darts``, or what the method has.
        meter: Upper steps between two readings of the hypergradient's quality; 0 takes none.
        lower: Settings of the lower level, or of the only one.
        upper: Settings of the upper level.
        ending: How a run ends: ``keep``, ``retrain`` (the lower level anew on all rows), ``then_trusted`` (anew on
            D1, and on with D2) or ``prune``; a name, or a mapping with ``name`` and its own settings. None takes the
            variant's.
        split_ratio: Share of the training rows that go to the lower level.
        refresh: Epochs of the lower level between two draws of a new split; 0 keeps the first. None keeps it too,
            and in ``bilora train`` is 1 unless D2 is watched.
        validate_every: Lower steps between two validations; 0 validates at the end only. None does so too, and in
            ``bilora train`` validates twenty times.
        early_stopping: Validations without a better score before the run is stopped; 0 does not stop early. None does
            not either, and in ``bilora train`` is 5.
        keep_best: Whether to end with the parameters of the best validation instead of the last ones; None does so in
            ``bilora train`` alone.
        save_every: Lower steps between two checkpoints; 0 saves only when a signal ends the run.
        save_total_limit: Newest checkpoints to keep; 0 keeps all.
        skip_diverged: Steps in a row of a level that are skipped where a loss or gradient is not finite; one more ends
            the run. 0 skips none.
        on_save_error: ``stop`` or ``warn`` and go on, where a checkpoint cannot be written.
        on_out_of_memory: ``stop``, or ``halve`` the level's batch, double its accumulation, and start the stage again.
        precision: ``fp32``, ``bf16`` or ``fp16``, by autocast; trainable parameters stay in float32. ``auto`` becomes
            ``bf16`` where the device has instructions for it, and ``fp32`` elsewhere.
        group_by_length: Whether a batch holds rows of nearly one length, which saves padding.
        torch_compile: ``off``, or torch.compile's mode: ``default``, ``reduce-overhead`` or ``max-autotune``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: Of the split, the data order and the dropout masks.

    Raises:
        SettingsError: A value is out of range, or two do not fit each other; all faults are told together.

    Example:
        >>> settings = FitSettings(upper=LevelSettings(batch_size=4), unroll_steps=2)
        >>> settings.hypergradient, settings.upper.learning_rate, settings.steps
        ({'name': 'darts', 'finite_difference': 'forward', 'scale': 'learning_rate'}, 0.1, 300)
    """

    steps: int | None = None
    unroll_steps: int = OPEN
    warmup_steps: int = 0
    hypergradient: str | dict[str, Any] | Hypergradient = OPEN
    meter: int = 0
    lower: LevelSettings = field(default_factory=lambda: LevelSettings(learning_rate=RATES["lower"]))
    upper: LevelSettings = field(default_factory=lambda: LevelSettings(learning_rate=RATES["upper"]))
    ending: str | dict[str, Any] | None = None
    split_ratio: float = 0.8
    refresh: int | None = None
    validate_every: int | None = None
    early_stopping: int | None = None
    keep_best: bool | None = None
    save_every: int = 0
    save_total_limit: int = 0
    skip_diverged: int = 0
    on_save_error: Literal["stop", "warn"] = "stop"
    on_out_of_memory: Literal["stop", "halve"] = "stop"
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    group_by_length: bool = False
    torch_compile: CompileMode = "off"
    device: str = "auto"
    seed: int = 0

    # The values of what a caller that watches no rows leaves open; empty for one that decides by the rows.
    UNSAID: ClassVar[Mapping[str, Any]] = dict(
        steps=300, refresh=0, validate_every=0, early_stopping=0, keep_best=False
    )

    DEFAULTS: ClassVar[Mapping[str, Any]] = dict(unroll_steps=4, hypergradient="darts")
    left_open: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        _close(self)
        # An object is none of the types of a config, and is told of where it is built.
        check_fields(self, "settings", leave_out=("hypergradient",))
        # Before the checks, and for good: a checkpoint and a config hold what the run was trained with.
        self._fill_in()
        if self.ending is not None:
            build_ending(self.ending)
        watched = bool(self.early_stopping or self.keep_best)
        checks = (
            ("steps", "it must be at least 1", self.steps is None or self.steps >= 1),
            ("unroll_steps", "it must be at least 1", self.unroll_steps >= 1),
            ("warmup_steps", "it must not be negative", self.warmup_steps >= 0),
            ("meter", "it must be positive, or 0 for no readings", self.meter >= 0),
            ("split_ratio", "it must be above 0 and below 1", 0 < self.split_ratio < 1),
            ("refresh", "it must be positive, or 0 for never", (self.refresh or 0) >= 0),
            ("validate_every", "it must be positive, or 0 for the end only", (self.validate_every or 0) >= 0),
            ("early_stopping", "it must be positive, or 0 for never", (self.early_stopping or 0) >= 0),
            ("save_every", "it must be positive, or 0 for never", self.save_every >= 0),
            ("save_total_limit", "it must be positive, or 0 for all", self.save_total_limit >= 0),
            ("skip_diverged", "it must be positive, or 0 for none", self.skip_diverged >= 0),
            ("on_save_error", "allowed: stop, warn", self.on_save_error in ("stop", "warn")),
            ("on_out_of_memory", "allowed: stop, halve", self.on_out_of_memory in ("stop", "halve")),
            ("precision", "allowed: fp32, bf16, fp16, auto", self.precision in ("fp32", "bf16", "fp16")),
            ("torch_compile", f"allowed: {', '.join(COMPILE_MODES)}", self.torch_compile in COMPILE_MODES),
            (
                "torch_compile",
                "compiled models have no second derivative; set it to off, or leave out the meter and products: exact",
                self.torch_compile == "off" or not (self.second_derivatives or self.meter),
            ),
            (
                "validate_every",
                "early_stopping and keep_best look at validations during the run; set it, or early_stopping to 0 and "
                "keep_best to false",
                self.validate_every != 0 or not watched,
            ),
        )
        refuse_faults("settings", self, checks)

    @cached_property
    def approximation(self) -> Hypergradient:
        """The approximation of the hypergradient that the settings name."""
        return build_hypergradient(self.hypergradient)

    @property
    def second_derivatives(self) -> bool:
        """Whether the approximation takes exact second derivatives."""
        return isinstance(self.approximation, ProductSettings) and self.approximation.products == "exact"

    @property
    def lower_steps(self) -> int:
        """The lower optimizer steps, of settings in which they are decided."""
        assert self.steps is not None  # only a command's config leaves them open, and it trains by a RunConfig
        return self.steps

    def as_base(self, kind: type[Base], **changed: Any) -> Base:
        """Return the settings as the class that this one inherits from; what they have built is not built again."""
        # ``changed`` are fields from which nothing is built, or the cached parts would be of other settings.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(kind)} | changed
        settings = kind.__new__(kind)
        fields = {field.name for field in dataclasses.fields(self)}
        cached = {name: part for name, part in vars(self).items() if name not in fields and hasattr(kind, name)}
        vars(settings).update(cached)
        settings.__init__(**values)  # type: ignore[misc]  # of a frozen dataclass, which has no other state
        return settings

    def of_variant(self, variant: Variant) -> "FitSettings":
        """Return the settings with the variant's own values for what the user has left out."""
        if not variant.defaults:
            return self
        own: dict[str, Any] = {name: value for name, value in variant.defaults.items() if name in self.left_open}
        return dataclasses.replace(self, **(own | self._levels(variant.defaults)))

    @property
    def method_defaults(self) -> Mapping[str, Any]:
        """The values of the method for what is left out; none where the settings are of no method yet."""
        return {}

    def _fill_in(self) -> None:
        defaults = self.method_defaults
        _put(self, {name: value for name, value in defaults.items() if name in self.left_open})
        _put(self, self._levels(defaults))
        if self.precision == "auto":
            _put(self, {"precision": "bf16" if has_bf16(choose_device(self.device)) else "fp32"})
        _put(self, {"hypergradient": explicit(named(self.hypergradient), self.approximation)})
        _put(self, {name: value for name, value in self.UNSAID.items() if getattr(self, name) is None})

    def _levels(self, defaults: Mapping[str, Any]) -> dict[str, LevelSettings]:
        known = {*self.DEFAULTS, *(f"{level}.{name}" for level in RATES for name in LevelSettings.DEFAULTS)}
        if unknown := sorted(set(defaults) - known):
            raise SettingsError(
                f"a method has a default for {unknown[0]!r}, which it cannot; allowed: {', '.join(sorted(known))}"
            )
        dotted = [(*name.split("."), value) for name, value in defaults.items() if "." in name]
        return {
            level: settings.with_defaults(
                {"learning_rate": RATES[level]} | {name: value for section, name, value in dotted if section == level}
            )
            for level, settings in levels_of(self).items()
        }
