"""Trains a LoRA adapter with L_SAGE, or as usual, on groups of similar prompts.

``python -m sage.training --help`` lists the settings. Importing this package loads nothing; each
module is imported by its own name.
"""
