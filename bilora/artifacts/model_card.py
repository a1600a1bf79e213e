"""The README.md of an adapter's folder, which is its model card on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

from bilora.artifacts.scored_on import UPPER, VALIDATION, WHOLE_D2
from bilora.errors import DataError
from bilora.files.formats import write_whole
from bilora.tasks.task import HubNames

# The set a score is of decides how far it can be trusted, so a card says it in words.
SCORED = {
    VALIDATION: "the first validation set",
    UPPER: f"{WHOLE_D2} and by which the best step was chosen (no row was held out)",
}
TEMPLATE = Path(__file__).with_name("model_card.jinja")


@dataclass(frozen=True)
class CardFacts:
    """The contents of a card: which adapter of which base, trained on how many rows, and how good."""

    task: str
    hub_names: HubNames | None  # of the kind of task; None where that is not known
    base: str  # folder or hub id of the model below the adapter; empty where it has no name
    method: str
    sizes: Mapping[str, int]  # rows by set, train among them
    scores: Mapping[str, float | None]  # empty where none were taken
    seed: int | None
    versions: Mapping[str, str]
    is_plain_lora: bool  # so that stock PEFT loads it
    labels: int = 0  # outputs of the model's head; 0 where the head is not a new one
    scored_on: str = VALIDATION
    has_tokenizer: bool = False  # beside the adapter, where the base's own lacks the pad token
    revision: str | None = None  # of the base on the hub; None is its newest


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown, with the block of YAML that the hub reads."""
    card = ModelCard.from_template(
        _card_data(facts),
        template_path=str(TEMPLATE),
        facts=facts,
        plain=_plain,
        upper=UPPER,
        scored=SCORED[facts.scored_on],
        run="one run" if facts.seed is None else f"one run with seed {facts.seed}",
        auto_class="AutoModel" if facts.hub_names is None else facts.hub_names.auto_class,
        base=repr(facts.base),
        revision="" if facts.revision is None else f", revision={facts.revision!r}",
    )
    return f"{str(card).rstrip()}\n"


def write_card(folder: Path, facts: CardFacts) -> None:
    """Write the card, in place of the one that PEFT wrote."""
    write_whole(folder / "README.md", model_card(facts))


def _card_data(facts: CardFacts) -> ModelCardData:
    name = _plain(facts.task)
    pipeline = None if facts.hub_names is None else facts.hub_names.pipeline
    # The hub lists results by the name of what a model does, and takes numbers alone.
    results = [
        EvalResult(pipeline, name, name, _plain(metric), value, dataset_split=facts.scored_on)
        for metric, value in facts.scores.items()
        if pipeline is not None and value is not None
    ]
    return ModelCardData(
        # A folder is no name that the hub could follow, and it would refuse the card.
        base_model=facts.base if facts.base and not Path(facts.base).is_dir() else None,
        library_name="peft",
        tags=["bilora", "lora"],
        pipeline_tag=pipeline,
        # huggingface_hub asks for a name as soon as there are results.
        model_name=f"{name}: {_plain(facts.method)} adapter" if results else None,
        eval_results=results or None,
    )


def _plain(text: str) -> str:
    # One cell of a table and no markup, whatever a user calls a task or a metric.
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def push_to_hub(folder: Path, *, repository: str) -> str:
    """Upload an adapter's folder, card included, and return its address; a new repository is private."""
    api = HfApi()
    try:
        # Private: what is public for a minute may be copied, and its owner can open it at any time.
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Upload adapter")
    except Exception as error:  # the hub's clients raise classes of several libraries, which share no root
        raise DataError(
            f"{folder} was not uploaded to {repository!r} ({type(error).__name__}: {' '.join(str(error).split())}); it "
            "is whole on this machine: log in with 'hf auth login', or give another --hub-model-id"
        ) from error
    return f"{api.endpoint}/{repository}"
