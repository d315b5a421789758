"""Pieces of the page as HTML and words; no gradio, no models."""
