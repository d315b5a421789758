"""The page: the only folder that imports gradio and plotly; the library works without it."""
