"""Where the input and the references of a data-to-text row stand, in each of the published layouts."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from bilora.data.faults import Fault
from bilora.errors import first_ten
from bilora.tasks.generation.prompts import AsWritten, linearize_slots, linearize_triples

Reader = Callable[[Any], Any]


def read_source(row: Mapping[str, Any], *, lowercase_properties: bool) -> tuple[str | None, list[Fault]]:
    """Return the input of a row as one line, and what is wrong with it."""
    source, faults = _first(row, SOURCES, what="the input")
    if isinstance(source, list):
        return linearize_triples(source, lowercase_properties=lowercase_properties), faults
    return source, faults


def read_references(row: Mapping[str, Any]) -> tuple[list[str], list[Fault]]:
    """Return the reference texts of a row, each on one line, and what is wrong with them."""
    texts, faults = _first(row, REFERENCES, what="the references")
    return texts or [], faults


def _first(row: Mapping[str, Any], readers: Mapping[str, Reader], *, what: str) -> tuple[Any, list[Fault]]:
    names = [name for name in readers if name in row]
    if not names:
        has = first_ten(row) or "no field"
        return None, [Fault(None, f"holds {what} in no known field; known: {', '.join(readers)}; has: {has}")]
    try:
        return readers[names[0]](row[names[0]]), []
    except ValueError as error:
        return None, [Fault(names[0], str(error))]
    # A layout is nested, and a row may differ from it at any depth: one text for all of that.
    except (TypeError, KeyError, AttributeError):
        return None, [Fault(names[0], f"does not have the form of this field (see {__name__})")]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {type(value).__name__}; text is needed")
    if not value.strip():
        raise ValueError("is empty; every row needs text")
    value.encode("utf-8")  # half of a surrogate pair is no character, and an error that is a ValueError
    return " ".join(value.split())  # one line: outputs and references are written one per line


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list):
        raise ValueError(f"is {type(values).__name__}; a list of texts is needed")
    for index, text in enumerate(values, start=1):
        if not isinstance(text, str):
            raise ValueError(f"text {index} is {type(text).__name__}, not text")
    # A row without any reference cannot be scored.
    if not any(text.strip() for text in values):
        raise ValueError("has no text; every row needs one or more")
    # DART's test set has texts that are blank beside others that are not.
    return [_text(text) if text.strip() else "" for text in values]


def _triples(values: Any) -> list[list[str]]:
    if not isinstance(values, list) or not values:
        raise ValueError("is no list of triples")
    for index, triple in enumerate(values, start=1):
        if not isinstance(triple, list) or len(triple) != 3 or not all(isinstance(part, str) for part in triple):
            raise ValueError(f"triple {index} is not a list of three texts: subject, property, object")
    return [[" ".join(part.split()) for part in triple] for triple in values]


def _good(texts: list[str], comments: list[str]) -> list[str]:
    # As the LoRA paper's code does: texts that the annotators did not find good are left out.
    good = [text for text, comment in zip(texts, comments, strict=True) if comment in ("good", "")]
    if texts and not good:
        raise ValueError("has no text that is marked as good")
    return _texts(good)


def _own_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {type(value).__name__}; text is needed")
    if not value.strip():
        raise ValueError("is empty; every row needs text")
    value.encode("utf-8")
    return value


def _messages(value: Any) -> list[Mapping[str, str]]:
    if not isinstance(value, list) or not value:
        raise ValueError("is no list of messages")
    for number, message in enumerate(value, start=1):
        texts = [message.get(name) for name in ("role", "content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"message {number} has no role and content, both text")
    return value


def _prompt(value: Any) -> AsWritten:
    return AsWritten.of_messages(_messages(value)) if isinstance(value, list) else AsWritten(_own_text(value))


def _completion(value: Any) -> list[str]:
    return [_messages(value)[-1]["content"] if isinstance(value, list) else _own_text(value)]


def _before_answer(value: Any) -> AsWritten:
    # In a file to be answered the answer need not be there.
    messages = _messages(value)
    before = messages[:-1] if messages[-1]["role"] == ANSWERS else messages
    if not before:
        raise ValueError("has an answer alone; a message before it is what is answered")
    return AsWritten.of_messages(before)


def _last_answer(value: Any) -> list[str]:
    last = _messages(value)[-1]
    if last["role"] != ANSWERS:
        raise ValueError(f"ends with a message of {last['role']!r}; the last one is what {ANSWERS!r} answers")
    return [last["content"]]


# The role of the messages that a model is to write.
ANSWERS = "assistant"

_PARTS = itemgetter("subject", "property", "object")

# Fields that hold the input, and how each is read. The first that a row has counts: triples come before the one line
# that somebody made of them.
SOURCES: dict[str, Reader] = {
    "meaning_representation": lambda value: linearize_slots(_text(value)),  # E2E, on the hub and here
    "mr": lambda value: linearize_slots(_text(value)),  # E2E, the official files
    "triples": _triples,  # lists of subject, property, object
    "tripleset": _triples,  # DART
    # WebNLG, the official JSON
    "modifiedtripleset": lambda triples: _triples([list(_PARTS(triple)) for triple in triples]),
    # WebNLG, on the hub
    "modified_triple_sets": lambda value: _triples([triple.split(" | ") for triple in value["mtriple_set"][0]]),
    "source": _text,  # one line already
    "prompt": _prompt,  # one's own, as TRL reads it: text, or messages
    "messages": _before_answer,  # a conversation, of which the last message is the answer
}

# Fields that hold one reference or more, and how each is read.
REFERENCES: dict[str, Reader] = {
    "references": _texts,
    "human_reference": lambda value: [_text(value)],  # E2E, on the hub
    "ref": lambda value: [_text(value)],  # E2E, the official files
    # DART: a list of annotations in the official files, lists of their parts on the hub
    "annotations": lambda value: _texts(
        value["text"] if isinstance(value, Mapping) else [annotation["text"] for annotation in value]
    ),
    # WebNLG, the official JSON
    "lexicalisations": lambda value: _good([text["lex"] for text in value], [text["comment"] for text in value]),
    "lex": lambda value: _good(value["text"], value["comment"]),  # WebNLG, on the hub
    "completion": _completion,  # one's own
    "messages": _last_answer,
}
