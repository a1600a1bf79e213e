"""Where the pre-trained model comes from."""

from bilora.models.embedded import embedded_model_folder, embedded_reviews

__all__ = ["embedded_model_folder", "embedded_reviews"]
