"""The tokenizer and the model of a run."""

import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from bilora.errors import BiloraError, DataError, SettingsError, first_ten
from bilora.models.embedded import embedded_model_folder, smollm2_folder
from bilora.settings.lookup import TRUST, is_told
from bilora.settings.sections import BEYOND
from bilora.tasks.task import AnyTask
from bilora.tasks.text.batches import check_fits

HUB_SECONDS = 3.0

# Padding on the left moves a row's positions, so that its answer would depend on the longest row beside it; models with
# a head over the whole text look for its last token themselves. But this one reads the last place, padding or not, and
# has relative positions.
READ_AT_THE_END = frozenset(("xlnet",))

# What a folder of a model holds, as its errors name it.
CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "tokenizer.model")

# What a config.json says of a text model, by the names that transformers has for it whatever the file calls it.
SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")

# Models that come in packages, by the name that a config gives them; a folder of that name is ``./name``.
EMBEDDED_MODELS: dict[str | None, Callable[[], Path]] = {None: embedded_model_folder, "smollm2": smollm2_folder}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that fits its model."""

    place: str  # folder or hub id of the model
    own: Any
    notices: tuple[str, ...] = ()  # what was filled in
    copied: str | None = None  # the folder to read the model's files from, where it is a copy of the place
    revision: str | None = None  # the branch, tag or commit of a hub id

    @property
    def folder(self) -> str:
        """Where the model's files are read."""
        return self.copied or self.place

    def save_filled_in(self, folder: Path) -> None:
        """Write it beside an adapter where something was filled in, which the base's own tokenizer lacks."""
        if self.notices:
            self.own.save_pretrained(str(folder))


def model_place(model: str | None) -> str:
    """Return the folder or hub id of the model that a config names."""
    embedded = EMBEDDED_MODELS.get(model)
    return str(model) if embedded is None else str(embedded())


def load_tokenizer(
    model: str | None, task: AnyTask, *, max_length: int, copied: str | None = None, revision: str | None = None
) -> Tokenizer:
    """Return a model's tokenizer, checked against the model's config before any weight is read.

    The files are read from the folder ``copied`` where it is given, and all that is written names the model's place.
    """
    named = model_place(model)
    place = copied or named
    # transformers would read the folder without a word, whatever revision it is.
    if revision is not None and os.path.isdir(named):
        raise SettingsError(f"revision is {revision!r}, which a hub id has, and {named} is a folder; leave it out")
    options = {"local_files_only": only_local(place), "trust_remote_code": False, **_revision(copied, revision)}
    # First: the tokenizer looks into this file too, and would be told as the culprit.
    with _named_failure(place, CONFIG):
        config = AutoConfig.from_pretrained(place, **options)
        if config.get_text_config().output_attentions:
            # transformers loads it, and refuses to save or merge what it has loaded.
            raise ValueError(
                "its config.json has output_attentions true, which transformers refuses with its own attention (sdpa); "
                "set it to false"
            )
        # Of a size of -1 or 10^30, torch tells in the middle of a training or not at all.
        sizes = {name: getattr(config.get_text_config(), name, None) for name in SIZES}
        if odd := [name for name, size in sizes.items() if isinstance(size, int) and not 0 < size < BEYOND]:
            raise ValueError(f"{odd[0]} is {sizes[odd[0]]}, and must be above 0 and below {BEYOND:,}")
    with _named_failure(place, *TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(place, **options, **task.tokenizer_settings)
        # Without its files transformers makes a tokenizer that knows no word.
        if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
            raise ValueError("there are no files of a tokenizer; save it there with save_pretrained")
        tokenizer.padding_side = "left" if config.model_type in READ_AT_THE_END else "right"
        notices = _fill_pad_token(tokenizer)
        # A model of pictures alone has no vocabulary to ask for.
        _set_pad_token(config, tokenizer)
    try:
        check_fits(tokenizer, config, max_length=max_length)
    except DataError as error:
        raise DataError(f"{CONFIG} of {place!r}: {error}") from error
    tokenizer.name_or_path = named
    return Tokenizer(named, tokenizer, notices, copied, revision)


def _revision(copied: str | None, revision: str | None) -> dict[str, str]:
    # A copy is of the revision already.
    return {} if copied is not None or revision is None else {"revision": revision}


@dataclass(frozen=True)
class Loaded:
    """A model, and the full names of its modules whose weights were drawn anew, which have to be trained whole."""

    model: Any
    # Not only the head: also what stands between it and the model that was trained, such as DeBERTa's pooler.
    new_modules: tuple[str, ...]
    notices: tuple[str, ...] = ()  # what of the saved model is not used


def load_model(tokenizer: Tokenizer, task: AnyTask, *, weights: bool = True) -> Loaded:
    """Return the model, with its saved head where that fits the task, else with one of torch's global random state.

    Without ``weights`` its tensors have shapes alone (torch's meta device), after all the same checks of its files.
    """
    folder = tokenizer.folder
    with _named_failure(folder, CONFIG, "model.safetensors"):
        # Weights in .bin files are pickles, which can hold code; transformers reads them as data, but not unasked.
        options: dict[str, Any] = {"trust_remote_code": False, **({} if is_told(TRUST) else {"use_safetensors": True})}
        options |= {} if weights else {"device_map": "meta"}
        options |= _revision(tokenizer.copied, tokenizer.revision)
        model, loading = task.load_model(folder, local_files_only=only_local(folder), **options)
        _refuse_torn(f"{model.base_model_prefix}.", loading)
    _set_pad_token(model.config, tokenizer.own)
    # PEFT and transformers write it into what they save.
    model.name_or_path = model.config.name_or_path = tokenizer.place
    # Mismatched: a saved head with another number of outputs, which transformers replaces by a new one.
    mismatched = {name.rpartition(".")[0]: shapes for name, *shapes in sorted(loading["mismatched_keys"])}
    drawn = {*(name.rpartition(".")[0] for name in loading["missing_keys"]), *mismatched}
    notices = tuple(
        f"the model's saved {name} is of another task: it has {next(iter(before), 1)} outputs, and {now[0]} are "
        "needed; a new one is drawn, and trained whole"
        for name, (before, now) in mismatched.items()
    )
    return Loaded(model, tuple(sorted(drawn)), notices)


def _refuse_torn(base: str, loading: Mapping[str, Any]) -> None:
    # Outside of the base is a head. Drawn anew, layers of the base itself would be trained from nothing.
    for name, saved, needed in sorted(loading["mismatched_keys"]):
        if name.startswith(base):
            sizes = f"{tuple(saved)} in its weights and {tuple(needed)} by its config.json"
            raise ValueError(f"{name} is {sizes}; they are not of one model")
    # Of the numbered ones none is left out on purpose, as the pooler of a model for tokens is.
    layers = [name for name in loading["missing_keys"] if name.startswith(base)]
    if torn := sorted(name for name in layers if any(part.isdigit() for part in name.split("."))):
        raise ValueError(f"its weights lack layers that its config.json has: {first_ten(torn)}")


def _fill_pad_token(tokenizer: Any) -> tuple[str, ...]:
    # GPT-2 and Llama were trained without padding and have no token for it; the mask hides whichever one is taken.
    if tokenizer.pad_token is not None or tokenizer.eos_token is None:
        return ()
    tokenizer.pad_token = tokenizer.eos_token
    return (f"the tokenizer has no pad token; rows are padded with its end-of-text token {tokenizer.eos_token!r}",)


def _set_pad_token(config: Any, tokenizer: Any) -> None:
    # A head over the whole text reads the last token that is not padding, so the model must know it.
    text_config = config.get_text_config()
    if text_config.pad_token_id is None:
        text_config.pad_token_id = tokenizer.pad_token_id


# Cached: tokenizer, config and weights of a model all ask, and each answer of a hub that is away takes three seconds.
@functools.cache
def only_local(place: str) -> bool:
    """Return whether a model must be on this machine: it is a folder, or the hub does not answer."""
    # Not Path, which raises for names that are too long for one.
    if os.path.isdir(place) or is_offline_mode():
        return True
    try:
        # from_pretrained tries for 23 s a file before it gives up; one short question tells sooner.
        HfApi().model_info(place, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        return False  # it did answer; what is wrong is better told by from_pretrained
    except Exception:  # the hub's clients raise classes of several libraries, which share no root
        return True
    return False


def quiet_transformers() -> None:
    """Show neither loading bars nor notes on new heads; a command's own output is what its user wants to see."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keep from the user the warnings of peft 0.21 that they can do nothing about."""
    # transformers 5 has changed a name, and GPT-2's layers hold their weights transposed, which PEFT sets right.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)
        yield


def first_line(error: Exception) -> str:
    """Return what an error of a library says first; the rest is advice for the library's own users."""
    first, *more = [line.strip() for line in str(error).strip().splitlines()] or [""]
    words = " ".join([first, *more[:1]]) if first.endswith(":") else first
    # A missing key, or an attribute, is all that some of them say.
    return words if " " in words else f"{type(error).__name__} {words}".strip()


# Not the `std::allocator` in torch's own list of calls.
NO_MEMORY = re.compile(r"allocate\b|bad_alloc")


@contextmanager
def _named_failure(place: str, *files: str) -> Iterator[None]:
    """Tell whatever fails in here as the fault of a model, with those of its ``files`` that it has here."""
    try:
        yield
    # Whatever the files of others make of transformers: its tokenizers alone raise bare Exceptions. Memory is no fault
    # of theirs, and a lack of it is told by code.
    except Exception as error:
        if isinstance(error, (BiloraError, MemoryError, torch.OutOfMemoryError)) or NO_MEMORY.search(str(error)):
            raise
        is_folder = os.path.isdir(place)
        what = "folder" if is_folder else "hub id (or missing folder)"
        held = [name for name in files if os.path.lexists(os.path.join(place, name))] or files
        read = f" (in {' or '.join(held)})" if is_folder else ""
        cure = (
            "give --model a folder saved with save_pretrained, or a hub id that this machine can reach or has in its "
            f"cache; where its weights are in .bin files alone, {TRUST} reads them"
        )
        reason = f"{first_line(error)}{read}"
        raise DataError(f"no model can be loaded from the {what} {place!r}: {reason}; {cure}") from error
