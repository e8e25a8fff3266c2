"""Trainyard: trains LoRA-family networks on the checkpoint that a webui has loaded."""

__version__ = "0.1.0"
