"""The name of the method in PEFT's list of methods, which PEFT itself offers no way to extend."""

from typing import Any, cast

from peft import PeftType

NAME = "BILORA"


class PlainPeftType(str):
    """A stand-in for a member of ``PeftType``: a string with the attributes that PEFT and transformers read."""

    @property
    def value(self) -> str:
        """The string itself, as a member of an enum gives it."""
        return str.__str__(self)

    @property
    def name(self) -> str:
        """The string itself: PEFT names its members as their values."""
        return self.value

    def __str__(self) -> str:
        # peft.get_model_status shows what follows the point.
        return f"PeftType.{self.value}"


def peft_type(name: str) -> PeftType:
    """Return PEFT's member called ``name``, added to its enum where it is missing, or a stand-in for it."""
    # PEFT's official register_peft_method takes only names that are in the enum already, and the enum is closed
    # (peft#2273, peft#2282).
    if name in PeftType.__members__:
        return PeftType[name]
    try:
        return _add_member(name)
    except (AttributeError, TypeError):  # a Python that does not let an enum be extended
        return cast(PeftType, PlainPeftType(name))


def _add_member(name: str) -> PeftType:
    # By hand what the enum does for each line of its body.
    enum: Any = PeftType
    member = str.__new__(enum, name)
    member._name_ = member._value_ = name
    # The one step that an enum may refuse comes first, so that a refusal leaves nothing behind.
    setattr(enum, name, member)
    enum._member_names_.append(name)
    enum._member_map_[name] = member
    enum._value2member_map_[name] = member
    return cast(PeftType, member)


BILORA = peft_type(NAME)
