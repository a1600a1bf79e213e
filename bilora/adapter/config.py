"""The settings of one BiLoRA adapter, as PEFT stores them in ``adapter_config.json``."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig

from bilora.adapter.peft_type import BILORA
from bilora.adapter.singular_values import find_formulation, raw_start, starts_at_zero, starts_faulty
from bilora.errors import SHORT, SettingsError, first_ten
from bilora.settings.arguments import hints_of, type_faults
from bilora.settings.lookup import told_by

# A layer of as many inputs would not fit into memory; PyTorch would be asked for it all the same.
LARGEST_RANK = 2**20

# A value of s small enough to start from with unit-length directions. A formulation that cannot give it to
# all its values at once (softmax: their sum is fixed) cannot start near the base model.
_SMALL = 1e-3
_ONLY_SMALL = (
    "; with normalized=True only a small s starts near the base model: use formulation 'real', "
    "or 'binary' with a small start_value such as 0.01"
)


# Settings that name layers, or are by the name of a layer.
NAMES = (
    *("normalized", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"),
    *("layers_to_transform", "layers_pattern", "modules_to_save"),
)


@dataclass
class BiloraConfig(PeftConfig):
    """Settings of an adapter W = W0 + (alpha / r) P diag(s) Q with s = f(E).

    Args:
        r: Rank: number of pseudo singular values per layer.
        alpha: Numerator of the scale alpha / r.
        dropout: Probability in [0, 1) of dropping an input of the adapter while training.
        formulation: How s comes from E: a row of ``bilora.FORMULATIONS`` or ``package.module:NAME``.
        normalized: Scale columns of P and rows of Q to unit length in the forward pass, so that s holds the whole
            magnitude. Starts with random directions and s = 0, or at ``start_value``. ``None`` does so for ``"real"``,
            whose values alone can start at zero, unless ``init_weights`` is another start.
        start_value: What every s_j starts at; ``None`` for 0 with ``normalized`` and otherwise for the formulation's
            own (real 1, softmax 1, binary 0.5).
        init_weights: ``True``: P = 0 and Q with orthonormal rows, so that the model starts as the base model;
            ``"lora"``: P = 0 and Q as LoRA draws its A; ``"adalora"``: P, Q ~ N(0, 0.02^2) and s = 0; ``False``: a
            random start unlike the base model, for tests.
        target_modules: Names (or one regular expression) of the layers to adapt, or ``"all-linear"``; ``None`` for
            query and value, as in the paper, where PEFT knows the architecture.
        exclude_modules: Names, or one regular expression, of layers to leave out.
        rank_pattern: Ranks that differ from ``r``, by regular expression of the layer's name.
        alpha_pattern: Alphas that differ from ``alpha``, likewise.
        layers_to_transform: Indices of the blocks to adapt; ``None`` for all.
        layers_pattern: Name of the list of blocks that the indices count in.
        modules_to_save: Further modules, such as a task head, that are trained and saved whole.
        bias: ``"none"``: biases stay those of the base model; ``"all"``: all of them are trained on the lower level
            and saved; ``"bilora_only"``: those of the adapted layers are. One adapter of a model may have them.

    Raises:
        SettingsError: At least one setting cannot be used; all of them are named.

    Example:
        >>> BiloraConfig(r=4, formulation="binary").peft_type.value
        'BILORA'
        >>> BiloraConfig(r=0, dropout=1.0)
        Traceback (most recent call last):
            ...
        bilora.errors.SettingsError: BiloraConfig cannot be used:
          dropout is 1.0; give a probability in [0, 1)
          r is 0; give a whole number of at least 1
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    formulation: str = "real"
    normalized: bool | None = None
    start_value: float | None = None
    init_weights: bool | Literal["lora", "adalora"] = True
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bias: Literal["none", "all", "bilora_only"] = "none"

    def __post_init__(self) -> None:
        faults = []
        try:
            super().__post_init__()  # type: ignore[no-untyped-call]
        except ValueError as error:  # an unknown task_type
            faults.append(str(error))
        if wrong := self._type_faults():
            raise SettingsError("BiloraConfig cannot be used:\n  " + first_ten([*faults, *wrong], "\n  "))
        self._refuse_foreign_code()
        self.peft_type = BILORA
        # Resolved here, not in the layers, so that the file of an adapter says how it was trained.
        if self.normalized is None:
            self.normalized = isinstance(self.init_weights, bool) and starts_at_zero(self.formulation)
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        faults += [*self._number_faults(), *self._target_faults()]
        # The start is worked out from the ranks, which must be in order for that.
        faults += self._start_faults() if not faults else []
        if faults:
            raise SettingsError("BiloraConfig cannot be used:\n  " + first_ten(faults, "\n  "))

    def _refuse_foreign_code(self) -> None:
        """Refuse a file that names code, unless the user's program has imported it or the command line names it."""
        # PEFT hands over the type where it has read a file; a caller leaves it out.
        module = self.formulation.partition(":")[0]
        if self.peft_type is not None and module != self.formulation and module not in sys.modules:
            with told_by([]):
                find_formulation(self.formulation)

    @property
    def first_value(self) -> float | None:
        """The s_j that a new adapter starts at; ``None`` for the formulation's own."""
        if self.start_value is not None:
            return float(self.start_value)  # PyTorch takes no whole number beyond 64 bits
        if self.init_weights is False:
            return None
        return 0.0 if self.normalized or self.init_weights == "adalora" else None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, sets as sorted lists, so that equal settings give equal files."""
        settings: dict[str, Any] = super().to_dict()
        return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}

    def _type_faults(self) -> list[str]:
        # Of what the checks below, and PEFT, would fail at. Files have null, and callers sets, for what is left out and
        # for lists.
        values = {name: getattr(self, name) for name in NAMES}
        given = {name: value for name, value in values.items() if value is not None and not isinstance(value, set)}
        return type_faults({"formulation": self.formulation, **given}, hints_of(BiloraConfig))

    def _number_faults(self) -> Iterator[str]:
        if not _is_number(self.dropout) or not 0.0 <= self.dropout < 1.0:
            yield f"dropout is {SHORT.repr(self.dropout)}; give a probability in [0, 1)"
        if self.start_value is not None and not _is_number(self.start_value):
            yield f"start_value is {SHORT.repr(self.start_value)}; give a number, or null for the default"
        for name, rank in _named("r", self.r, self.rank_pattern, "rank_pattern"):
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                yield f"{name} is {SHORT.repr(rank)}; give a whole number of at least 1"
            elif rank > LARGEST_RANK:
                yield f"{name} is {SHORT.repr(rank)}; no layer has more than {LARGEST_RANK:,} directions"
        for name, alpha in _named("alpha", self.alpha, self.alpha_pattern, "alpha_pattern"):
            if not _is_number(alpha) or not 0 < alpha < 1e300:
                yield f"{name} is {SHORT.repr(alpha)}; give a number above 0"

    def _target_faults(self) -> Iterator[str]:
        if self.bias not in ("none", "all", "bilora_only"):
            yield f"bias is {SHORT.repr(self.bias)}; known: 'none', 'all', 'bilora_only'"
        # PEFT reads a text as a regular expression, and so the names in the patterns.
        texts = {name: getattr(self, name) for name in ("target_modules", "exclude_modules")}
        patterns = [(name, text) for name, text in texts.items() if isinstance(text, str)]
        patterns += [("rank_pattern", name) for name in self.rank_pattern or ()]
        patterns += [("alpha_pattern", name) for name in self.alpha_pattern or ()]
        yield from (f"{name} is {fault}" for name, text in patterns if (fault := pattern_fault(text)))
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            yield "layers_to_transform needs target_modules as a list of names, not as one string"
        if self.layers_pattern and self.layers_to_transform is None:
            yield "layers_pattern is given without layers_to_transform; give the indices to adapt there"

    def _start_faults(self) -> Iterator[str]:
        if not isinstance(self.init_weights, bool) and self.init_weights not in ("lora", "adalora"):
            yield f"init_weights is {SHORT.repr(self.init_weights)}; known: True, False, 'lora', 'adalora'"
            return
        if self.init_weights == "lora" and self.normalized:
            yield "init_weights='lora' starts at P = 0, which has no direction for normalized to keep; leave that out"
        if self.init_weights == "adalora" and (self.normalized or self.start_value not in (None, 0.0)):
            yield "init_weights='adalora' starts at s = 0 without normalized; leave those two out"
        if self.init_weights in (True, "lora") and not self.normalized and self.start_value == 0.0:
            yield (
                "start_value is 0 and so is P: neither would ever get a gradient; "
                "give another start_value, normalized=True, or init_weights='adalora'"
            )
        for name, rank in _named("r", self.r, self.rank_pattern, "rank_pattern"):
            yield from (f"{fault} ({name} = {rank})" for fault in self._formulation_faults(rank))

    def _formulation_faults(self, rank: int) -> Iterator[str]:
        try:
            start = raw_start(self.formulation, rank, value=self.first_value)
            if self.normalized:
                raw_start(self.formulation, rank, value=_SMALL)
            yield from starts_faulty(self.formulation, start)
        except SettingsError as error:
            adalora = "; use formulation 'real' with init_weights='adalora'" if self.init_weights == "adalora" else ""
            yield f"{error}{_ONLY_SMALL if self.normalized else adalora}"


def pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with a regular expression, None where nothing is."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"{pattern!r}, which is no regular expression: {error}; give names of layers, or mend it"
    return None


def _is_number(value: object) -> bool:
    # True and False are whole numbers to Python, and yes and no are easily typed into a YAML file.
    # And no float holds a whole number of 400 digits.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _as_set(names: list[str] | set[str] | str | None) -> set[str] | str | None:
    return set(names) if isinstance(names, (list, tuple)) else names


def _named(name: str, value: Any, pattern: dict[str, Any], pattern_name: str) -> Iterator[tuple[str, Any]]:
    # Every value that a layer may get: a fault in a pattern is as much a fault as one in the default.
    yield name, value
    for key, override in (pattern or {}).items():
        yield f"{pattern_name}[{key!r}]", override
