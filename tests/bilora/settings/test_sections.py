"""From a mapping of settings to the object they belong to."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from bilora.errors import SettingsError
from bilora.settings.sections import build_section, one_line, refuse_nulls


@dataclass(frozen=True)
class Section:
    rate: float = 0.5
    steps: int = 3
    kind: Literal["one", "two"] = "one"
    names: list[str] | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SettingsError(f"section: steps is {self.steps}, it must not be negative")


def factory(rate: float = 0.5) -> tuple[str, float]:
    return "made", rate


class Plain:
    def __init__(self, rate: float, *, steps: int = 1) -> None:
        self.given = (rate, steps)


@pytest.mark.parametrize(
    ("settings", "built"),
    [
        ({}, Section()),
        ({"rate": 2, "names": ["a"], "kind": "two"}, Section(rate=2.0, names=["a"], kind="two")),
        # As PyYAML gives numbers in scientific form.
        ({"rate": "5e-4"}, Section(rate=5e-4)),
        ({"names": None}, Section()),
    ],
)
def test_values_get_the_annotated_type(settings: dict[str, Any], built: Section) -> None:
    given = copy.deepcopy(settings)
    section = build_section(Section, settings, kind="section")
    assert section == built
    assert isinstance(section.rate, float)
    assert settings == given


@dataclass(frozen=True)
class Switch:
    power: Literal["off", "full"] = "full"
    wet: bool = True


@pytest.mark.parametrize("power", ["off", False])
def test_a_word_that_yaml_reads_as_a_truth_value_is_the_word_where_it_is_allowed(power: Any) -> None:
    assert build_section(Switch, {"power": power, "wet": False}, kind="switch") == Switch("off", False)


def test_the_message_says_how_such_a_word_is_written() -> None:
    said = one_line("Expected a typing.Literal['off', 'full']. Got value: False")
    assert said.endswith("Got value: False; in YAML off is a truth value unless it stands in quotes: 'off'")
    assert one_line("Expected a typing.Literal['a', 'b']. Got value: False").endswith("False")


def test_a_function_and_a_plain_class() -> None:
    assert build_section(factory, {"rate": 2.0}, kind="section") == ("made", 2.0)
    assert build_section(Plain, {"rate": 2.0}, kind="section").given == (2.0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"raet": 1.0}, r"^section has no setting 'raet'; known: kind, names, rate, steps\. Did you mean 'rate'"),
        ({"zzz": 1.0}, r"^section has no setting 'zzz'; known: kind, names, rate, steps\.$"),
        ({"rate": "far"}, "^section: rate: Expected a <class 'float'>. Got value: far"),
        ({"steps": 1.5}, "^section: steps: Expected a <class 'int'>. Got value: 1.5"),
        ({"steps": None, "rate": None}, "^section: no value for rate, steps; give one, or leave the line out"),
        ({"kind": "three"}, "^section: kind: .*'one', 'two'.* Got value: three"),
        ({"steps": -1}, "^section: steps is -1, it must not be negative$"),
    ],
)
def test_faults(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        build_section(Section, settings, kind="section")
    assert "\n" not in str(raised.value)


def test_a_missing_setting_and_one_where_there_are_none() -> None:
    with pytest.raises(SettingsError, match="plain: .*rate"):
        build_section(Plain, {}, kind="plain")
    with pytest.raises(SettingsError, match=r"has no setting 'a'; known: none\.$"):
        build_section(lambda: None, {"a": 1}, kind="section")


@dataclass(frozen=True)
class Whole:
    inside: Section
    anything: Any = None


@dataclass(frozen=True)
class Unresolved(Whole):
    other: "NotThere | None" = None  # type: ignore[name-defined]  # noqa: F821, UP037


def test_nulls_are_found_in_sections_of_sections() -> None:
    refuse_nulls(Whole, {"inside": {"rate": 1.0, "names": None}, "anything": None}, what="whole")
    for inside, name in (({"rate": None}, "inside.rate"), (None, "inside")):
        with pytest.raises(SettingsError, match=f"^whole: no value for {name}; give one"):
            refuse_nulls(Whole, {"inside": inside}, what="whole")
    # Annotations that cannot be resolved are not judged.
    refuse_nulls(Unresolved, {"inside": None}, what="whole")
