"""The page: the only folder that imports gradio; the library works without it."""
