"""The trainer whose evaluations may generate: transformers' Seq2SeqTrainer on two levels."""

from dataclasses import dataclass

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from bilora.engines.trainer.arguments import BilevelTrainingArguments
from bilora.engines.trainer.trainer import BilevelTrainer


@dataclass
class BilevelSeq2SeqTrainingArguments(BilevelTrainingArguments, Seq2SeqTrainingArguments):
    """The arguments of a trainer, and those of transformers for generation: ``predict_with_generate`` and its like.

    Raises:
        SettingsError: A value is out of range, means nothing here, or two do not fit each other.

    Example:
        >>> BilevelSeq2SeqTrainingArguments("out", predict_with_generate=True).learning_rate
        0.003
    """


class BilevelSeq2SeqTrainer(BilevelTrainer, Seq2SeqTrainer):
    """Train an encoder-decoder on two levels, and evaluate and predict by generation where the arguments say so.

    ``evaluate`` and ``predict`` take ``max_length``, ``num_beams`` and the like, as those of ``Seq2SeqTrainer`` do. The
    arguments are those of :class:`~bilora.engines.trainer.trainer.BilevelTrainer`, with plain
    ``Seq2SeqTrainingArguments`` or :class:`BilevelSeq2SeqTrainingArguments` as settings.
    """
