"""megachar: very deep byte- and character-level language models, trained with DeepSpeed."""

__version__ = "0.1.0"
