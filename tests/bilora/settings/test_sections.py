"""From a mapping of settings to the object they belong to."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from bilora.errors import SettingsError
from bilora.settings.sections import build_section, refuse_nulls


@dataclass(frozen=True)
class Section:
    """Some settings."""

    rate: float = 0.5
    steps: int = 3
    kind: Literal["one", "two"] = "one"
    names: list[str] | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SettingsError(f"section: steps is {self.steps}, it must not be negative")


def section(rate: float = 0.5) -> tuple[str, float]:
    """Return what was given; a factory may be a function."""
    return "made", rate


class Plain:
    """A class that is no dataclass."""

    def __init__(self, rate: float, *, steps: int = 1) -> None:
        self.given = (rate, steps)


def test_nothing_given_is_the_defaults() -> None:
    assert build_section(Section, {}, kind="section") == Section()


def test_values_get_the_annotated_type() -> None:
    built = build_section(Section, {"rate": 2, "names": ["a"], "kind": "two"}, kind="section")
    assert built == Section(rate=2.0, names=["a"], kind="two")
    assert isinstance(built.rate, float)


def test_numbers_in_scientific_form_as_yaml_gives_them() -> None:
    assert build_section(Section, {"rate": "5e-4"}, kind="section").rate == 5e-4


def test_a_function_and_a_plain_class() -> None:
    assert build_section(section, {"rate": 2.0}, kind="section") == ("made", 2.0)
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


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="plain: .*rate"):
        build_section(Plain, {}, kind="plain")


def test_a_section_without_settings() -> None:
    with pytest.raises(SettingsError, match=r"has no setting 'a'; known: none\.$"):
        build_section(lambda: None, {"a": 1}, kind="section")


def test_null_where_it_is_allowed() -> None:
    assert build_section(Section, {"names": None}, kind="section").names is None


@dataclass(frozen=True)
class Outer:
    """Settings with a section of their own."""

    inside: Section
    anything: Any = None
    other: "NotThere | None" = None  # type: ignore[name-defined]  # noqa: F821, UP037


@dataclass(frozen=True)
class Whole:
    """The same, with annotations that can be resolved."""

    inside: Section
    anything: Any = None


def test_nulls_are_found_in_sections_of_sections() -> None:
    refuse_nulls(Whole, {"inside": {"rate": 1.0, "names": None}, "anything": None}, what="whole")
    with pytest.raises(SettingsError, match="^whole: no value for inside.rate; give one"):
        refuse_nulls(Whole, {"inside": {"rate": None}}, what="whole")
    with pytest.raises(SettingsError, match="^whole: no value for inside; give one"):
        refuse_nulls(Whole, {"inside": None}, what="whole")


def test_annotations_that_cannot_be_resolved_are_not_judged() -> None:
    refuse_nulls(Outer, {"inside": None}, what="outer")


def test_what_was_given_is_not_changed() -> None:
    given = {"names": ["a"], "rate": 1}
    build_section(Section, given, kind="section")
    assert given == {"names": ["a"], "rate": 1}
